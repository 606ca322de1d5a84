"""The silhouette of several labelings of the same rows, over all pairs.

Choosing a sample does not belong here.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from iom_platform.clustering.passes.chunks import BLOCK_ROWS, Map

_F = np.float32


@njit(nogil=True, fastmath=True, cache=True)
def _sum_distances(columns, low, high, bounds, sums):  # type: ignore[no-untyped-def]
    """sums (n, groups): of the distances from rows low to high to all rows of each group, which lie at `bounds`.

    Columns come in fours, filled up with zeros: a distance then seldom leaves the registers.
    """
    squared = np.empty(BLOCK_ROWS, np.float32)
    for row in range(low, high):
        for group in range(len(bounds) - 1):
            total = 0.0
            for start in range(bounds[group], bounds[group + 1], BLOCK_ROWS):
                n = min(BLOCK_ROWS, bounds[group + 1] - start)
                end = start + n
                for four in range(0, len(columns), 4):
                    x0, x1 = columns[four, start:end], columns[four + 1, start:end]
                    x2, x3 = columns[four + 2, start:end], columns[four + 3, start:end]
                    p0, p1, p2, p3 = (
                        columns[four, row],
                        columns[four + 1, row],
                        columns[four + 2, row],
                        columns[four + 3, row],
                    )
                    for i in range(n):
                        d0, d1, d2, d3 = x0[i] - p0, x1[i] - p1, x2[i] - p2, x3[i] - p3
                        near = d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3
                        squared[i] = near if four == 0 else squared[i] + near
                part = _F(0)
                for i in range(n):
                    part += np.sqrt(squared[i])
                total += part
            sums[row, group] = total


def measure_silhouettes(columns: np.ndarray, labelings: Sequence[np.ndarray], *, run: Map = map) -> list[float | None]:
    """The mean silhouette (Rousseeuw 1987) of several labelings of the same rows, exact, in one pass over all pairs.

    labelings: (n_rows,) int each, -1 = noise, whose rows are left out as points and as neighbors. A cluster of one row
    has silhouette 0. None where a labeling has fewer than two clusters, or as many clusters as rows.
    """
    stacked = np.stack(labelings)
    groups, inverse = np.unique(stacked, axis=1, return_inverse=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    fill = np.zeros((-len(columns) % 4, len(order)), dtype=np.float32)
    ordered = np.concatenate([columns[:, order], fill])
    bounds = np.searchsorted(inverse.ravel()[order], np.arange(groups.shape[1] + 1))
    sums = np.zeros((len(order), groups.shape[1]))
    parts = [(low, min(low + BLOCK_ROWS, len(order))) for low in range(0, len(order), BLOCK_ROWS)]
    list(run(lambda part: _sum_distances(ordered, *part, bounds, sums), parts))
    return [
        _silhouette(sums, stacked[of][order], groups[of]) for of in range(len(labelings))
    ]  # fmt: skip


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
