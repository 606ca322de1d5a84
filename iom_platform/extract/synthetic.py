"""Writes the twin: a seeded synthetic extract of OULAD's shape and any size, whose truth lies apart from the delivery.

Who the students are and what they do is drawn in the twin_* modules; reading an extract belongs to the sources.
"""

import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iom_platform.extract.twin.archetypes import ACTIVITY_TYPES, ARCHETYPES, OUTCOMES
from iom_platform.extract.twin.calendar import (
    FIRST_DAY,
    MAX_PRESENTATIONS,
    Presentation,
    first_site,
    lay_out_presentations,
    list_assessments,
    list_days,
    list_sites,
)
from iom_platform.extract.twin.events import DAY_SECONDS, Clicks, Submissions, draw_clicks, draw_submissions
from iom_platform.extract.twin.students import (
    NEVER,
    Enrollments,
    IntArray,
    Students,
    TwinKnobs,
    assign_presentations,
    draw_enrollments,
    draw_students,
)

if TYPE_CHECKING:
    import pyarrow as pa

MINIMUM_STUDENTS = 100
# Delivered rows per student at 3,000 students or more (22 presentations) with layout_day = through; good to 3 %,
# for it moves with the vacations that the running terms have behind them. 28,785 students: OULAD's 10.66 M rows.
CLICK_ROWS_PER_STUDENT = 370
CHUNK_ENROLLMENTS = 4_096  # drawn and written at a time: bounds memory; part of the twin's identity, do not turn it
_BLOCK_ROWS = 262_144
_STUDENTS_PER_PRESENTATION = 150
TRUTH_FILE = "truth.csv"
MARK_FILE = "twin.json"

HEADERS: dict[str, tuple[str, ...]] = {
    "courses.csv": ("code_module", "code_presentation", "module_presentation_length", "presentation_starts_on"),
    "assessments.csv": ("code_module", "code_presentation", "id_assessment", "assessment_type", "date", "weight"),
    "vle.csv": ("id_site", "code_module", "code_presentation", "activity_type", "week_from", "week_to"),
    "studentInfo.csv": (
        "code_module", "code_presentation", "id_student", "gender", "region", "highest_education", "imd_band",
        "age_band", "num_of_prev_attempts", "studied_credits", "disability", "final_result",
    ),
    "studentRegistration.csv": (
        "code_module", "code_presentation", "id_student", "date_registration", "date_unregistration",
    ),
    "studentAssessment.csv": ("id_assessment", "id_student", "date_submitted", "is_banked", "score"),
    "studentVle.csv": (
        "code_module", "code_presentation", "id_student", "id_site", "date", "sum_click", "clicked_at",
    ),
}  # fmt: skip
TRUTH_HEADER = (
    "id_student", "code_module", "code_presentation", "archetype", "onset_of_disengagement_day",
    "outcome_probability_of_failing_or_withdrawing", "outcome",
)  # fmt: skip
_DELIVERY_FILE = "delivery.json"


class TwinError(ValueError):
    """The twin cannot be written; the message is one sentence with its remedy."""

    exit_code = 2


@dataclass(frozen=True)
class PresentationSummary:
    """What was delivered of one presentation; `cohort`: its enrollments on the day of delivery, 0 if it has ended."""

    course_id: str
    starts_on: date
    length_days: int
    is_running: bool
    enrollments: int
    cohort: int
    submissions: int
    click_rows: int


@dataclass(frozen=True)
class TwinSummary:
    """What was written, and where; `rows` counts the records of each delivered file."""

    path: Path
    truth_path: Path
    students: int
    seed: int
    through: date
    layout_day: date
    presentations: tuple[PresentationSummary, ...]
    rows: dict[str, int]

    @property
    def running(self) -> tuple[PresentationSummary, ...]:
        return tuple(p for p in self.presentations if p.is_running)


def write_twin(
    out: Path, *, students: int, seed: int, through: date,
    layout_day: date | None = None, truth: Path | None = None, knobs: TwinKnobs | None = None,
) -> TwinSummary:  # fmt: skip
    """Write the extract as it would be delivered at the end of the day `through` into the folder `out`.

    The world depends on students, seed, layout_day (default: through) and knobs alone: with the same layout day a
    later `through` delivers the same past and more of it. On the layout day some presentations are a third to two
    thirds through and all earlier ones have ended. `truth` (default: out's name with "-truth", beside it) gets
    truth.csv: archetype, onset, risk and final outcome of each delivered enrollment. The risk is stated for the whole
    term; who is still enrolled later on has survived a part of it.

    Same arguments, same bytes (with the same numpy). Both folders appear whole or not at all; only an earlier twin is overwritten.
    Raises TwinError.
    """
    out = Path(os.path.abspath(out))
    truth = Path(os.path.abspath(truth)) if truth is not None else out.parent / f"{out.name}-truth"
    knobs = knobs or TwinKnobs()
    layout_day = layout_day or through
    presentations = _check_arguments(students, seed, through, layout_day, knobs)
    _check_folders(out, truth)
    with _replace_folders(out, truth) as (new_out, new_truth), ExitStack() as stack:
        writer = _Writer(new_out, new_truth, through, stack)
        _write_world(writer, presentations, students, seed, knobs)
        stack.close()
        _write_json(new_out / _DELIVERY_FILE, {"delivered_on": through.isoformat(), "scope": "full"})
        mark = {"students": students, "seed": seed, "through": through.isoformat(),
                "layout_day": layout_day.isoformat(), "courses_sha256": _digest(new_out / "courses.csv")}  # fmt: skip
        _write_json(new_truth / MARK_FILE, mark)
    return TwinSummary(out, truth, students, seed, through, layout_day, tuple(writer.summaries), writer.rows)


# -- arguments and folders -----------------------------------------------------------------------------


def _check_arguments(
    students: int, seed: int, through: date, layout_day: date, knobs: TwinKnobs
) -> tuple[Presentation, ...]:
    if students < MINIMUM_STUDENTS:
        raise TwinError(f"{students} students are too few for a twin with running and ended presentations; "
                        f"ask for {MINIMUM_STUDENTS} or more")  # fmt: skip
    if seed < 0:
        raise TwinError(f"seed {seed} is negative; give a whole number from 0 on")
    if not 1 <= knobs.enrollments_per_student <= 2:
        raise TwinError(
            f"enrollments_per_student {knobs.enrollments_per_student:g} is not between 1 and 2; mend the knob"
        )
    if not knobs.presentations_per_module >= 1:
        raise TwinError(f"presentations_per_module {knobs.presentations_per_module:g} is under 1; mend the knob")
    shares = knobs.archetype_shares
    if len(shares) != len(ARCHETYPES) or min(shares) < 0 or not sum(shares) > 0:
        raise TwinError(f"archetype_shares are not {len(ARCHETYPES)} numbers from 0 on, one above 0; mend the knob")
    for name, day in (("through", through), ("layout_day", layout_day)):
        if isinstance(day, datetime) or not isinstance(day, date):
            raise TwinError(f"{name} {day!r} is no calendar day; give a datetime.date")
        if not 1900 <= day.year <= 9000:
            raise TwinError(f"{name} {day.isoformat()} lies outside the years 1900 to 9000; give a nearer day")
    enrollments = students * knobs.enrollments_per_student
    count = int(np.clip(enrollments // _STUDENTS_PER_PRESENTATION, 3, MAX_PRESENTATIONS))
    presentations = lay_out_presentations(layout_day, count, knobs.presentations_per_module)
    first = min(p.starts_on for p in presentations)
    if through < first:
        raise TwinError(f"through {through.isoformat()} lies before the first presentation starts ({first.isoformat()}); "
                        "give a later day or an earlier layout_day")  # fmt: skip
    return presentations


def _check_folders(out: Path, truth: Path) -> None:
    real_out, real_truth = out.resolve(), truth.resolve()
    if real_out == real_truth or real_out in real_truth.parents or real_truth in real_out.parents:
        raise TwinError(f"truth folder {truth} and extract folder {out} lie in one another; the truth lies apart, "
                        "so name a folder beside it")  # fmt: skip
    for folder, names in ((out, {*HEADERS, _DELIVERY_FILE}), (truth, {TRUTH_FILE, MARK_FILE})):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise TwinError(f"{folder} is a file or a link; name a folder that does not exist yet")
        found = {p.name for p in folder.iterdir()} if folder.exists() else set()
        if found and not (found <= names and _is_twin(out, truth)):
            raise TwinError(f"folder {folder} is not empty and belongs to no earlier twin of {out} and {truth}; "
                            "name another one or empty it first")  # fmt: skip


def _is_twin(out: Path, truth: Path) -> bool:
    try:
        mark = json.loads((truth / MARK_FILE).read_text(encoding="utf-8"))
        return bool(mark["courses_sha256"] == _digest(out / "courses.csv"))
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def _replace_folders(out: Path, truth: Path) -> Iterator[tuple[Path, Path]]:
    """Two empty folders beside the wanted ones; they take those names when the block ends well, else they vanish."""
    made: list[Path] = []
    try:
        for folder in (out, truth):
            folder.parent.mkdir(parents=True, exist_ok=True)
            made.append(Path(tempfile.mkdtemp(prefix=f".{folder.name}-writing-", dir=folder.parent)))
            made[-1].chmod(0o755)
        yield made[0], made[1]
        for new, folder in zip(made, (out, truth), strict=True):
            if folder.exists():
                old = new.with_name(new.name.replace("-writing-", "-old-"))
                folder.rename(old)
                try:
                    new.rename(folder)
                except OSError:
                    old.rename(folder)
                    raise
                shutil.rmtree(old)
            else:
                new.rename(folder)
    finally:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, sort_keys=True) + "\n", encoding="utf-8")


# -- the world, presentation by presentation -----------------------------------------------------------


class _Writer:
    """Open files of one twin, cut at the day of delivery; counts what it wrote."""

    def __init__(self, out: Path, truth: Path, through: date, stack: ExitStack) -> None:
        self.through = through
        self.rows = dict.fromkeys(HEADERS, 0)
        self.summaries: list[PresentationSummary] = []
        self._files: dict[str, TextIOWrapper] = {}
        for name, header in (*HEADERS.items(), (TRUTH_FILE, TRUTH_HEADER)):
            path = (truth if name == TRUTH_FILE else out) / name
            self._files[name] = stack.enter_context(path.open("w", encoding="utf-8", newline=""))
            csv.writer(self._files[name], quoting=csv.QUOTE_ALL).writerow(header)
        self._files["studentVle.csv"].flush()  # click rows go to the byte stream below it

    def write(self, name: str, rows: Iterable[tuple[object, ...]]) -> int:
        listed = list(rows)
        csv.writer(self._files[name], quoting=csv.QUOTE_ALL).writerows(listed)
        if name in self.rows:
            self.rows[name] += len(listed)
        return len(listed)

    def write_clicks(self, presentation: Presentation, ids: IntArray, clicks: Clicks) -> int:
        """Append click rows as bytes: every field comes from a small table of ready strings, joined by Arrow."""
        import pyarrow as pa
        import pyarrow.compute as pc

        code = f'"{presentation.code_module}","{presentation.code_presentation}"'
        site = first_site(presentation)
        days = list_days(presentation)
        tables = [
            pa.array([f'{code},"{i}","' for i in ids]),
            pa.array([f'{site + s}","' for s in range(sum(t.sites for t in ACTIVITY_TYPES))]),
            pa.array([f'{d}","' for d in range(FIRST_DAY, FIRST_DAY + len(days))]),
            pa.array([f'{c}","' for c in range(int(clicks.clicks.max(initial=0)) + 1)]),
            pa.array([f"{d.isoformat()}T" for d in days]),
            _tabulate_clock(),
        ]
        shifted = clicks.day - FIRST_DAY
        columns = (clicks.enrollment, clicks.site, shifted, clicks.clicks, shifted, clicks.second)
        stream = self._files["studentVle.csv"].buffer
        for begin in range(0, len(shifted), _BLOCK_ROWS):
            parts = [t.take(pa.array(c[begin : begin + _BLOCK_ROWS])) for t, c in zip(tables, columns, strict=True)]
            lines = pc.binary_join_element_wise(*parts, "")
            offsets, text = lines.buffers()[1:]
            stream.write(text.slice(0, np.frombuffer(offsets, dtype=np.int32)[len(lines)]))  # buffers may be padded
        self.rows["studentVle.csv"] += len(shifted)
        return len(shifted)


@cache
def _tabulate_clock() -> "pa.Array":
    """The end of a click row for each second of the day."""
    import pyarrow as pa

    return pa.array([f'{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}Z"\r\n' for s in range(DAY_SECONDS)])


def _write_world(
    writer: _Writer, presentations: tuple[Presentation, ...], students: int, seed: int, knobs: TwinKnobs
) -> None:
    rng = _seed_generator(seed, 0)
    people = draw_students(rng, students)
    rosters = assign_presentations(rng, students, presentations, knobs)
    for presentation, roster in zip(presentations, rosters, strict=True):
        _write_course(writer, presentation)
        enrollments = draw_enrollments(_seed_generator(seed, 1, presentation.index), roster, presentation, knobs)
        written, submissions, click_rows = 0, 0, 0
        for chunk, begin in enumerate(range(0, len(enrollments), CHUNK_ENROLLMENTS)):
            part = enrollments.select(slice(begin, begin + CHUNK_ENROLLMENTS))
            written += _write_people(writer, presentation, people, part)
            rng = _seed_generator(seed, 2, presentation.index, chunk)
            handed_in = draw_submissions(rng, presentation, part)
            submissions += _write_submissions(writer, presentation, people, part, handed_in)
            clicks = draw_clicks(rng, presentation, part, handed_in, knobs)
            click_rows += writer.write_clicks(
                presentation, people.ids[part.student], _cut(clicks, presentation, writer.through)
            )
        writer.summaries.append(
            _summarize(presentation, enrollments, writer.through, (written, submissions, click_rows))
        )


def _seed_generator(seed: int, *place: int) -> np.random.Generator:
    """A stream of its own for each place in the world, so that no part depends on how much another one drew."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=place)))


def _cut(clicks: Clicks, presentation: Presentation, through: date) -> Clicks:
    last = presentation.count_days(through)
    if last >= presentation.length_days:
        return clicks
    kept = clicks.day <= last
    return Clicks(*(values[kept] for values in vars(clicks).values()))


def _write_course(writer: _Writer, presentation: Presentation) -> None:
    code = (presentation.code_module, presentation.code_presentation)
    writer.write("courses.csv", [(*code, presentation.length_days, presentation.starts_on.isoformat())])
    writer.write("assessments.csv", [
        (*code, a.id_assessment, a.assessment_type, a.cutoff_day if a.is_dated else "?", a.weight)
        for a in list_assessments(presentation)
    ])  # fmt: skip
    writer.write("vle.csv", [(site, *code, *rest) for site, *rest in list_sites(presentation)])


def _write_people(writer: _Writer, presentation: Presentation, people: Students, part: Enrollments) -> int:
    """Enrollments registered by the day of delivery: what is known of them and, apart from it, the truth."""
    today = presentation.count_days(writer.through)
    part = part.select(part.registration <= today)
    code = (presentation.code_module, presentation.code_presentation)
    ids = people.ids[part.student].tolist()
    who = {name: [people.labels[name][c] for c in codes[part.student]] for name, codes in people.codes.items()}
    outcome = [OUTCOMES[o] for o in part.outcome]
    has_ended = today >= presentation.length_days
    left = [day if day <= today else None for day in part.unregistration.tolist()]
    result = [o if has_ended or day is not None else "?" for o, day in zip(outcome, left, strict=True)]
    writer.write("studentInfo.csv", zip(
        *([c] * len(ids) for c in code), ids, who["gender"], who["region"], who["highest_education"], who["imd_band"],
        who["age_band"], part.previous_attempts.tolist(), part.studied_credits.tolist(), who["disability"], result,
        strict=True,
    ))  # fmt: skip
    registered = [
        "?" if lost else day for lost, day in zip(part.is_registration_lost, part.registration.tolist(), strict=True)
    ]
    writer.write("studentRegistration.csv", (
        (*code, i, r, "?" if u is None else u) for i, r, u in zip(ids, registered, left, strict=True)
    ))  # fmt: skip
    writer.write(TRUTH_FILE, (
        (i, *code, ARCHETYPES[a].name, "" if onset == NEVER else onset, f"{risk:.4f}", o)
        for i, a, onset, risk, o in zip(ids, part.archetype, part.onset.tolist(), part.risk, outcome, strict=True)
    ))  # fmt: skip
    return len(ids)


def _write_submissions(
    writer: _Writer, presentation: Presentation, people: Students, part: Enrollments, made: Submissions
) -> int:
    known = made.day <= presentation.count_days(writer.through)
    assessment_ids = np.array([a.id_assessment for a in list_assessments(presentation)])[made.assessment[known]]
    ids = people.ids[part.student[made.enrollment[known]]]
    return writer.write("studentAssessment.csv", (
        (a, i, d, int(b), "?" if s < 0 else s)
        for a, i, d, b, s in zip(assessment_ids.tolist(), ids.tolist(), made.day[known].tolist(),
                                 made.is_banked[known].tolist(), made.score[known].tolist(), strict=True)
    ))  # fmt: skip


def _summarize(
    presentation: Presentation, enrollments: Enrollments, through: date, counts: tuple[int, int, int]
) -> PresentationSummary:
    today = presentation.count_days(through)
    is_running = 0 <= today <= presentation.length_days
    present = (enrollments.registration <= today) & (enrollments.unregistration > today)
    written, submissions, click_rows = counts
    return PresentationSummary(
        presentation.course_id, presentation.starts_on, presentation.length_days, is_running,
        written, int(present.sum()) if is_running else 0, submissions, click_rows,
    )  # fmt: skip


def count_students_for(click_rows: int) -> int:
    """How many students give about `click_rows` delivered click rows; see CLICK_ROWS_PER_STUDENT for how nearly."""
    return max(MINIMUM_STUDENTS, round(click_rows / CLICK_ROWS_PER_STUDENT))
