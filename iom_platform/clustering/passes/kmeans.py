"""K-Means over every row.

Drawing a start does not belong here.
"""

import numpy as np
from numba import njit

from iom_platform.clustering.passes.chunks import BLOCK_ROWS, Fit, Map, chunks

_F = np.float32
_FAR = _F(3e38)


@njit(nogil=True, fastmath=True, cache=True)
def _nearest(columns, low, high, centers, sums, counts):  # type: ignore[no-untyped-def] # numba has no types
    """Add the rows of a chunk to the sums of their nearest centers; return the sum of the squared distances."""
    k, d = centers.shape
    best, distance = np.empty(BLOCK_ROWS, np.float32), np.empty(BLOCK_ROWS, np.float32)
    label = np.empty(BLOCK_ROWS, np.int32)
    inertia = 0.0
    for start in range(low, high, BLOCK_ROWS):
        n = min(BLOCK_ROWS, high - start)
        for i in range(n):
            best[i] = _FAR
            label[i] = 0
        for c in range(k):
            for i in range(n):
                distance[i] = _F(0)
            for j in range(d):
                center, x = centers[c, j], columns[j, start : start + n]
                for i in range(n):
                    distance[i] += (x[i] - center) * (x[i] - center)
            for i in range(n):
                is_nearer = distance[i] < best[i]
                best[i] = distance[i] if is_nearer else best[i]
                label[i] = c if is_nearer else label[i]
        part = _F(0)
        for i in range(n):
            part += best[i]
        inertia += part
        for c in range(k):
            members = 0
            for i in range(n):
                members += 1 if label[i] == c else 0
            counts[c] += members
            for j in range(d):
                x, part = columns[j, start : start + n], _F(0)
                for i in range(n):
                    part += x[i] if label[i] == c else _F(0)
                sums[c, j] += part
    return inertia


def fit_kmeans(
    columns: np.ndarray, centers: np.ndarray, *, max_iterations: int, tolerance: float, run: Map = map
) -> Fit:
    """Lloyd's algorithm (1982) from given centers (k, d), over every row.

    It ends where the squared movement of all centers is at most `tolerance`. A cluster that loses all its rows keeps
    its center. `parameters` are the centers, float64, and `criterion` is their inertia, which a last pass sums.
    """
    parts, (k, d) = chunks(columns.shape[1]), centers.shape
    sums, counts = np.empty((len(parts), k, d)), np.empty((len(parts), k))

    def pass_over() -> float:
        sums[:], counts[:] = 0, 0
        near = np.ascontiguousarray(centers, dtype=np.float32)
        return float(sum(run(lambda p: _nearest(columns, *parts[p], near, sums[p], counts[p]), range(len(parts)))))

    centers, moved, iteration = centers.astype(np.float64), np.inf, 0
    while moved > tolerance and iteration < max_iterations:
        pass_over()
        members = counts.sum(axis=0)[:, None]
        found = np.where(members > 0, sums.sum(axis=0) / np.maximum(members, 1), centers)
        moved, centers, iteration = float(((found - centers) ** 2).sum()), found, iteration + 1
    return Fit(centers, pass_over(), iteration, moved <= tolerance)
