"""What a delivery lets the platform compute: counts of its rows in, findings in words out.

Reading a delivery belongs to `extract/survey.py`, printing to the command line; no id and no delivered value is known here.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Literal

Can = Literal["yes", "partly", "no"]
_NAMES_SHOWN = 3


@dataclass
class Course:
    """Counts of one presentation. `moves`: change of the cohort's size by course day; days count from `starts_on`."""

    course_id: str
    starts_on: date
    is_start_delivered: bool
    length_days: int
    enrollments: int = 0
    unknown_outcomes: int = 0
    dated_registrations: int = 0
    moves: Counter[int] = field(default_factory=Counter)
    assessments: int = 0
    dated_assessments: int = 0
    click_rows: int = 0
    timed_click_rows: int = 0
    first_click_day: int | None = None

    @property
    def ends_on(self) -> date:
        return self.starts_on + timedelta(days=self.length_days)

    @property
    def middle_on(self) -> date:
        return self.starts_on + timedelta(days=self.length_days // 2)

    def sizes(self) -> dict[date, int]:
        """The cohort at the end of each day on which the course runs, as int_enrollments_selected.sql counts it."""
        size = sum(change for day, change in self.moves.items() if day < 0)
        found = {}
        for day in range(self.length_days + 1):
            size += self.moves.get(day, 0)
            found[self.starts_on + timedelta(days=day)] = size
        return found


@dataclass(frozen=True)
class FileCount:
    """Counts of one delivered file."""

    name: str
    is_required: bool
    landed: int
    loaded: int
    quarantined: int


@dataclass
class BrokenRule:
    """A rule that records of a file broke: how many, the first record numbers, the shape of the first one's value."""

    file: str
    column: str | None
    rule: str
    remedy: str
    masked_value: str | None
    rows: int = 0
    first_rows: list[int] = field(default_factory=list)


@dataclass
class Survey:
    """What a delivery holds, in counts. `unlisted`, `empty`: rows of studentInfo.csv by quasi-identifier;
    `unlisted_click_rows`: on sites that vle.csv does not list for their course; `suites`: file -> sentences of its broken
    expectations."""

    delivered_on: date
    is_full: bool
    missing: tuple[str, ...] = ()
    files: list[FileCount] = field(default_factory=list)
    broken: list[BrokenRule] = field(default_factory=list)
    suites: dict[str, tuple[str, ...]] = field(default_factory=dict)
    courses: list[Course] = field(default_factory=list)
    startless_courses: int = 0
    enrollments: int = 0
    unlisted: dict[str, int] = field(default_factory=dict)
    empty: dict[str, int] = field(default_factory=dict)
    unlisted_click_rows: int = 0
    submissions: int = 0
    unmarked_submissions: int = 0


@dataclass(frozen=True)
class Limits:
    """What decides beside the data: settings, and what the stages ask for."""

    today: date
    first_as_of: date
    k: int
    rows_to_fit: int
    warm_up_days: int


@dataclass(frozen=True)
class Finding:
    """Whether something can be computed, and why not."""

    can: Can
    subject: str
    sentence: str


@dataclass(frozen=True)
class Calendar:
    """`as_of_on`: the day to look at first, None where no day up to today has a cohort; `next_on`: the first later one
    then; `cohort`, `scorable`: enrollments that day, and at most how many of them can get a level."""

    as_of_on: date | None
    next_on: date | None
    cohort: int
    scorable: int


def refuse(survey: Survey) -> list[str]:
    """Why the delivery would not be accepted, a sentence each; empty where it would."""
    found = []
    unfilled = [f.name for f in survey.files if f.is_required and not f.landed]
    if unfilled and survey.is_full:
        holds = "hold a header line and no record" if len(unfilled) > 1 else "holds a header line and no record"
        found.append(f"there are no rows yet: {_join(unfilled)} {holds}; fill in a record per line")
    for file, sentences in survey.suites.items():
        count = next((f for f in survey.files if f.name == file), None)
        if file in unfilled:
            continue
        if count and not count.loaded and count.landed:
            found.append(
                f"{file}: all {_count(count.landed, 'record')} would go to quarantine, so nothing is left to load"
            )
        else:
            found += [f"{file} as a whole breaks a rule of expectations/raw: {sentence}" for sentence in sentences]
    return found


def plan_days(survey: Survey, limits: Limits) -> Calendar:
    """Which as-of day to try first: the day of delivery while courses run, else one on which most can be scored in mid-term."""
    cohort: Counter[date] = Counter()
    scorable: Counter[date] = Counter()
    ripe: Counter[date] = Counter()
    for course in survey.courses:
        for day, size in course.sizes().items():
            if size >= limits.k:
                cohort[day] += size
                on = (day - course.starts_on).days
                if course.first_click_day is not None and on >= max(course.first_click_day, limits.warm_up_days):
                    scorable[day] += size
                    ripe[day] += size if day >= course.middle_on else 0
    come = [day for day in cohort if limits.first_as_of <= day <= limits.today]
    if not come:
        return Calendar(None, min((day for day in cohort if day > limits.today), default=None), 0, 0)
    newest = min(limits.today, survey.delivered_on)
    # of later days the delivery knows nothing but the calendar
    days = [day for day in come if day <= newest] or come
    chosen = max(days, key=lambda day: (ripe[day], scorable[day], cohort[day], day))
    if newest in days and (scorable[newest] >= limits.rows_to_fit or not any(scorable.values())):
        chosen = newest
    return Calendar(chosen, None, cohort[chosen], scorable[chosen])


def find(survey: Survey, calendar: Calendar, limits: Limits) -> list[Finding]:
    """What can be computed from a delivery that would be accepted, in the order of the stages."""
    if not survey.is_full:
        return [*_find_quarantined(survey), Finding(
            "partly", "increment", "it adds to deliveries that landed before, which are not looked at here: what can be "
            "computed follows from all of them together, and so does whether a row's course, assessment and student are known")]  # fmt: skip
    return [
        *_find_quarantined(survey), *_find_cohorts(survey), *_find_starts(survey), *_find_activity(survey),
        *_find_coursework(survey), *_find_outcomes(survey), *_find_demographics(survey),
        *_find_published(survey, limits), *_find_scored(calendar, limits),
    ]  # fmt: skip


def _find_quarantined(survey: Survey) -> Iterator[Finding]:
    bad, landed = (sum(getattr(f, name) for f in survey.files) for name in ("quarantined", "landed"))
    if bad:
        sentence = f"{bad:,} of {_count(landed, 'record')} would go to raw/quarantine and count in nothing; see above"
        yield Finding("partly", "records", sentence)
    else:
        yield Finding("yes", "records", f"all {_count(landed, 'record')} can be loaded")


def _find_cohorts(survey: Survey) -> Iterator[Finding]:
    dated = sum(c.dated_registrations for c in survey.courses)
    undated = survey.enrollments - dated
    if not dated:
        yield Finding("no", "cohorts", "no enrollment has a date_registration, so nobody is ever in a cohort")
    elif undated:
        sentence = (f"{undated:,} of {_count(survey.enrollments, 'enrollment')} have no date_registration, or no record in "
                    "studentRegistration.csv, and are never in a cohort")  # fmt: skip
        yield Finding("partly", "cohorts", sentence)
    else:
        yield Finding("yes", "cohorts", f"all {_count(survey.enrollments, 'enrollment')} have a day of registration")


def _find_starts(survey: Survey) -> Iterator[Finding]:
    if survey.startless_courses:
        sentence = (f"{_count(survey.startless_courses, 'course')} left out, with all records that refer to them: neither "
                    "presentation_starts_on is delivered nor is the code like 2013B or 2013J")  # fmt: skip
        yield Finding("partly", "first days", sentence)
    derived = [c.course_id for c in survey.courses if not c.is_start_delivered]
    if derived:
        sentence = (f"{len(derived)} of {_count(len(survey.courses), 'course')} come without presentation_starts_on: B is taken as "
                    f"1 February and J as 1 October, which may be weeks off ({_join(derived)})")  # fmt: skip
        yield Finding("partly", "first days", sentence)
    elif not survey.startless_courses:
        yield Finding("yes", "first days", "every course comes with its first day")


def _find_activity(survey: Survey) -> Iterator[Finding]:
    if "studentVle.csv" in survey.missing or not any(c.click_rows for c in survey.courses):
        why = "was not delivered" if "studentVle.csv" in survey.missing else "has no row that can be loaded"
        yield Finding("no", "activity", f"studentVle.csv {why}: nothing is known of activity, no model can be fitted, and "
                      "every risk level will be UNKNOWN")  # fmt: skip
        return
    dark = [c.course_id for c in survey.courses if not c.click_rows]
    if dark:
        yield Finding("partly", "activity", f"{len(dark)} of {_count(len(survey.courses), 'course')} have no click row: "
                      f"their students are not taken as inactive, their level will be UNKNOWN ({_join(dark)})")  # fmt: skip
    else:
        yield Finding("yes", "activity", "every course has click rows")
    yield from _find_times([c for c in survey.courses if c.click_rows])
    if "vle.csv" in survey.missing:
        yield Finding("no", "kinds of material", "vle.csv was not delivered: every click counts as `other`, and the share "
                      "of a course's materials that a student has seen is unknown")  # fmt: skip
    elif survey.unlisted_click_rows:
        of = sum(c.click_rows for c in survey.courses)
        yield Finding("partly", "kinds of material", f"{survey.unlisted_click_rows:,} of {_count(of, 'click row')} are on sites "
                      "that vle.csv does not list for their course, and count as `other`")  # fmt: skip
    else:
        yield Finding("yes", "kinds of material", "vle.csv lists every site that was clicked")


def _find_times(observed: list[Course]) -> Iterator[Finding]:
    untimed = [c.course_id for c in observed if not c.timed_click_rows]
    clicks, timed = sum(c.click_rows for c in observed), sum(c.timed_click_rows for c in observed)
    if not timed:
        yield Finding("no", "time of day", "no click row has a clicked_at: sessions, logins, minutes spent and the time of "
                      "day are unknown; active days and clicks are not affected")  # fmt: skip
    elif timed < clicks:
        courses = f"; {_count(len(untimed), 'course')} without any ({_join(untimed)})" if untimed else ""
        yield Finding("partly", "time of day", f"{clicks - timed:,} of {_count(clicks, 'click row')} have no clicked_at, "
                      f"and count in no session, login or time of day{courses}")  # fmt: skip
    else:
        yield Finding("yes", "time of day", "every click row has its time, so sessions and logins are known")


def _find_coursework(survey: Survey) -> Iterator[Finding]:
    assessments, dated = (
        sum(getattr(c, name) for c in survey.courses) for name in ("assessments", "dated_assessments")
    )
    without = [c.course_id for c in survey.courses if not c.assessments]
    if not assessments:
        why = "was not delivered" if "assessments.csv" in survey.missing else "has no assessment beside exams"
        yield Finding("no", "deadlines", f"assessments.csv {why}: nothing is ever due, late or missed")
    elif without or dated < assessments:
        courses = f"{len(without)} of {_count(len(survey.courses), 'course')} have no assessment ({_join(without)})"
        undated = (f"{assessments - dated:,} of {_count(assessments, 'assessment')}, exams aside, have no date and are "
                   "due on the last day of the course")  # fmt: skip
        yield Finding("partly", "deadlines", "; ".join([courses] * bool(without) + [undated] * (dated < assessments)))
    else:
        yield Finding("yes", "deadlines", f"{_count(assessments, 'assessment')}, exams aside, with their cut-off days")
    if not survey.submissions:
        trap = ": no assessment is ever due, for nothing is due that nobody is known to have submitted"
        why = "was not delivered" if "studentAssessment.csv" in survey.missing else "has no row that can be loaded"
        yield Finding("no", "submissions and scores", f"studentAssessment.csv {why}{trap if assessments else ''}")
    elif survey.unmarked_submissions:
        yield Finding("partly", "submissions and scores", f"{survey.unmarked_submissions:,} of "
                      f"{_count(survey.submissions, 'submission')} have no score; they count as made, and in no mean")  # fmt: skip
    else:
        yield Finding("yes", "submissions and scores", f"{_count(survey.submissions, 'submission')}, each with a score")


def _find_outcomes(survey: Survey) -> Iterator[Finding]:
    ended = [c for c in survey.courses if c.ends_on <= survey.delivered_on]
    unknown, of = (sum(getattr(c, name) for c in ended) for name in ("unknown_outcomes", "enrollments"))
    if unknown:
        can: Can = "no" if unknown == of else "partly"
        yield Finding(can, "outcomes", f"{unknown:,} of {_count(of, 'enrollment')} in courses that had ended have no "
                      "final_result; risk needs none, only a comparison of levels with outcomes does")  # fmt: skip
    elif ended:
        yield Finding(
            "yes", "outcomes", f"all {_count(of, 'enrollment')} in courses that had ended have a final_result"
        )
    else:
        yield Finding("yes", "outcomes", "no course had ended, so none is expected yet")


def _find_demographics(survey: Survey) -> Iterator[Finding]:
    unlisted = [f"{name} ({rows:,})" for name, rows in survey.unlisted.items() if rows]
    empty = [f"{name} ({rows:,})" for name, rows in survey.empty.items() if rows]
    gaps = f"; empty ones are published as unknown: {', '.join(empty)}" if empty else ""
    if survey.enrollments and all(rows == survey.enrollments for rows in survey.empty.values()):
        yield Finding("no", "demographics", "none are delivered, and all are published as unknown; levels need none")
    elif unlisted:
        yield Finding("partly", "demographics", "values that no hierarchy of privacy/kanonymity.py lists are published as * "
                      f"(rows): {', '.join(unlisted)}{gaps}; levels need none")  # fmt: skip
    else:
        yield Finding("yes", "demographics", f"every value is one that the wall can generalize{gaps}")


def _find_published(survey: Survey, limits: Limits) -> Iterator[Finding]:
    small = [c.course_id for c in survey.courses if max(c.sizes().values()) < limits.k]
    if small:
        can: Can = "no" if len(small) == len(survey.courses) else "partly"
        yield Finding(can, "publication", f"{len(small)} of {_count(len(survey.courses), 'course')} never have {limits.k} students at "
                      f"once (privacy.k) and are withheld from everything past the wall ({_join(small)})")  # fmt: skip
    else:
        yield Finding(
            "yes", "publication", f"every course reaches the {limits.k} students that it is published with (privacy.k)"
        )


def _find_scored(calendar: Calendar, limits: Limits) -> Iterator[Finding]:
    if calendar.as_of_on is None:
        when = f"; the first day that does is {calendar.next_on}" if calendar.next_on else ""
        yield Finding("no", "risk levels", f"no day from {limits.first_as_of} (institution.first_as_of) through today, "
                      f"{limits.today}, finds a course with {limits.k} students{when}")  # fmt: skip
    elif calendar.scorable < limits.rows_to_fit:
        yield Finding("no", "risk levels", f"on {calendar.as_of_on} at most {_count(calendar.scorable, 'enrollment')} would have the "
                      f"activity data that a level needs, and a first model needs {limits.rows_to_fit}: every level will be UNKNOWN, unless "
                      "a model was promoted before")  # fmt: skip
    else:
        rest = "; the others are UNKNOWN" if calendar.scorable < calendar.cohort else ""
        yield Finding("yes", "risk levels", f"on {calendar.as_of_on}, for at most {calendar.scorable:,} of "
                      f"{_count(calendar.cohort, 'enrollment')}{rest}")  # fmt: skip


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _join(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
