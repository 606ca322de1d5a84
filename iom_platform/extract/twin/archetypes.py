"""Who the twin's students are made of: OULAD's published marginals and six behavior archetypes with known outcomes.

Numbers only: nothing here draws, and nothing here knows a calendar or a file.
"""

from dataclasses import dataclass
from types import MappingProxyType

OUTCOMES = ("Pass", "Distinction", "Fail", "Withdrawn")

# Counts of the published set (Kuzilek, Hlosta, Zdrahal 2017, 32,593 enrollments).
OUTCOME_COUNTS = (12361, 3024, 7052, 10156)
GENDER = MappingProxyType({"M": 17875, "F": 14718})
AGE_BAND = MappingProxyType({"0-35": 22944, "35-55": 9433, "55<=": 216})
DISABILITY = MappingProxyType({"N": 29429, "Y": 3164})
HIGHEST_EDUCATION = MappingProxyType({
    "A Level or Equivalent": 14045, "Lower Than A Level": 13158, "HE Qualification": 4730,
    "No Formal quals": 347, "Post Graduate Qualification": 313,
})  # fmt: skip
# Shares in percent, rounded; "10-20" lacks its sign in the published files too, and a reader has to survive it.
IMD_BAND = MappingProxyType({
    "0-10%": 10.0, "10-20": 10.7, "20-30%": 11.2, "30-40%": 10.9, "40-50%": 10.0, "50-60%": 9.6,
    "60-70%": 8.9, "70-80%": 8.8, "80-90%": 8.5, "90-100%": 7.8, "?": 3.6,
})  # fmt: skip
REGION = MappingProxyType({
    "Scotland": 10.6, "East Anglian Region": 10.2, "London Region": 10.0, "South Region": 9.6,
    "North Western Region": 9.1, "West Midlands Region": 7.9, "South West Region": 7.5, "East Midlands Region": 7.3,
    "South East Region": 6.4, "Yorkshire Region": 6.1, "Wales": 6.1, "North Region": 5.8, "Ireland": 3.4,
})  # fmt: skip
PREVIOUS_ATTEMPTS = MappingProxyType({"0": 87.3, "1": 10.1, "2": 2.0, "3": 0.4, "4": 0.2})
STUDIED_CREDITS = MappingProxyType({
    "60": 51.0, "120": 19.0, "30": 12.5, "90": 10.5, "180": 3.0, "150": 2.5, "240": 0.8, "210": 0.7,
})  # fmt: skip


@dataclass(frozen=True)
class ActivityType:
    """One of OULAD's activity types: `sites` of a presentation, share of click rows, mean clicks of a row.

    Materials that `unfolds` are opened in step with the course; the others are visited all the time.
    """

    name: str
    sites: int
    row_share: float
    clicks_mean: float
    unfolds: bool = False


ACTIVITY_TYPES = (
    ActivityType("homepage", 1, 0.15, 3.6),
    ActivityType("forumng", 9, 0.23, 3.9),
    ActivityType("oucontent", 45, 0.22, 5.0, unfolds=True),
    ActivityType("subpage", 48, 0.13, 2.1, unfolds=True),
    ActivityType("resource", 119, 0.11, 1.4, unfolds=True),
    ActivityType("quiz", 8, 0.10, 5.8, unfolds=True),
    ActivityType("url", 40, 0.03, 1.6, unfolds=True),
    ActivityType("page", 5, 0.01, 1.6, unfolds=True),
    ActivityType("ouwiki", 3, 0.005, 4.0),
    ActivityType("oucollaborate", 4, 0.005, 1.6),
    ActivityType("questionnaire", 3, 0.004, 2.0, unfolds=True),
    ActivityType("glossary", 1, 0.003, 2.0),
    ActivityType("externalquiz", 1, 0.003, 1.8),
)


@dataclass(frozen=True)
class Archetype:
    """A known way of studying; every number is of the archetype's average student.

    share             share of enrollments, 0-1
    outcomes          probability of Pass, Distinction, Fail, Withdrawn
    quits_before_start  share of its withdrawals that happen on or before day 0, 0-1
    active_day_share  chance of an active day in an ordinary week of the middle of the term, 0-1
    weekdays          relative activity Monday to Sunday, mean 1
    irregularity      sigma of the log-normal factor of each single week (on and off weeks)
    peak              how many times busier the eve of a cut-off is than an ordinary day, minus 1
    peak_days         how many days before a cut-off that rise begins to be felt
    sessions          mean sessions of an active day (at least 1)
    session_rows      mean click rows of a session (at least 1)
    late, missed      chance that a submission is late, that it is never made, 0-1
    score_mean        mean score, 0-100
    hours             (mean, sd, share) of each daily peak of session starts, in hours UTC
    tastes            factor on the row share of an activity type
    fades             whether activity collapses from an onset day on
    """

    name: str
    share: float
    outcomes: tuple[float, float, float, float]
    quits_before_start: float
    active_day_share: float
    weekdays: tuple[float, float, float, float, float, float, float]
    irregularity: float
    peak: float
    peak_days: float
    sessions: float
    session_rows: float
    late: float
    missed: float
    score_mean: float
    hours: tuple[tuple[float, float, float], ...]
    tastes: MappingProxyType[str, float]
    fades: bool = False


# The outcome rows were raked (iterative proportional fitting), so that shares x outcomes give OUTCOME_COUNTS' shares.
ARCHETYPES = (
    Archetype(
        "steady", 0.26, (0.643, 0.161, 0.087, 0.109), 0.15, 0.41,
        (1.15, 1.2, 1.15, 1.1, 0.9, 0.65, 0.85), 0.15, 0.6, 3.0, 1.25, 4.1, 0.13, 0.04, 77.0,
        ((10.5, 2.0, 0.45), (19.5, 1.5, 0.55)), MappingProxyType({}),
    ),
    Archetype(
        "intensive", 0.12, (0.551, 0.287, 0.077, 0.085), 0.10, 0.53,
        (1.05, 1.05, 1.05, 1.05, 1.0, 0.85, 0.95), 0.20, 0.4, 3.0, 1.45, 4.3, 0.08, 0.03, 83.0,
        ((9.5, 1.8, 0.4), (14.5, 2.0, 0.3), (20.5, 1.5, 0.3)), MappingProxyType({"forumng": 1.6, "ouwiki": 2.0}),
    ),
    Archetype(
        "irregular", 0.15, (0.486, 0.064, 0.230, 0.220), 0.15, 0.25,
        (0.5, 0.45, 0.5, 0.5, 0.65, 2.2, 2.2), 0.80, 0.8, 3.0, 1.4, 5.0, 0.32, 0.15, 71.0,
        ((11.0, 2.5, 0.4), (16.0, 3.0, 0.6)), MappingProxyType({"oucontent": 1.4, "forumng": 0.6}),
    ),
    Archetype(
        "late_crammer", 0.13, (0.427, 0.045, 0.344, 0.184), 0.15, 0.14,
        (0.95, 0.95, 1.0, 1.1, 0.9, 0.95, 1.15), 0.45, 7.0, 2.0, 1.5, 5.6, 0.45, 0.15, 66.0,
        ((15.0, 3.0, 0.25), (21.3, 1.6, 0.75)), MappingProxyType({"quiz": 1.9, "resource": 1.5, "forumng": 0.5}),
    ),
    Archetype(
        "fading", 0.20, (0.077, 0.004, 0.383, 0.536), 0.08, 0.38,
        (1.15, 1.15, 1.1, 1.05, 0.85, 0.75, 0.95), 0.30, 0.8, 3.0, 1.25, 4.3, 0.24, 0.09, 66.0,
        ((13.0, 3.0, 0.4), (19.5, 2.0, 0.6)), MappingProxyType({"homepage": 1.2}), fades=True,
    ),
    Archetype(
        "barely_present", 0.14, (0.017, 0.002, 0.204, 0.777), 0.72, 0.045,
        (1.1, 1.1, 1.0, 1.0, 0.9, 0.9, 1.0), 0.80, 1.5, 2.0, 1.1, 3.4, 0.48, 0.82, 54.0,
        ((13.5, 4.0, 1.0),), MappingProxyType({"homepage": 2.2, "oucontent": 0.7, "quiz": 0.5}),
    ),
)  # fmt: skip
