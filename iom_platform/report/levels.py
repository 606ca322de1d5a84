"""Levels of a scored day: how many per course, what moved since a week before, and why some are UNKNOWN.

What a level is belongs to `iom_platform.risk`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iom_platform.report.shares import Share
from iom_platform.risk import LEVELS, summarize_risk

if TYPE_CHECKING:
    import pandas as pd

KEY = ["student_pseudonym", "course_id"]
KNOWN = LEVELS[:3]
NEW, GONE = "not there yet", "no longer there"


@dataclass(frozen=True)
class CourseLevels:
    """Enrollments of a course per level; `high` is the share of HIGH among those that have a level."""

    course_id: str
    students: int
    counts: dict[str, int]
    high: Share


@dataclass(frozen=True)
class Movement:
    """Enrollments per level a week before (rows, `NEW` last) and on the day (columns, `GONE` last), and their sums."""

    cells: dict[str, dict[str, int]]
    rose: int
    fell: int
    stayed: int
    is_one_model: bool


def count_levels(risk: pd.DataFrame) -> tuple[CourseLevels, ...]:
    """A row per course of the day's risk rows, in order of course_id."""
    return tuple(
        _levels_of(str(row["course_id"]), {level: int(row[level]) for level in LEVELS})
        for row in summarize_risk(risk).to_dict("records")
    )


def sum_levels(courses: tuple[CourseLevels, ...]) -> CourseLevels:
    """All courses together."""
    return _levels_of("All courses", {level: sum(c.counts[level] for c in courses) for level in LEVELS})


def _levels_of(course_id: str, counts: dict[str, int]) -> CourseLevels:
    known = sum(counts[level] for level in KNOWN)
    return CourseLevels(course_id, sum(counts.values()), counts, Share(counts["HIGH"], known))


def measure_movement(risk: pd.DataFrame, before: pd.DataFrame) -> Movement | None:
    """How the levels of `before`, the risk rows of a week earlier, became those of `risk`; None where `before` is empty.

    LOW, MEDIUM and HIGH have an order; a change from or to UNKNOWN neither rises nor falls.
    """
    if before.empty:
        return None
    joined = before[[*KEY, "risk_level"]].merge(
        risk[[*KEY, "risk_level"]], on=KEY, how="outer", suffixes=("_before", "_now"), validate="one_to_one"
    )
    was, now = (joined[f"risk_level_{when}"].astype(object) for when in ("before", "now"))
    pairs = Counter(zip(was.where(was.notna(), NEW), now.where(now.notna(), GONE), strict=True))
    cells = {row: {column: pairs[row, column] for column in (*LEVELS, GONE)} for row in (*LEVELS, NEW)}
    steps = [(cells[a][b], KNOWN.index(b) - KNOWN.index(a)) for a in KNOWN for b in KNOWN]
    versions: set[Any] = set(before["model_version"].dropna()) | set(risk["model_version"].dropna())
    return Movement(
        cells=cells,
        rose=sum(n for n, step in steps if step > 0),
        fell=sum(n for n, step in steps if step < 0),
        stayed=sum(n for n, step in steps if step == 0),
        is_one_model=len(versions) <= 1,
    )


def count_unknown(risk: pd.DataFrame) -> tuple[tuple[str, int], ...]:
    """(reason, enrollments) of the UNKNOWN rows, the most frequent first."""
    reasons = risk.loc[risk["risk_level"] == "UNKNOWN", "reason_1"].value_counts()
    return tuple(sorted(((str(r), int(n)) for r, n in reasons.items()), key=lambda pair: (-pair[1], pair[0])))
