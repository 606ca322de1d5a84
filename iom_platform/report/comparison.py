"""Flags against truth: how many of those flagged later fail or withdraw, beside a rule that anybody could apply.

The truth is known of the synthetic twin alone; nothing that scores reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from iom_platform.report.levels import KEY, KNOWN
from iom_platform.report.shares import Share
from iom_platform.risk import BAD_OUTCOMES

if TYPE_CHECKING:
    import pandas as pd

INACTIVE_DAYS = 7
HIGH_RULE = "Level HIGH"
SEVEN_DAY_RULE = f"No activity for {INACTIVE_DAYS} days or more"
SAME_NUMBER_RULE = "Highest scores, as many as the seven-day rule flags"


@dataclass(frozen=True)
class Flags:
    """One rule on one group: precision is of the flagged, recall of those who fail or withdraw."""

    rule: str
    precision: Share
    recall: Share

    @property
    def flagged(self) -> int:
        return self.precision.total


@dataclass(frozen=True)
class Group:
    """Enrollments of the day that share when their disengagement began, and the rules on them."""

    name: str
    ended_badly: Share
    flags: tuple[Flags, ...]


@dataclass(frozen=True)
class Comparison:
    """All enrollments with a level and a known truth first, those of each level who end badly, then the groups by onset;
    what was left out, and why.
    """

    everyone: Group
    by_level: dict[str, Share]
    by_onset: tuple[Group, ...]
    without_level: int
    without_truth: int


def flag_inactive(terms: pd.DataFrame) -> pd.Series:
    """The seven-day rule: no activity for 7 days or more, or never active in an observed course. Returns bool."""
    quiet = (terms["days_since_last_activity"] >= INACTIVE_DAYS).fillna(False).astype(bool)
    never = (terms["activity_missing_reason"] == "never_active").fillna(False).astype(bool)
    return quiet | (never & terms["is_observed"].astype(bool))


def compare_flags(risk: pd.DataFrame, terms: pd.DataFrame, truth: pd.DataFrame) -> Comparison:
    """The three rules on the enrollments that have a level, against their final outcome.

    risk: the day's risk rows; terms: of anonymized/student_term; truth: student_pseudonym, course_id, outcome and
    onset_of_disengagement_day, a course day or null where there is none. Of equal scores the first in key order is
    flagged first.
    """
    known = risk[risk["risk_level"] != "UNKNOWN"]
    columns = ["course_day", "days_since_last_activity", "activity_missing_reason", "is_observed"]
    rows = known[[*KEY, "risk_level", "risk_score"]].merge(terms[[*KEY, *columns]], on=KEY, validate="one_to_one")
    rows = rows.merge(truth, on=KEY, how="inner", validate="one_to_one").sort_values(KEY, ignore_index=True)
    rows[HIGH_RULE] = rows["risk_level"] == "HIGH"
    rows[SEVEN_DAY_RULE] = flag_inactive(rows)
    ranks = rows["risk_score"].rank(method="first", ascending=False)
    rows[SAME_NUMBER_RULE] = ranks <= rows[SEVEN_DAY_RULE].sum()
    rows["ended_badly"] = rows["outcome"].isin(BAD_OUTCOMES)
    onset = rows["onset_of_disengagement_day"]
    groups = {
        "Had begun to disengage by this day": onset <= rows["course_day"],
        "Begins to disengage later": onset > rows["course_day"],
        "Never disengages": onset.isna(),
    }
    return Comparison(
        everyone=_measure("Everyone with a level", rows),
        by_level={level: _ended_badly(rows[rows["risk_level"] == level]) for level in reversed(KNOWN)},
        by_onset=tuple(_measure(name, rows[is_in.fillna(False).astype(bool)]) for name, is_in in groups.items()),
        without_level=len(risk) - len(known),
        without_truth=len(known) - len(rows),
    )


def _measure(name: str, rows: pd.DataFrame) -> Group:
    ended_badly = _ended_badly(rows)
    bad = ended_badly.hits
    flags = []
    for rule in (HIGH_RULE, SEVEN_DAY_RULE, SAME_NUMBER_RULE):
        hits = int((rows[rule] & rows["ended_badly"]).sum())
        flags.append(Flags(rule, Share(hits, int(rows[rule].sum())), Share(hits, bad)))
    return Group(name, ended_badly, tuple(flags))


def _ended_badly(rows: pd.DataFrame) -> Share:
    return Share(int(rows["ended_badly"].sum()), len(rows))


def say_summary(comparison: Comparison) -> str:
    """What HIGH found and what it missed, in one sentence."""
    high, low = comparison.by_level["HIGH"], comparison.by_level["LOW"]
    missed = comparison.everyone.ended_badly.hits - high.hits
    return (
        f"Of {high.total:,} at HIGH, {high.hits:,} later fail or withdraw. So do {missed:,} who are not at HIGH, "
        f"{low.hits:,} of them at LOW: LOW is no all-clear."
    )


def say_verdict(comparison: Comparison) -> str:
    """One sentence on the fair comparison, whichever way it goes."""
    _, seven, same = comparison.everyone.flags
    ours, theirs, bad = same.precision.hits, seven.precision.hits, seven.recall.total
    if not seven.flagged:
        return (
            "The seven-day rule flags nobody on this day, so there is nothing to compare at the same number of flags."
        )
    found = f"With {seven.flagged:,} flags each, the score finds {ours:,} and the seven-day rule {theirs:,} of the {bad:,} who fail or withdraw"
    if ours == theirs:
        return f"{found}: no difference on this day."
    better = "the score does better" if ours > theirs else "the score does worse"
    low, high = sorted((same.precision, seven.precision), key=lambda share: share.hits)
    overlap = (low.high or 0) >= (high.low or 0)
    return f"{found}: {better} on this day" + (
        "; chance alone could make that difference (the intervals overlap)."
        if overlap
        else ", and the intervals do not overlap."
    )
