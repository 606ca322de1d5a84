"""Clusters in words, sizes and shares of levels, told so coarsely that no cell of fewer than k students is shown.

Fitting and assigning belong to `iom_platform.clustering`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iom_platform.clustering.centers import NOISE
from iom_platform.clustering.profiles import describe_cluster
from iom_platform.report.levels import KEY, KNOWN

if TYPE_CHECKING:
    import pandas as pd

_STEPS = (20, 10, 5, 4, 2)  # a share is told in one of so many equal steps


@dataclass(frozen=True)
class ClusterGroup:
    """A cluster of at least k students; `shares` of levels are ranges in words, None where it is too small for any.

    letter, name: those of its uid, of every day alike; now: what its members are like on this day, None where the name
    says it; uid: None for noise, and for rows of before uids, which are named by the day alone.
    """

    letter: str
    name: str
    now: str | None
    uid: str | None
    students: int
    shares: dict[str, str] | None


@dataclass(frozen=True)
class Clusters:
    """Clusters by letter, how many are withheld, and `weeks`: letter, course_week, active_days_mean, students."""

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


def describe_clusters(
    profiles: pd.DataFrame, risk: pd.DataFrame, weeks: pd.DataFrame, lineage: pd.DataFrame, *, k: int
) -> Clusters:
    """The day's clusters: name, size, levels, and mean active days of each complete course week.

    profiles: of clustering/profiles; risk: the day's risk rows, whose UNKNOWN have no cluster and are left out;
    weeks: of anonymized/student_week; lineage: all of clustering/lineage. A mean over fewer than k students is left out.
    """
    known = risk[risk["cluster"].notna()].astype({"cluster": "int64"})
    pairs = Counter(zip(known["cluster"].tolist(), known["risk_level"].tolist(), strict=True))
    counts = {cluster: {level: pairs[cluster, level] for level in KNOWN} for cluster in sorted({c for c, _ in pairs})}
    shown = choose_shown({cluster: sum(levels.values()) for cluster, levels in counts.items()}, k=k)
    uids = {cluster: uid for cluster, uid in _pairs(profiles, "cluster", "cluster_uid") if isinstance(uid, str)}
    letters = _choose_letters(shown, uids, lineage)
    names = dict(_pairs(lineage, "cluster_uid", "name"))
    groups = []
    for cluster in sorted(shown, key=lambda one: (len(letters[one]), letters[one])):
        uid, now = uids.get(cluster), describe_cluster(profiles, cluster)
        name = names.get(uid, now)
        students = sum(counts[cluster].values())
        shares = say_shares(counts[cluster], k=k)
        groups.append(ClusterGroup(letters[cluster], name, None if now == name else now, uid, students, shares))
    return Clusters(tuple(groups), len(counts) - len(shown), _weekly_means(known, weeks, letters, k))


def _pairs(frame: pd.DataFrame, one: str, other: str) -> Iterator[tuple[Any, Any]]:
    return zip(frame[one].tolist(), frame[other].tolist(), strict=True)


def _choose_letters(shown: list[int], uids: dict[int, str], lineage: pd.DataFrame) -> dict[int, str]:
    """A uid's letter is its place among all uids ever born, so it never changes; others follow by size, noise is `*`."""
    births = lineage[lineage["change"].isin(["born", "split"])].sort_values(["model_version", "cluster"])
    places = {uid: place for place, uid in enumerate(dict.fromkeys(births["cluster_uid"]))}
    others = [cluster for cluster in shown if cluster not in uids and cluster != NOISE]
    placed = {cluster: places[uids[cluster]] for cluster in shown if cluster in uids}
    placed |= {cluster: len(places) + place for place, cluster in enumerate(others)}
    return {cluster: _letter(placed[cluster]) if cluster in placed else "*" for cluster in shown}


def _letter(place: int) -> str:
    return chr(ord("A") + place % 26) + (str(place // 26 + 1) if place >= 26 else "")


def _weekly_means(known: pd.DataFrame, weeks: pd.DataFrame, letters: dict[int, str], k: int) -> pd.DataFrame:
    complete = weeks[(weeks["days_elapsed"] == 7) & weeks["active_days"].notna()]
    joined = complete.merge(known[[*KEY, "cluster"]], on=KEY, validate="many_to_one")
    joined = joined.assign(letter=joined["cluster"].map(letters)).dropna(subset="letter")
    means = joined.groupby(["letter", "course_week"])["active_days"].agg(["mean", "size"]).reset_index()
    means.columns = ["letter", "course_week", "active_days_mean", "students"]
    return means[means["students"] >= k].reset_index(drop=True)
