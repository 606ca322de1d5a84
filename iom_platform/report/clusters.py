"""Clusters in words, sizes and shares of levels, told so coarsely that no cell of fewer than k students is shown.

Fitting and assigning belong to `iom_platform.clustering`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iom_platform.clustering.profiles import describe_cluster
from iom_platform.report.levels import KEY, KNOWN

if TYPE_CHECKING:
    import pandas as pd

_STEPS = (20, 10, 5, 4, 2)  # a share is told in one of so many equal steps


@dataclass(frozen=True)
class ClusterGroup:
    """A cluster of at least k students; `shares` of levels are ranges in words, None where it is too small for any."""

    letter: str
    name: str
    students: int
    shares: dict[str, str] | None


@dataclass(frozen=True)
class Clusters:
    """Clusters by falling size, how many are withheld, and `weeks`: letter, course_week, active_days_mean, students."""

    groups: tuple[ClusterGroup, ...]
    withheld: int
    weeks: pd.DataFrame


def choose_shown(sizes: dict[int, int], *, k: int) -> list[int]:
    """The clusters that may be shown, largest first: none of fewer than k students.

    Withheld are those, and then the next larger until the withheld ones hold at least k together: the number of all
    students is known, and what is withheld could be worked out from the rest.
    """
    rising = sorted(sizes, key=lambda cluster: (sizes[cluster], -cluster))
    withheld = sum(sizes[cluster] < k for cluster in rising)
    while 0 < sum(sizes[cluster] for cluster in rising[:withheld]) < k and withheld < len(rising):
        withheld += 1
    return rising[withheld:][::-1]


def say_shares(counts: dict[str, int], *, k: int) -> dict[str, str] | None:
    """Each count's share of their sum as a range such as "80% to 90%", None where the sum is under 2 k.

    The range's width is the smallest step that holds at least k students, so that a count under k looks like k others.
    """
    students = sum(counts.values())
    steps = next((n for n in _STEPS if students >= n * k), None)
    if steps is None:
        return None
    places = {name: min(n * steps // students, steps - 1) for name, n in counts.items()}
    return {name: f"{100 * place // steps}% to {100 * (place + 1) // steps}%" for name, place in places.items()}


def describe_clusters(profiles: pd.DataFrame, risk: pd.DataFrame, weeks: pd.DataFrame, *, k: int) -> Clusters:
    """The day's clusters: name, size, levels, and mean active days of each complete course week.

    profiles: of clustering/profiles; risk: the day's risk rows, whose UNKNOWN have no cluster and are left out;
    weeks: of anonymized/student_week. A mean over fewer than k students is left out.
    """
    known = risk[risk["cluster"].notna()].astype({"cluster": "int64"})
    pairs = Counter(zip(known["cluster"].tolist(), known["risk_level"].tolist(), strict=True))
    counts = {cluster: {level: pairs[cluster, level] for level in KNOWN} for cluster in sorted({c for c, _ in pairs})}
    shown = choose_shown({cluster: sum(levels.values()) for cluster, levels in counts.items()}, k=k)
    letters = {cluster: _letter(place) for place, cluster in enumerate(shown)}
    groups = tuple(
        ClusterGroup(
            letters[cluster],
            describe_cluster(profiles, cluster),
            sum(counts[cluster].values()),
            say_shares(counts[cluster], k=k),
        )
        for cluster in shown
    )
    return Clusters(groups, len(counts) - len(shown), _weekly_means(known, weeks, letters, k))


def _letter(place: int) -> str:
    return chr(ord("A") + place % 26) + (str(place // 26 + 1) if place >= 26 else "")


def _weekly_means(known: pd.DataFrame, weeks: pd.DataFrame, letters: dict[int, str], k: int) -> pd.DataFrame:
    complete = weeks[(weeks["days_elapsed"] == 7) & weeks["active_days"].notna()]
    joined = complete.merge(known[[*KEY, "cluster"]], on=KEY, validate="many_to_one")
    joined = joined.assign(letter=joined["cluster"].map(letters)).dropna(subset="letter")
    means = joined.groupby(["letter", "course_week"])["active_days"].agg(["mean", "size"]).reset_index()
    means.columns = ["letter", "course_week", "active_days_mean", "students"]
    return means[means["students"] >= k].reset_index(drop=True)
