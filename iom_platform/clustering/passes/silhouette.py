"""The silhouette of several labelings of the same rows, over all pairs.

Choosing a sample does not belong here.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from iom_platform.clustering.passes.chunks import BLOCK_ROWS, Map

_F = np.float32


# partial sums that are added up at the end: their number, and not that of the threads, decides the last bits
_LANES = 4


@njit(nogil=True, fastmath=True, cache=True)
def _sum_distances(columns, tiles, groups, lane, sums):  # type: ignore[no-untyped-def]
    """sums (n, groups) += the distances between rows of the lane's tiles and of all tiles from theirs on, for both ends.

    tiles: (n_tiles, 2) first row and the one after the last, all of one of `groups` (n_tiles,). Each pair of tiles is looked at
    once, for a distance has two ends, and a square root costs more than all else. Columns come in fours, filled up with zeros.
    """
    rest, across = np.zeros(BLOCK_ROWS, np.float32), np.empty(BLOCK_ROWS, np.float32)
    for own in range(lane, len(tiles), _LANES):
        for other in range(own, len(tiles)):
            start, end = tiles[other]
            n = end - start
            x0, x1, x2, x3 = columns[0, start:end], columns[1, start:end], columns[2, start:end], columns[3, start:end]
            across[:n] = 0
            for row in range(tiles[own, 0], tiles[own, 1]):
                for more in range(4, len(columns)):
                    x, p = columns[more, start:end], columns[more, row]
                    for i in range(n):
                        near = (x[i] - p) * (x[i] - p)
                        rest[i] = near if more == 4 else rest[i] + near
                p0, p1, p2, p3 = columns[0, row], columns[1, row], columns[2, row], columns[3, row]
                total = _F(0)
                for i in range(n):
                    d0, d1, d2, d3 = x0[i] - p0, x1[i] - p1, x2[i] - p2, x3[i] - p3
                    far = np.sqrt(rest[i] + (d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3))
                    total += far
                    across[i] += far
                sums[row, groups[other]] += total
            if other != own:
                for i in range(n):
                    sums[start + i, groups[own]] += across[i]


def measure_silhouettes(columns: np.ndarray, labelings: Sequence[np.ndarray], *, run: Map = map) -> list[float | None]:
    """The mean silhouette (Rousseeuw 1987) of several labelings of the same rows, exact, in one pass over all pairs.

    labelings: (n_rows,) int each, -1 = noise, whose rows are left out as points and as neighbors. A cluster of one row
    has silhouette 0. None where a labeling has fewer than two clusters, or as many clusters as rows.
    """
    stacked = np.stack(labelings)
    groups, inverse = np.unique(stacked, axis=1, return_inverse=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    fill = np.zeros((-len(columns) % 4, len(order)), dtype=np.float32)
    # an index of columns may come back column by column, and rows then lie apart
    ordered = np.ascontiguousarray(np.concatenate([columns[:, order], fill]))
    tiles, of_group = _cut(inverse.ravel()[order], groups.shape[1])
    parts = [np.zeros((len(order), groups.shape[1])) for _ in range(_LANES)]
    list(run(lambda lane: _sum_distances(ordered, tiles, of_group, lane, parts[lane]), range(_LANES)))
    sums = sum(parts[1:], start=parts[0])
    return [
        _silhouette(sums, stacked[of][order], groups[of]) for of in range(len(labelings))
    ]  # fmt: skip


def _cut(groups: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Tiles of at most BLOCK_ROWS rows of one group, and the group of each; the rows lie group by group."""
    bounds = np.searchsorted(groups, np.arange(count + 1))
    found = [
        (low, min(low + BLOCK_ROWS, bounds[group + 1]), group)
        for group in range(count)
        for low in range(bounds[group], bounds[group + 1], BLOCK_ROWS)
    ]
    cut = np.array(found, dtype=np.int64).reshape(-1, 3)
    return np.ascontiguousarray(cut[:, :2]), np.ascontiguousarray(cut[:, 2])


def _silhouette(sums: np.ndarray, labels: np.ndarray, group_labels: np.ndarray) -> float | None:
    clusters, sizes = np.unique(labels[labels >= 0], return_counts=True)
    if not 2 <= len(clusters) < sizes.sum():
        return None
    rows = labels >= 0
    own = np.searchsorted(clusters, labels[rows])
    to = np.stack([sums[rows][:, group_labels == c].sum(axis=1) for c in clusters], axis=1)
    at = np.arange(len(own))
    within = to[at, own] / np.maximum(sizes[own] - 1, 1)
    means = to / sizes
    means[at, own] = np.inf
    nearest = means.min(axis=1)
    spread = np.maximum(within, nearest)
    value = np.where((sizes[own] > 1) & (spread > 0), (nearest - within) / np.where(spread > 0, spread, 1), 0)
    return float(value.mean())
