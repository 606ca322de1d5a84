"""Exact quantiles of labeled values without sorting them all.

What is described by them does not belong here.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def _sortable(bits):  # type: ignore[no-untyped-def]
    """The bits of a float32 as a whole number of the same order."""
    return bits ^ np.uint32(0xFFFFFFFF) if bits >> np.uint32(31) else bits | np.uint32(0x80000000)


@njit(nogil=True, cache=True)
def _count_prefixes(bits, labels, counts):  # type: ignore[no-untyped-def]
    for i in range(len(bits)):
        if labels[i] >= 0:
            counts[labels[i], _sortable(bits[i]) >> np.uint32(18)] += 1


@njit(nogil=True, cache=True)
def _gather(bits, labels, wanted, starts, filled, out):  # type: ignore[no-untyped-def]
    for i in range(len(bits)):
        if labels[i] >= 0:
            whole = _sortable(bits[i])
            slot = wanted[labels[i], whole >> np.uint32(18)]
            if slot >= 0:
                out[starts[slot] + filled[slot]] = whole
                filled[slot] += 1


def find_quantiles(column: np.ndarray, labels: np.ndarray, clusters: int, shares: Sequence[float]) -> np.ndarray:
    """Quantiles of each cluster's values, exact, interpolated linearly as np.quantile does; (clusters, len(shares)).

    column: (n,) float32, finite; labels: (n,) int8. Two passes instead of a sort: the values are counted by the first 14
    bits of their order, and only those that share these bits with a wanted rank are sorted. NaN for an empty cluster.
    """
    bits = column.view(np.uint32)
    counts = np.zeros((clusters, 1 << 14), np.int64)
    _count_prefixes(bits, labels, counts)
    ends = counts.cumsum(axis=1)
    places = (ends[:, -1:] - 1) * np.asarray(shares)
    low = np.floor(np.maximum(places, 0)).astype(np.int64)
    ranks = np.stack([low, np.minimum(low + 1, np.maximum(ends[:, -1:] - 1, 0))])
    prefix = np.stack([[np.searchsorted(ends[c], one, side="right") for c, one in enumerate(some)] for some in ranks])
    wanted = np.full(counts.shape, -1, np.int32)
    slots = sorted({(c, int(p)) for c in range(clusters) if ends[c, -1] for p in prefix[:, c].ravel()})
    for slot, (c, p) in enumerate(slots):
        wanted[c, p] = slot
    sizes = np.array([counts[c, p] for c, p in slots], dtype=np.int64)
    starts = np.concatenate([[0], sizes.cumsum()])
    out = np.empty(starts[-1], np.uint32)
    _gather(bits, labels, wanted, starts, np.zeros(len(slots), np.int64), out)
    for slot in range(len(slots)):
        out[starts[slot] : starts[slot + 1]].sort()
    found = np.full(ranks.shape, np.nan)
    for which, c, share in np.ndindex(*ranks.shape):
        if ends[c, -1]:
            p = prefix[which, c, share]
            whole = out[starts[wanted[c, p]] + ranks[which, c, share] - (ends[c, p] - counts[c, p])]
            back = whole ^ np.uint32(0x80000000) if whole >> 31 else ~whole
            found[which, c, share] = np.array([back], np.uint32).view(np.float32)[0]
    return np.asarray(found[0] + (found[1] - found[0]) * (places - low))
