"""How labeled rows lie around the centers of their clusters.

What is made of it, such as Davies-Bouldin, does not belong here.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from iom_platform.clustering.passes.chunks import BLOCK_ROWS, Map, chunks

_F = np.float32


@dataclass(frozen=True)
class Spread:
    """Of labeled rows: their mean (d,), the clusters' centers (k, d), and per cluster the sums of the distances and
    squared distances to its center (k,)."""

    mean: np.ndarray
    centers: np.ndarray
    distance: np.ndarray
    squared: np.ndarray


@njit(nogil=True, fastmath=True, cache=True)
def _sum_members(columns, low, high, labels, sums):  # type: ignore[no-untyped-def]
    k, d = sums.shape
    for start in range(low, high, BLOCK_ROWS):
        label = labels[start : min(start + BLOCK_ROWS, high)]
        for j in range(d):
            x = columns[j, start : start + len(label)]
            for c in range(k):
                part = _F(0)
                for i in range(len(label)):
                    part += x[i] if label[i] == c else _F(0)
                sums[c, j] += part


@njit(nogil=True, fastmath=True, cache=True)
def _sum_apart(columns, low, high, labels, centers, distance, squared):  # type: ignore[no-untyped-def]
    near = np.empty(BLOCK_ROWS, np.float32)
    for start in range(low, high, BLOCK_ROWS):
        label = labels[start : min(start + BLOCK_ROWS, high)]
        for c in range(len(centers)):
            near[:] = _F(0)
            for j in range(centers.shape[1]):
                x, center = columns[j, start : start + len(label)], centers[c, j]
                for i in range(len(label)):
                    near[i] += (x[i] - center) * (x[i] - center)
            part, total = _F(0), _F(0)
            for i in range(len(label)):
                own = near[i] if label[i] == c else _F(0)
                part += np.sqrt(own)
                total += own
            distance[c] += part
            squared[c] += total


def count_members(labels: np.ndarray, clusters: int) -> np.ndarray:
    """Rows of each cluster (clusters,), -1 left out; np.bincount would copy all labels to 8 bytes each."""
    counts = np.zeros(clusters, np.int64)
    for low, high in chunks(len(labels)):
        some = labels[low:high]
        counts += np.bincount(some[some >= 0], minlength=clusters)
    return counts


def find_means(
    columns: np.ndarray, labels: np.ndarray, clusters: int, *, run: Map = map
) -> tuple[np.ndarray, np.ndarray]:
    """The mean (d,) of all labeled rows and that of each cluster (k, d), over every row; labels: (n_rows,) int8."""
    parts, d = chunks(columns.shape[1]), len(columns)
    sums = np.zeros((len(parts), clusters, d))
    list(run(lambda p: _sum_members(columns, *parts[p], labels, sums[p]), range(len(parts))))
    members = count_members(labels, clusters)
    centers = sums.sum(axis=0) / np.maximum(members, 1)[:, None]
    return sums.sum(axis=(0, 1)) / max(int(members.sum()), 1), centers


def sum_spread(columns: np.ndarray, labels: np.ndarray, clusters: int, *, run: Map = map) -> Spread:
    """How far the rows of each cluster lie from its mean, over every row; labels: (n_rows,) int8."""
    mean, centers = find_means(columns, labels, clusters, run=run)
    parts, near = chunks(columns.shape[1]), centers.astype(np.float32)
    distance, squared = np.zeros((len(parts), clusters)), np.zeros((len(parts), clusters))
    list(run(lambda p: _sum_apart(columns, *parts[p], labels, near, distance[p], squared[p]), range(len(parts))))
    return Spread(mean, centers, distance.sum(axis=0), squared.sum(axis=0))
