"""Draws the twin's students and their enrollments: demographics, archetype, days of registration, outcome.

What they click and submit lies in events.py; files lie in synthetic.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iom_platform.extract.twin import archetypes
from iom_platform.extract.twin.archetypes import ARCHETYPES, OUTCOMES
from iom_platform.extract.twin.calendar import Presentation

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
NEVER = 10_000  # a day that no presentation reaches
_NEVER_ACTIVE = -NEVER  # as the last active day
_DEMOGRAPHICS: dict[str, Mapping[str, float]] = {
    "gender": archetypes.GENDER, "region": archetypes.REGION, "highest_education": archetypes.HIGHEST_EDUCATION,
    "imd_band": archetypes.IMD_BAND, "age_band": archetypes.AGE_BAND, "disability": archetypes.DISABILITY,
}  # fmt: skip
_FADES = np.array([a.fades for a in ARCHETYPES])


@dataclass(frozen=True)
class TwinKnobs:
    """What may be turned without editing the generator; the defaults are OULAD's.

    A later capability (drift between terms, bias by group, effects of interventions) adds its knob here, with a
    default that changes nothing, and draws from a random stream of its own, so that older twins keep their bytes.

    enrollments_per_student   mean, 1-2; no student has more than two
    presentations_per_module  mean, from 1: one of them runs on the layout day, so fewer of each mean more that run
    archetype_shares          of enrollments, in the order of ARCHETYPES; 0 is an archetype that there is not
    activity_level            factor on the chance of an active day
    diligence_effect          how strongly a student's own diligence, a standard normal, shifts the log-odds of failing
    vacation_activity         factor on activity in vacations, 0-1
    fade_half_life_days       how fast a fading student's activity halves after the onset
    fade_floor                share of activity that stays, 0-1
    late_registration_share   registrations after day 0, 0-1
    lost_registration_share   withdrawals before the start whose registration day was lost (`?`), 0-1
    """

    enrollments_per_student: float = 32_593 / 28_785
    presentations_per_module: float = 22 / 6
    archetype_shares: tuple[float, ...] = tuple(a.share for a in ARCHETYPES)
    activity_level: float = 1.0
    diligence_effect: float = 0.5
    vacation_activity: float = 0.25
    fade_half_life_days: float = 9.0
    fade_floor: float = 0.06
    late_registration_share: float = 0.02
    lost_registration_share: float = 0.015


@dataclass(frozen=True)
class Students:
    """Each attribute of every student: `codes[name]` indexes into `labels[name]`."""

    ids: IntArray
    codes: dict[str, npt.NDArray[np.int8]]
    labels: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Enrollments:
    """The enrollments of one presentation, arrays of one length; days count from its start.

    student: row in Students. registration, unregistration, last_active, onset: NEVER where there is none.
    risk: probability of Fail or Withdrawn given archetype and diligence. outcome: index into OUTCOMES.
    """

    student: IntArray
    archetype: IntArray
    diligence: FloatArray
    risk: FloatArray
    outcome: IntArray
    registration: IntArray
    is_registration_lost: npt.NDArray[np.bool_]
    unregistration: IntArray
    last_active: IntArray
    onset: IntArray
    previous_attempts: IntArray
    studied_credits: IntArray

    def __len__(self) -> int:
        return len(self.student)

    def select(self, rows: slice | npt.NDArray[np.bool_]) -> "Enrollments":
        return Enrollments(**{name: values[rows] for name, values in vars(self).items()})


def deal(rng: np.random.Generator, weights: Mapping[str, float] | FloatArray, count: int) -> IntArray:
    """`count` shuffled indexes in the proportions of `weights`, off by at most one: shares hold at small sizes."""
    shares = np.array(list(weights.values()) if isinstance(weights, Mapping) else weights, dtype=float)
    bounds = np.round(np.cumsum(shares) / shares.sum() * count).astype(np.int64)
    return rng.permutation(np.repeat(np.arange(len(shares)), np.diff(bounds, prepend=0)))


def draw_students(rng: np.random.Generator, count: int) -> Students:
    """`count` students with distinct ids; demographics are dealt to the published marginals."""
    ids = 100_000 + rng.permutation(3 * count)[:count]
    codes = {name: deal(rng, weights, count).astype(np.int8) for name, weights in _DEMOGRAPHICS.items()}
    return Students(ids, codes, {name: tuple(weights) for name, weights in _DEMOGRAPHICS.items()})


def assign_presentations(
    rng: np.random.Generator, count: int, presentations: tuple[Presentation, ...], knobs: TwinKnobs
) -> list[IntArray]:
    """Rows of the students of each presentation: everybody has one, some a second and different one."""
    first = deal(rng, np.array([p.size for p in presentations]), count)
    extra = round(count * (knobs.enrollments_per_student - 1))
    again = rng.permutation(count)[:extra]
    second = (first[again] + rng.integers(1, len(presentations), size=extra)) % len(presentations)
    student = np.concatenate([np.arange(count), again])
    where = np.concatenate([first, second])
    order = np.lexsort((student, where))
    return np.split(student[order], np.searchsorted(where[order], np.arange(1, len(presentations))))


def draw_enrollments(
    rng: np.random.Generator, student: IntArray, presentation: Presentation, knobs: TwinKnobs
) -> Enrollments:
    """The enrollments of `student` in one presentation: who they are, when they come and go, how it ends."""
    count, length = len(student), presentation.length_days
    archetype = deal(rng, np.array(knobs.archetype_shares), count)
    diligence = rng.standard_normal(count)
    risk, outcome = _draw_outcomes(rng, archetype, diligence, knobs)
    registration = _draw_registrations(rng, count, knobs)
    onset = np.where(_FADES[archetype], (length * (0.06 + 0.6 * rng.beta(1.4, 2.6, count))).astype(np.int64), NEVER)
    quits = outcome == OUTCOMES.index("Withdrawn")
    unregistration, is_early = _draw_unregistrations(rng, archetype, registration, onset, length)
    unregistration = np.where(quits, unregistration, NEVER)
    silent_days = rng.integers(0, 15, count)
    last_active = np.where(quits, np.minimum(unregistration - 1 - silent_days, length), length)
    is_lost = quits & is_early & (rng.random(count) < knobs.lost_registration_share)
    last_active[is_lost] = _NEVER_ACTIVE
    onset[onset >= unregistration] = NEVER
    return Enrollments(
        student=student, archetype=archetype, diligence=diligence, risk=risk, outcome=outcome,
        registration=registration, is_registration_lost=is_lost, unregistration=unregistration,
        last_active=last_active, onset=onset,
        previous_attempts=deal(rng, archetypes.PREVIOUS_ATTEMPTS, count),
        studied_credits=np.array([int(c) for c in archetypes.STUDIED_CREDITS])[
            deal(rng, archetypes.STUDIED_CREDITS, count)
        ],
    )  # fmt: skip


def _draw_outcomes(
    rng: np.random.Generator, archetype: IntArray, diligence: FloatArray, knobs: TwinKnobs
) -> tuple[FloatArray, IntArray]:
    table = np.array([a.outcomes for a in ARCHETYPES])
    passing, distinction, fail, withdrawn = table[archetype].T
    base = fail + withdrawn
    # logistic-normal: stretching the log-odds by this factor keeps the archetype's mean where it was
    stretch = np.sqrt(1 + np.pi * knobs.diligence_effect**2 / 8)
    log_odds = stretch * np.log(base / (1 - base)) - knobs.diligence_effect * diligence
    risk = 1 / (1 + np.exp(-log_odds))
    bad = rng.random(len(archetype)) < risk
    split = rng.random(len(archetype))
    good_outcome = np.where(split < distinction / (passing + distinction), 1, 0)
    bad_outcome = np.where(split < withdrawn / base, 3, 2)
    return risk, np.where(bad, bad_outcome, good_outcome)


def _draw_registrations(rng: np.random.Generator, count: int, knobs: TwinKnobs) -> IntArray:
    early = -np.clip(rng.lognormal(np.log(57), 0.8, count), 1, 320).astype(np.int64)
    late = rng.integers(0, 21, count)
    return np.where(rng.random(count) < knobs.late_registration_share, late, early)


def _draw_unregistrations(
    rng: np.random.Generator, archetype: IntArray, registration: IntArray, onset: IntArray, length: int
) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """The day on which each would withdraw if they did, and whether that is before the start."""
    count = len(archetype)
    early_share = np.array([a.quits_before_start for a in ARCHETYPES])[archetype]
    is_early = (rng.random(count) < early_share) & (registration < 0)
    fraction = rng.random(count)
    before = np.minimum(registration + 1 + (fraction * (-registration)).astype(np.int64), 0)
    is_barely = archetype == len(ARCHETYPES) - 1
    within = np.where(is_barely, rng.beta(0.9, 3.0, count), rng.beta(1.2, 1.4, count))
    during = 1 + (within * (length - 6)).astype(np.int64)
    after_onset = onset + 8 + rng.gamma(2.0, 13.0, count).astype(np.int64)
    during = np.where(onset < NEVER, np.minimum(after_onset, length - 5), during)
    during = np.maximum(during, np.maximum(registration + 1, 1))
    return np.where(is_early, before, during), is_early
