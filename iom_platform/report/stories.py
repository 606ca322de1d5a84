"""Example students as short stories, chosen by stated rules, so that a reader sees what a level rests on.

No story holds a pseudonym, an id or a demographic; it still describes one person, so the page is for those who may see rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iom_platform.report.levels import KEY, KNOWN

if TYPE_CHECKING:
    import pandas as pd

HIGHEST = "Of all students at HIGH, the one with the highest score."
RISEN = "Of all students whose level rose in the last week, the one whose score rose most."
DECLINING = (
    "No other student's level is known to have risen in the last week. Of all students at MEDIUM, the one whose clicks "
    "fell most against the student's own earlier level."
)
TYPICAL = "Of all students at LOW, the one whose active days of the last four weeks lie nearest the middle of the same course."


@dataclass(frozen=True)
class Story:
    """One enrollment; `weeks` has course_week, days_elapsed, active_days and course_median, empty where not known."""

    title: str
    rule: str
    course_id: str
    course_week: int
    level: str
    level_before: str | None
    reasons: tuple[str, ...]
    submissions_missed: int
    submissions_due: int
    weeks: pd.DataFrame


def choose_stories(
    risk: pd.DataFrame, before: pd.DataFrame, terms: pd.DataFrame, weeks: pd.DataFrame
) -> tuple[Story, ...]:
    """Up to three stories: HIGH with the highest score, one that rose (else a MEDIUM in decline), a typical LOW.

    risk, before: risk rows of the day and of a week earlier; terms: the day's rows of anonymized/student_term;
    weeks: of anonymized/student_week. Among equals the first in key order is taken, so the same rows tell the same stories.
    """
    columns = ["active_days_last_28_days", "peer_active_days_last_28_days_median", "clicks_14d_to_history"]
    rows = risk.merge(terms[[*KEY, *columns]], on=KEY, how="left", validate="one_to_one")
    earlier = before[[*KEY, "risk_level", "risk_score"]]
    rows = rows.merge(earlier, on=KEY, how="left", suffixes=("", "_before"), validate="one_to_one")
    rows = rows.sort_values(KEY, ignore_index=True)
    return tuple(_tell(title, rule, row, weeks) for title, rule, row in _choose(rows))


def _choose(rows: pd.DataFrame) -> Iterator[tuple[str, str, Any]]:
    high = _first(rows[rows["risk_level"] == "HIGH"], -rows["risk_score"])
    if high is not None:
        yield "The highest score", HIGHEST, rows.loc[high]
        rows = rows.drop(index=high)
    rank = {level: place for place, level in enumerate(KNOWN)}
    rose = rows[rows["risk_level"].map(rank) > rows["risk_level_before"].map(rank)]
    risen = _first(rose, rose["risk_score_before"] - rose["risk_score"])
    declining = _first(rows[rows["risk_level"] == "MEDIUM"], rows["clicks_14d_to_history"])
    if risen is not None:
        yield "A level that rose", RISEN, rows.loc[risen]
    elif declining is not None:
        yield "Activity that fell", DECLINING, rows.loc[declining]
    distance = (rows["active_days_last_28_days"] - rows["peer_active_days_last_28_days_median"]).abs()
    typical = _first(rows[rows["risk_level"] == "LOW"], distance)
    if typical is not None:
        yield "A student at LOW, for comparison", TYPICAL, rows.loc[typical]


def _first(rows: pd.DataFrame, order: pd.Series) -> Any:
    """The index of the row that comes first in that order, None where none has a value; a tie goes to the first row."""
    values = order.loc[rows.index].astype("float64").dropna()
    return None if values.empty else values.idxmin()


def _tell(title: str, rule: str, row: Any, weeks: pd.DataFrame) -> Story:
    before = row["risk_level_before"]
    return Story(
        title=title,
        rule=rule,
        course_id=str(row["course_id"]),
        course_week=int(row["course_week"]),
        level=str(row["risk_level"]),
        level_before=before if isinstance(before, str) else None,
        reasons=tuple(row[f"reason_{n}"] for n in (1, 2, 3) if isinstance(row[f"reason_{n}"], str)),
        submissions_missed=int(row["submissions_missed"]),
        submissions_due=int(row["submissions_due"]),
        weeks=_weeks_beside_course(row, weeks),
    )


def _weeks_beside_course(row: Any, weeks: pd.DataFrame) -> pd.DataFrame:
    course = weeks[(weeks["course_id"] == row["course_id"]) & weeks["active_days"].notna()]
    median = course.groupby("course_week")["active_days"].median().rename("course_median")
    own: pd.DataFrame = course[course["student_pseudonym"] == row["student_pseudonym"]]
    own = own[["course_week", "days_elapsed", "active_days"]].merge(median, on="course_week")
    return own.sort_values("course_week", ignore_index=True)
