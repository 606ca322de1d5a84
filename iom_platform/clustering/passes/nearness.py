"""The cluster of each row by centers that have one: that of the nearest, or what those within a radius vote for.

Making centers does not belong here.
"""

import numpy as np
from numba import njit

from iom_platform.clustering.passes.chunks import BLOCK_ROWS

_CLOSE = 1e-6  # a lead of less than this share decides nothing
_ROUNDING = 1e-14  # of a row's squared length: how far squared distances may be off that are made from products


@njit(nogil=True, cache=True)
def _assign(rows, centers, owners, clusters, radius, labels, is_doubtful):  # type: ignore[no-untyped-def] # numba has no types
    m, d = rows.shape
    is_vote, border = radius >= 0, radius * radius
    x, lead = np.empty((d, BLOCK_ROWS)), np.empty((clusters, BLOCK_ROWS))
    near, slack, apart = np.empty(BLOCK_ROWS), np.empty(BLOCK_ROWS), np.empty(BLOCK_ROWS)
    for start in range(0, m, BLOCK_ROWS):
        n = min(BLOCK_ROWS, m - start)
        slack[:] = _ROUNDING
        for a in range(d):
            for i in range(n):
                x[a, i] = rows[start + i, a]
                slack[i] += _ROUNDING * x[a, i] * x[a, i]
        apart[:] = np.inf
        lead[:] = 0 if is_vote else -np.inf
        for c in range(len(centers)):
            own = lead[owners[c]]
            near[:] = 0
            for a in range(d):
                column, center = x[a], centers[c, a]
                for i in range(n):
                    near[i] += (column[i] - center) * (column[i] - center)
            if is_vote:
                for i in range(n):
                    apart[i] = min(apart[i], abs(near[i] - border))
                    own[i] += 1 / np.sqrt(near[i] + slack[i]) if near[i] <= border else 0.0
            else:
                for i in range(n):
                    own[i] = max(own[i], -near[i])
        for i in range(n):
            best, second = 0, -1
            for c in range(1, clusters):
                if lead[c, i] > lead[best, i]:
                    best, second = c, best
                elif second < 0 or lead[c, i] > lead[second, i]:
                    second = c
            first = lead[best, i]
            other = lead[second, i] if second >= 0 else (0.0 if is_vote else -np.inf)
            if is_vote:
                labels[start + i] = best if first > 0 else -1
                is_decided = first == 0 or first > other * (1 + _CLOSE + slack[i] * other * other)
                is_doubtful[start + i] = not is_decided or apart[i] <= _CLOSE * border + slack[i]
            else:
                labels[start + i] = best
                is_doubtful[start + i] = -other <= -first * (1 + _CLOSE) + slack[i]


def assign_by_centers(
    rows: np.ndarray, centers: np.ndarray, owners: np.ndarray, *, radius: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) int8 of rows (n, d), and (n,) bool: which of them lie on a border, where the last bits decide.

    centers: (n_centers, d), owners: (n_centers,) int, the cluster of each, from 0; all float64. Without a radius a row has
    the cluster of the nearest center; else the one whose centers within it have the largest sum of 1 / distance, and -1
    where none is.
    """
    labels, is_doubtful = np.empty(len(rows), np.int8), np.empty(len(rows), np.bool_)
    reach = -1.0 if radius is None else float(radius)
    given = np.ascontiguousarray(rows, dtype=np.float64), np.ascontiguousarray(centers, dtype=np.float64)
    _assign(*given, owners.astype(np.int64), int(owners.max()) + 1, reach, labels, is_doubtful)
    return labels, is_doubtful
