"""When the twin's courses run: presentations around a layout day, weekdays, vacations, assessments and their cut-offs.

Students and what they do lie elsewhere; everything here follows from the layout day and the count alone.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt

from iom_platform.extract.twin.archetypes import ACTIVITY_TYPES

MODULES = tuple(f"TW{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUV")  # none of OULAD's names
FIRST_DAY = -24  # sites open this many days before the start, as in OULAD
MAX_PRESENTATIONS = 22
_RUNNING_DAYS = (115, 140, 97, 150, 107, 128, 145)  # a third to two thirds of a term on the layout day
_SIZES = (1.0, 1.3, 0.8, 1.1, 0.9, 1.2, 0.7)
_LENGTHS = {"B": (240, 241, 234, 240, 241, 234, 240), "J": (268, 262, 269, 261, 268, 269, 262)}


@dataclass(frozen=True)
class Assessment:
    """One assessment; `cutoff_day` counts from the start of its presentation."""

    id_assessment: int
    assessment_type: str
    cutoff_day: int
    weight: int
    is_dated: bool = True


@dataclass(frozen=True)
class Presentation:
    """One presentation of a module; days count from `starts_on`."""

    index: int
    code_module: str
    code_presentation: str
    starts_on: date
    length_days: int
    size: float

    @property
    def course_id(self) -> str:
        return f"{self.code_module}-{self.code_presentation}"

    @property
    def ends_on(self) -> date:
        return self.starts_on + timedelta(days=self.length_days)

    def count_days(self, day: date) -> int:
        return (day - self.starts_on).days


def shift_months(day: date, months: int) -> date:
    """`day` moved by whole months, to the month's last day where it has fewer days."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    next_month = date(year + (month == 11), (month + 1) % 12 + 1, 1)
    return date(year, month + 1, min(day.day, (next_month - timedelta(days=1)).day))


def lay_out_presentations(layout_day: date, count: int, per_module: float) -> tuple[Presentation, ...]:
    """`count` presentations, about `per_module` of a module: one runs on `layout_day`, others half-years before it.

    Every term but the newest has ended on the layout day; the code is B for a start in January to June, else J.
    """
    modules = max(2, min(round(count / per_module), count - 1, len(MODULES)))
    found = []
    for index in range(count):
        term, module = divmod(index, modules)
        kind = module % len(_SIZES)
        starts_on = shift_months(layout_day - timedelta(days=_RUNNING_DAYS[kind]), -6 * term)
        half = "B" if starts_on.month <= 6 else "J"
        code = f"{starts_on.year}{half}"
        found.append(Presentation(index, MODULES[module], code, starts_on, _LENGTHS[half][kind], _SIZES[kind]))
    return tuple(found)


def list_assessments(presentation: Presentation) -> tuple[Assessment, ...]:
    """Tutor-marked ones through the term, computer-marked ones in two modules of three, and an exam near the end."""
    module = MODULES.index(presentation.code_module)
    first_id = 40_000 + presentation.index * 50
    tutor_count = 5 + module % 2
    last = presentation.length_days - 42
    tutor = np.linspace(19, last, tutor_count).round().astype(int)
    computer = np.linspace(33, last, 4).round().astype(int) if module % 3 else np.empty(0, dtype=int)
    computer_weight = 5 if len(computer) else 0
    weights = np.full(tutor_count, (100 - computer_weight * len(computer)) // tutor_count)
    weights[-1] += 100 - computer_weight * len(computer) - weights.sum()
    found = [("TMA", int(d), int(w)) for d, w in zip(tutor, weights, strict=True)]
    found += [("CMA", int(d), computer_weight) for d in computer]
    dated = [Assessment(first_id + i, kind, day, weight) for i, (kind, day, weight) in enumerate(found)]
    exam = Assessment(first_id + len(dated), "Exam", presentation.length_days - 7, 100, is_dated=module % 2 == 0)
    return (*dated, exam)


def list_sites(presentation: Presentation) -> list[tuple[int, str, str, str]]:
    """(id_site, activity_type, week_from, week_to) of each site; a third of the unfolding ones have a planned week."""
    rows = []
    weeks = presentation.length_days // 7
    number = first_site(presentation)
    for kind in ACTIVITY_TYPES:
        for i in range(kind.sites):
            week = str(i * weeks // kind.sites + 1) if kind.unfolds and i % 3 == 0 else "?"
            rows.append((number, kind.name, week, week))
            number += 1
    return rows


def first_site(presentation: Presentation) -> int:
    return 600_000 + presentation.index * 1_000


def list_days(presentation: Presentation) -> list[date]:
    """The dates of the days FIRST_DAY to the presentation's length, both included."""
    return [presentation.starts_on + timedelta(days=d) for d in range(FIRST_DAY, presentation.length_days + 1)]


def is_vacation(day: date) -> bool:
    """Two weeks around the year's end (21 December to 3 January) and ISO week 14 in spring."""
    return (day.month, day.day) >= (12, 21) or (day.month, day.day) <= (1, 3) or day.isocalendar().week == 14


def mark_vacations(presentation: Presentation) -> npt.NDArray[np.bool_]:
    return np.array([is_vacation(d) for d in list_days(presentation)])


def list_weekdays(presentation: Presentation) -> npt.NDArray[np.int64]:
    """0 is Monday."""
    return np.array([d.weekday() for d in list_days(presentation)])
