"""Draws what the twin's students do: submissions and, day by day, sessions of click rows.

Everything is drawn for the whole term; cutting at the day of delivery is the writer's, so that a later delivery of
the same world keeps the past. No file is touched here.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iom_platform.extract.twin.archetypes import ACTIVITY_TYPES, ARCHETYPES
from iom_platform.extract.twin.calendar import (
    FIRST_DAY,
    Assessment,
    Presentation,
    list_assessments,
    list_weekdays,
    mark_vacations,
)
from iom_platform.extract.twin.students import Enrollments, FloatArray, IntArray, TwinKnobs

MAX_SESSION_ROWS = 50  # with gaps of 25 minutes at most, a session fits into a day
MEAN_GAP_SECONDS = 150
MAX_GAP_SECONDS = 1_500  # under the half hour at which the platform begins a new session
DAY_SECONDS = 86_400
_TYPE_BITS, _CLICK_BITS, _PLACE_BITS = 12, 10, 10
_FADED_MISSED = 0.9  # chance that a fading student misses a deadline after the onset
_FADED_SCORE = 10.0


@dataclass(frozen=True)
class Submissions:
    """Submissions in order of enrollment: rows into Enrollments and assessments; score -1 is not marked."""

    enrollment: IntArray
    assessment: IntArray
    day: IntArray
    is_banked: npt.NDArray[np.bool_]
    score: IntArray


@dataclass(frozen=True)
class Clicks:
    """Click rows in order of enrollment and time; `site` counts from the presentation's first, `second` from midnight."""

    enrollment: IntArray
    day: IntArray
    second: IntArray
    site: IntArray
    clicks: IntArray


def draw_submissions(rng: np.random.Generator, presentation: Presentation, enrollments: Enrollments) -> Submissions:
    """Submissions of a whole term: on time, late or missed by archetype and diligence; banked ones of repeaters."""
    assessments = list_assessments(presentation)
    dated = assessments[:-1]
    shape = (len(enrollments), len(dated))
    cutoff = np.array([a.cutoff_day for a in dated])
    is_computer = np.array([a.assessment_type == "CMA" for a in dated])
    kind = enrollments.archetype
    diligence = enrollments.diligence[:, None]
    has_faded = cutoff > enrollments.onset[:, None]

    missed = np.where(has_faded, _FADED_MISSED, np.array([a.missed for a in ARCHETYPES])[kind][:, None])
    is_missed = rng.random(shape) < np.clip(missed * np.exp(-0.35 * diligence), 0, 0.98)
    late = np.clip(np.array([a.late for a in ARCHETYPES])[kind][:, None] * np.exp(-0.25 * diligence), 0, 0.95)
    early_days = rng.exponential(np.where(is_computer, 8.0, 2.5), shape).astype(np.int64)
    late_days = 1 + rng.exponential(3.5, shape).astype(np.int64)
    day = cutoff + np.where(rng.random(shape) < late, late_days, -early_days)
    score = _draw_scores(rng, shape, np.array([a.score_mean for a in ARCHETYPES])[kind], enrollments.diligence)
    score = np.clip(score + 6 * is_computer - _FADED_SCORE * has_faded, 0, 100).round().astype(np.int64)
    score[rng.random(shape) < 0.001] = -1

    repeats = (
        (enrollments.previous_attempts > 0) & (rng.random(len(enrollments)) < 0.1) & ~enrollments.is_registration_lost
    )
    is_banked = repeats[:, None] & (cutoff < presentation.length_days / 2)
    day[is_banked] = -1
    first_day = np.where(is_banked, enrollments.registration[:, None], np.maximum(enrollments.registration, 0)[:, None])
    is_there = (day >= first_day) & (day < enrollments.unregistration[:, None])
    made = is_there & (is_banked | (~is_missed & (day <= enrollments.last_active[:, None])))
    row, column = np.nonzero(made)
    regular = Submissions(row, column, day[made], is_banked[made], score[made])
    return _join(regular, _draw_exam(rng, assessments[-1], len(dated), enrollments))


def _draw_scores(
    rng: np.random.Generator, shape: tuple[int, int], mean: FloatArray, diligence: FloatArray
) -> FloatArray:
    return np.asarray((mean + 5 * diligence)[:, None] + rng.normal(0, 12, shape))


def _draw_exam(rng: np.random.Generator, exam: Assessment, column: int, enrollments: Enrollments) -> Submissions:
    """The exam is what decides the outcome, so its score follows the outcome; a part of those who fail sits it."""
    # in the order of OUTCOMES
    floor = np.array([40, 85, 5, 0])[enrollments.outcome]
    width = np.array([45, 16, 35, 1])[enrollments.outcome]
    chance = np.array([1.0, 1.0, 0.6, 0.0])[enrollments.outcome]
    score = floor + (rng.random(len(enrollments)) * width).astype(np.int64)
    row = np.flatnonzero(rng.random(len(enrollments)) < chance)
    day = np.full(len(row), exam.cutoff_day)
    return Submissions(row, np.full(len(row), column), day, np.zeros(len(row), dtype=bool), score[row])


def _join(left: Submissions, right: Submissions) -> Submissions:
    order = np.argsort(np.concatenate([left.enrollment, right.enrollment]), kind="stable")
    return Submissions(
        *(np.concatenate([a, b])[order] for a, b in zip(vars(left).values(), vars(right).values(), strict=True))
    )


def draw_clicks(
    rng: np.random.Generator,
    presentation: Presentation,
    enrollments: Enrollments,
    submissions: Submissions,
    knobs: TwinKnobs,
) -> Clicks:
    """Click rows of a whole term; a day on which work is handed in is an active day."""
    active = rng.random((len(enrollments), presentation.length_days + 1 - FIRST_DAY), dtype=np.float32)
    is_active = active < _estimate_activity(rng, presentation, enrollments, knobs)
    handed_in = ~submissions.is_banked & (submissions.day <= enrollments.last_active[submissions.enrollment])
    is_active[submissions.enrollment[handed_in], submissions.day[handed_in] - FIRST_DAY] = True
    enrollment, day = np.nonzero(is_active)
    return _draw_sessions(rng, presentation, enrollments.archetype, enrollment, day + FIRST_DAY)


def _estimate_activity(
    rng: np.random.Generator, presentation: Presentation, enrollments: Enrollments, knobs: TwinKnobs
) -> npt.NDArray[np.float32]:
    """(n_enrollments, n_days) chance of an active day; 0 outside a student's days."""
    count, kind = len(enrollments), enrollments.archetype
    day = np.arange(FIRST_DAY, presentation.length_days + 1)
    own = np.exp(0.25 * enrollments.diligence + rng.normal(0, 0.35, count) - 0.0925)
    level = knobs.activity_level * own * np.array([a.active_day_share for a in ARCHETYPES])[kind]
    habit = np.array([a.weekdays for a in ARCHETYPES])[kind] * np.exp(rng.normal(0, 0.25, (count, 7)) - 0.03)
    sigma = np.array([a.irregularity for a in ARCHETYPES])[kind][:, None]
    weeks = (day[-1] - FIRST_DAY) // 7 + 1
    mood = np.exp(sigma * rng.standard_normal((count, weeks)) - sigma**2 / 2)
    chance = (level[:, None] * habit).astype(np.float32)[:, list_weekdays(presentation)]
    chance *= mood.astype(np.float32)[:, (day - FIRST_DAY) // 7]
    chance *= _shape_term(presentation, knobs, day)[kind]
    faded_days = np.maximum(day - enrollments.onset[:, None], 0)
    chance *= np.maximum(knobs.fade_floor, np.exp2(-faded_days / knobs.fade_half_life_days)).astype(np.float32)
    chance = np.minimum(chance, np.float32(0.97))
    is_there = (day >= enrollments.registration[:, None]) & (day <= enrollments.last_active[:, None])
    return np.asarray(chance * is_there)


def _shape_term(presentation: Presentation, knobs: TwinKnobs, day: IntArray) -> npt.NDArray[np.float32]:
    """(n_archetypes, n_days) the term's course: a lively start, peaks before cut-offs, vacations, quiet before day 0."""
    course = np.where(day < 0, 0.5 * np.exp(day / 10), 0.88 + 0.75 * np.exp(-np.maximum(day, 0) / 20))
    course = course * np.where(mark_vacations(presentation), knobs.vacation_activity, 1.0)
    cutoffs = [a.cutoff_day for a in list_assessments(presentation)]
    shape = np.ones((len(ARCHETYPES), len(day)))
    for row, archetype in enumerate(ARCHETYPES):
        for cutoff in cutoffs:
            ahead = cutoff - day
            shape[row] += archetype.peak * np.where(ahead >= 0, np.exp(-ahead / archetype.peak_days), 0)
    return np.asarray(shape * course, dtype=np.float32)


def _draw_sessions(
    rng: np.random.Generator, presentation: Presentation, kind: IntArray, enrollment: IntArray, day: IntArray
) -> Clicks:
    per_day = 1 + rng.poisson(np.array([a.sessions - 1 for a in ARCHETYPES])[kind[enrollment]])
    enrollment, day = np.repeat(enrollment, per_day), np.repeat(day, per_day)
    archetype = kind[enrollment]
    rows = np.minimum(rng.geometric(1 / np.array([a.session_rows for a in ARCHETYPES])[archetype]), MAX_SESSION_ROWS)
    first = np.cumsum(rows) - rows
    gap = np.minimum(5 + rng.exponential(MEAN_GAP_SECONDS, int(rows.sum())).astype(np.int64), MAX_GAP_SECONDS)
    elapsed = np.cumsum(gap)
    begin = _draw_starts(rng, archetype)
    duration = elapsed[first + rows - 1] - elapsed[first]
    latest = DAY_SECONDS - 1 - duration
    begin = np.clip(np.minimum(begin, 2 * latest - begin), 0, latest)  # mirrored, or every night would end at 23:59:59
    second = elapsed + np.repeat(begin - elapsed[first], rows)
    enrollment, day, archetype = np.repeat(enrollment, rows), np.repeat(day, rows), np.repeat(archetype, rows)
    site, clicks = _draw_visits(rng, presentation, archetype, day, first)
    order = np.argsort((enrollment * 1_000 + day - FIRST_DAY) * DAY_SECONDS + second, kind="stable")
    return Clicks(enrollment[order], day[order], second[order], site[order], clicks[order])


def _draw_starts(rng: np.random.Generator, archetype: IntArray) -> IntArray:
    """Seconds from midnight at which sessions begin."""
    most = max(len(a.hours) for a in ARCHETYPES)
    peaks = np.array([[*a.hours, *[(0.0, 1.0, 0.0)] * (most - len(a.hours))] for a in ARCHETYPES])
    bounds = np.cumsum(peaks[:, :, 2], axis=1)
    choice = (rng.random(len(archetype))[:, None] >= bounds[archetype, :-1]).sum(axis=1)
    mean, spread = peaks[archetype, choice, 0], peaks[archetype, choice, 1]
    return np.asarray(((mean + spread * rng.standard_normal(len(archetype))) * 3600).astype(np.int64))


def _draw_visits(
    rng: np.random.Generator, presentation: Presentation, archetype: IntArray, day: IntArray, first: IntArray
) -> tuple[IntArray, IntArray]:
    """Site and clicks of each row; one draw of 32 bits serves type, place within the type and clicks."""
    bits = rng.integers(0, 2**32, size=len(day), dtype=np.uint32)
    kind = _tabulate_types()[archetype, bits >> np.uint32(32 - _TYPE_BITS)]
    kind[first[rng.random(len(first)) < 0.5]] = 0  # every second session begins at the homepage
    clicks = _tabulate_clicks()[kind, bits & np.uint32(2**_CLICK_BITS - 1)]
    place = ((bits >> np.uint32(_CLICK_BITS)) & np.uint32(2**_PLACE_BITS - 1)) / 2**_PLACE_BITS
    progress = np.clip(day / (presentation.length_days + 1), 0, 1)
    unfolds = np.array([t.unfolds for t in ACTIVITY_TYPES])[kind]
    place = np.where(unfolds, np.clip(progress + 0.24 * (place - 0.6), 0, 0.9999), place * place)
    sites = np.array([t.sites for t in ACTIVITY_TYPES])
    return (np.cumsum(sites) - sites)[kind] + (sites[kind] * place).astype(np.int64), clicks


def _tabulate_types() -> npt.NDArray[np.int8]:
    """(n_archetypes, 2**_TYPE_BITS) activity type of each value of the bits, in the archetype's proportions."""
    share = np.array([[t.row_share * a.tastes.get(t.name, 1.0) for t in ACTIVITY_TYPES] for a in ARCHETYPES])
    bounds = np.cumsum(share, axis=1) / share.sum(axis=1, keepdims=True)
    steps = (np.arange(2**_TYPE_BITS) + 0.5) / 2**_TYPE_BITS
    return np.array([np.searchsorted(b, steps) for b in bounds], dtype=np.int8)


def _tabulate_clicks() -> npt.NDArray[np.int64]:
    """(n_types, 2**_CLICK_BITS) quantiles of a geometric distribution with the type's mean."""
    steps = (np.arange(2**_CLICK_BITS) + 0.5) / 2**_CLICK_BITS
    return np.array([1 + np.log(1 - steps) // np.log(1 - 1 / t.clicks_mean) for t in ACTIVITY_TYPES], dtype=np.int64)
