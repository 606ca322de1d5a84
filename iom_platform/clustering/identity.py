"""Which clusters of a model are those of the model before it, by rows that both assign, and what became of the others.

Which two models, which rows and where the lineage is kept do not belong here.

A retraining numbers its clusters anew; a uid stays with the cluster. Pairs of an old and a new cluster are an assignment
problem (Kuhn 1955) on their overlap and the distance of their centers. What happens to a cluster is told in the words of
MONIC (Spiliopoulou, Ntoutsi, Theodoridis, Schult 2006), with overlaps of members rather than of weighted, aging records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from iom_platform.clustering.profiles import TOO_FEW, describe_cluster

if TYPE_CHECKING:
    import pandas as pd

MIN_OVERLAP = 1 / 3  # Jaccard index of two clusters of one size that share half of their members
MOST = 0.5  # of a cluster's members: whoever gave or got them is its parent or its heir
PART = 0.1  # of a cluster's members: who gave or got fewer has no visible part in it
_DISTANCE_WEIGHT = 0.1  # a center's distance decides between pairs of nearly one overlap, and no others
_DIGITS = 6  # of what is told; of a center that is hashed, 9, as for the order of clusters

CHANGES = ("same", "split", "merged", "born", "died")


@dataclass(frozen=True)
class Transition:
    """What became of one uid at one retraining; each uid of the former and of the new model has exactly one.

    same: the pair's overlap is at least MIN_OVERLAP, and the new cluster keeps the uid.
    split: a new uid; most of its members come from one old cluster, `from_uid`, of which they are a visible part.
    merged: an old uid ends; most of its members are in one new cluster, `into_uid`, of which they are a visible part, and
    where those of another old one are too. born: a new uid without such a parent. died: an old uid without such an heir.

    cluster: its number in the new model, None where the uid ends; overlap: Jaccard index with the cluster that `from_uid`
    or `into_uid` names, else the largest with any, None without a former model; center_distance: 0-1, of the same two;
    share: of the panel's rows, in the old cluster where the uid ends.
    """

    cluster_uid: str
    change: str
    cluster: int | None
    from_uid: str | None
    into_uid: str | None
    overlap: float | None
    center_distance: float | None
    share: float


def trace_clusters(
    former_labels: np.ndarray, labels: np.ndarray, scaled: np.ndarray, *,
    former_uids: Mapping[int, str], clusters: Sequence[int],
) -> tuple[Transition, ...]:  # fmt: skip
    """The lineage of a retraining: a transition per new cluster in their order, then one per uid that ends.

    former_labels, labels: (n_students,) int, -1 = noise, of the panel's rows by the former and by the new model; scaled:
    (n_students, n_inputs) 0-1, those rows as `build_scaling` makes them by default. former_uids: uid of each cluster of the
    former model, empty where there is none; clusters: the numbers of the new one's. Either may have clusters without a row
    in the panel.
    Nothing is drawn: the same labels and rows, in any order, give the same lineage.
    """
    old, new = sorted(former_uids), sorted(clusters)
    pairs = _Pairs.measure(former_labels, labels, scaled, old, new)
    kept = pairs.match()
    uids: dict[int, str] = {}
    found: list[Transition] = []
    for j, cluster in enumerate(new):
        i = kept.get(j)
        parent = pairs.parent(j) if i is None else i
        taken = former_uids.values()  # nobody may be born with a uid that another carries, or that ends now
        uids[cluster] = _give_uid(cluster, pairs.centers[j], taken) if i is None else former_uids[old[i]]
        change = "same" if i is not None else "born" if parent is None else "split"
        from_uid = None if parent is None else former_uids[old[parent]]
        told = pairs.tell(parent, j)
        found.append(Transition(uids[cluster], change, cluster, from_uid, None, *told, pairs.new_shares[j]))
    ended = [i for i in range(len(old)) if i not in kept.values()]
    heirs = [pairs.heir(i) for i in ended]
    for i, heir in zip(ended, heirs, strict=True):
        # what is left of one old cluster alone was merged with nothing
        is_merged = heir is not None and (heir in kept or heirs.count(heir) > 1)
        change, told = ("merged", pairs.tell(i, heir)) if is_merged else ("died", pairs.tell(i, None))
        into_uid = uids[new[heir]] if is_merged and heir is not None else None
        found.append(Transition(former_uids[old[i]], change, None, None, into_uid, *told, pairs.old_shares[i]))
    return tuple(found)


def name_clusters(
    lineage: Sequence[Transition], profiles: pd.DataFrame, *, former_names: Mapping[str, str]
) -> list[str]:
    """What each uid of a lineage is called: by the profile at its birth, and so for as long as it lives.

    profiles: of the panel by the new model, as `profile_clusters` returns them; former_names: by uid. Where a cluster had
    too few students to be described, it is named as soon as it has enough.
    """
    described = set(profiles["cluster"])

    def name(found: Transition) -> str:
        kept = former_names.get(found.cluster_uid, TOO_FEW)
        is_new = kept == TOO_FEW and found.cluster in described
        return describe_cluster(profiles, int(found.cluster)) if is_new else kept  # type: ignore[arg-type]

    return [name(found) for found in lineage]


@dataclass(frozen=True)
class _Pairs:
    """Old and new clusters by place: rows shared (n_old, n_new), rows of each, centers and distances, NaN without rows."""

    shared: np.ndarray
    old_rows: np.ndarray
    new_rows: np.ndarray
    centers: np.ndarray
    distance: np.ndarray
    rows: int

    @classmethod
    def measure(
        cls, former_labels: np.ndarray, labels: np.ndarray, scaled: np.ndarray, old: list[int], new: list[int]
    ) -> _Pairs:
        in_old = [np.asarray(former_labels) == cluster for cluster in old]
        in_new = [np.asarray(labels) == cluster for cluster in new]
        shared = np.array([[(i & j).sum() for j in in_new] for i in in_old], dtype=float).reshape(len(old), len(new))
        old_centers, centers = _centers(in_old, scaled), _centers(in_new, scaled)
        apart = old_centers[:, None, :] - centers[None, :, :]
        distance = np.sqrt((apart**2).mean(axis=2))  # of opposite corners: 1
        old_rows, new_rows = (np.array([rows.sum() for rows in members], dtype=float) for members in (in_old, in_new))
        return cls(shared, old_rows, new_rows, centers, distance, len(scaled))

    @property
    def overlap(self) -> np.ndarray:
        """Jaccard index of each pair, 0 where neither has a row. Returns (n_old, n_new)."""
        union = self.old_rows[:, None] + self.new_rows[None, :] - self.shared
        return np.asarray(self.shared / np.where(union > 0, union, 1))

    @property
    def old_shares(self) -> list[float]:
        return [round(float(n), _DIGITS) for n in self.old_rows / max(self.rows, 1)]

    @property
    def new_shares(self) -> list[float]:
        return [round(float(n), _DIGITS) for n in self.new_rows / max(self.rows, 1)]

    def match(self) -> dict[int, int]:
        """Which old cluster each new one is: the pairs of the largest total worth, none under MIN_OVERLAP."""
        from scipy.optimize import linear_sum_assignment

        is_near = self.overlap >= MIN_OVERLAP
        worth = np.where(is_near, self.overlap - _DISTANCE_WEIGHT * self.distance, 0.0)
        places = zip(*linear_sum_assignment(worth, maximize=True), strict=True)
        return {int(j): int(i) for i, j in places if is_near[i, j]}

    def parent(self, j: int) -> int | None:
        """The old cluster that most of the new one's members come from, if they are a visible part of it."""
        return self._main(self.shared[:, j], self.new_rows[j], self.old_rows)

    def heir(self, i: int) -> int | None:
        """The new cluster that most of the old one's members are in, if they are a visible part of it."""
        return self._main(self.shared[i], self.old_rows[i], self.new_rows)

    @staticmethod
    def _main(shared: np.ndarray, own: float, theirs: np.ndarray) -> int | None:
        if not len(shared) or not own:
            return None
        main = int(shared.argmax())
        return main if shared[main] >= MOST * own and shared[main] >= PART * theirs[main] else None

    def tell(self, i: int | None, j: int | None) -> tuple[float | None, float | None]:
        """Overlap and distance of a pair; of a cluster alone the largest overlap that it has."""
        if i is None or j is None:
            alone = self.overlap[:, j] if i is None else self.overlap[i]
            return (round(float(alone.max()), _DIGITS) if len(alone) else None), None
        distance = float(self.distance[i, j])
        return round(float(self.overlap[i, j]), _DIGITS), None if np.isnan(distance) else round(distance, _DIGITS)


def _centers(members: list[np.ndarray], scaled: np.ndarray) -> np.ndarray:
    """Mean of each cluster's rows, summed in sorted order, so that the order of rows moves no bit. NaN without rows."""
    centers = [np.sort(scaled[rows], axis=0).mean(axis=0) if rows.any() else np.nan for rows in members]
    return np.array([np.broadcast_to(center, scaled.shape[1]) for center in centers]).reshape(-1, scaled.shape[1])


def _give_uid(cluster: int, center: np.ndarray, taken: Collection[str]) -> str:
    """A uid of what the cluster is at its birth, never drawn: a replay, or a home of other pseudonyms, gives it again.

    The fit key would not do: it is a digest of demographics too, and they must leave no trace in clusters and levels.
    """
    born = f"{cluster} {' '.join(f'{value + 0.0:.9f}' for value in center)}"
    uids = (f"c-{hashlib.sha256(f'{born} {attempt}'.encode()).hexdigest()[:8]}" for attempt in count())
    return next(uid for uid in uids if uid not in taken)
