"""Gaussian mixtures with full covariances over every row.

Drawing a start does not belong here.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from iom_platform.clustering.passes.chunks import BLOCK_ROWS, Fit, Map, chunks

_F = np.float32
_FAR = _F(3e38)


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture: weights (k,), means (k, d), covariances (k, d, d), float64."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


@njit(nogil=True, fastmath=True, inline="always")
def _exp(x):  # type: ignore[no-untyped-def]
    """e**x for x <= 0 to the last bits of float32, in operations that vectorize (Cephes expf, Moshier 1992)."""
    x = max(x, _F(-87))
    whole = np.floor(x * _F(1.44269504) + _F(0.5))
    r = x - whole * _F(0.693359375) + whole * _F(2.12194440e-4)
    p = _F(1.9875691500e-4)
    p = p * r + _F(1.3981999507e-3)
    p = p * r + _F(8.3334519073e-3)
    p = p * r + _F(4.1665795894e-2)
    p = p * r + _F(1.6666665459e-1)
    p = p * r + _F(5.0000001201e-1)
    p = p * r * r + r + _F(1)
    return p * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(nogil=True, fastmath=True, cache=True)
def _expect(columns, low, high, roots, shifts, levels, members, first, second):  # type: ignore[no-untyped-def]
    """One E step over a chunk, fused with the sums that the M step needs; returns the sum of log-likelihoods.

    roots (k, d, d): inverse Cholesky factors, lower; shifts (k, d): roots @ means; levels (k,): log weight and
    normalization. Added to: members (k,), first (k, d) and second moments (k, d, d; lower triangle).
    """
    k, d = shifts.shape
    share = np.empty((k, BLOCK_ROWS), np.float32)
    top, total, y = np.empty(BLOCK_ROWS, np.float32), np.empty(BLOCK_ROWS, np.float32), np.empty(BLOCK_ROWS, np.float32)
    likelihood = 0.0
    for start in range(low, high, BLOCK_ROWS):
        n = min(BLOCK_ROWS, high - start)
        for i in range(n):
            top[i] = -_FAR
            total[i] = _F(0)
        for c in range(k):
            own = share[c]
            for i in range(n):
                own[i] = levels[c]
            for a in range(d):
                for i in range(n):
                    y[i] = -shifts[c, a]
                for b in range(a + 1):
                    root, x = roots[c, a, b], columns[b, start : start + n]
                    for i in range(n):
                        y[i] += root * x[i]
                for i in range(n):
                    own[i] -= _F(0.5) * y[i] * y[i]
            for i in range(n):
                top[i] = max(top[i], own[i])
        for c in range(k):
            own = share[c]
            for i in range(n):
                own[i] = _exp(own[i] - top[i])
                total[i] += own[i]
        product = 1.0  # a logarithm of 8 rows at once: each total lies between 1 and k
        for i in range(n):
            likelihood += top[i]
            product *= total[i]
            if i % 8 == 7:
                likelihood += np.log(product)
                product = 1.0
        likelihood += np.log(product)
        for i in range(n):
            total[i] = _F(1) / total[i]
        for c in range(k):
            own, part = share[c], _F(0)
            for i in range(n):
                own[i] *= total[i]
                part += own[i]
            members[c] += part
            for a in range(d):
                x, part = columns[a, start : start + n], _F(0)
                for i in range(n):
                    y[i] = own[i] * x[i]
                    part += y[i]
                first[c, a] += part
                for b in range(a + 1):
                    x, part = columns[b, start : start + n], _F(0)
                    for i in range(n):
                        part += y[i] * x[i]
                    second[c, a, b] += part
    return likelihood


def _maximize(members: np.ndarray, first: np.ndarray, second: np.ndarray, floor: float) -> Mixture:
    """The M step: the mixture whose moments these sums are; `floor` is added to each variance, and none is below it."""
    total = np.maximum(members, 10 * np.finfo(np.float64).eps)
    means = first / total[:, None]
    lower = second / total[:, None, None]
    full = lower + np.swapaxes(np.tril(lower, -1), 1, 2)
    covariances = full - means[:, :, None] * means[:, None, :]
    covariances[:, np.arange(means.shape[1]), np.arange(means.shape[1])] += floor
    # of a component far out and narrow, such as a rare value, the rounding of the moments can leave less than nothing
    values, axes = np.linalg.eigh(covariances)
    narrow = values[:, 0] < floor
    covariances[narrow] = (axes * np.maximum(values, floor)[:, None, :] @ np.swapaxes(axes, 1, 2))[narrow]
    return Mixture(members / members.sum(), means, covariances)


def fit_mixture(
    columns: np.ndarray, start: Mixture, *, max_iterations: int, tolerance: float, floor: float, run: Map = map
) -> Fit:
    """Expectation-maximization (Dempster, Laird and Rubin 1977) with full covariances, over every row.

    It ends where the mean log-likelihood per row gains at most `tolerance`, as in scikit-learn; `floor` is its
    reg_covar. `parameters` is a Mixture, and `criterion` the likelihood of the one before it, as scikit-learn's
    lower_bound_. Raises ValueError where a covariance is not positive definite.
    """
    d, n = columns.shape
    parts, k = chunks(n), len(start.weights)
    members, first = np.empty((len(parts), k)), np.empty((len(parts), k, d))
    second = np.zeros((len(parts), k, d, d))

    def expect(mixture: Mixture) -> float:
        members[:], first[:], second[:] = 0, 0, 0
        try:
            factors = np.linalg.cholesky(mixture.covariances)
        except np.linalg.LinAlgError:
            raise ValueError(
                "a component of the mixture has no volume; ask for fewer clusters, or leave out a feature that others determine"
            ) from None
        roots = np.linalg.inv(factors)
        shifts = np.einsum("kab,kb->ka", roots, mixture.means)
        volumes = np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1) - d / 2 * np.log(2 * np.pi)
        levels = np.log(np.maximum(mixture.weights, np.finfo(np.float32).tiny)) + volumes
        given = [np.ascontiguousarray(one, dtype=np.float32) for one in (roots, shifts, levels)]
        return float(sum(run(
            lambda p: _expect(columns, *parts[p], *given, members[p], first[p], second[p]), range(len(parts))
        ))) / n  # fmt: skip

    mixture, likelihood, gain, iteration = start, -np.inf, np.inf, 0
    while gain > tolerance and iteration < max_iterations:
        found = expect(mixture)
        mixture = _maximize(members.sum(axis=0), first.sum(axis=0), second.sum(axis=0), floor)
        gain, likelihood, iteration = abs(found - likelihood), found, iteration + 1
    return Fit(mixture, likelihood, iteration, gain <= tolerance)


@njit(nogil=True, cache=True)
def _assign(rows, roots, shifts, levels, labels, shares):  # type: ignore[no-untyped-def]
    k, d = shifts.shape
    weighted = np.empty(k)
    for i in range(len(rows)):
        for c in range(k):
            far = 0.0
            for a in range(d):
                y = -shifts[c, a]
                for b in range(a + 1):
                    y += rows[i, b] * roots[c, b, a]
                far += y * y
            weighted[c] = levels[c] - 0.5 * far
        best = 0
        for c in range(1, k):
            if weighted[c] > weighted[best]:
                best = c
        total = 0.0
        for c in range(k):
            total += 1.0 if c == best else np.exp(weighted[c] - weighted[best])
        labels[i], shares[i] = best, np.round(1e6 / total) / 1e6


def assign_mixture(
    rows: np.ndarray, weights: np.ndarray, means: np.ndarray, roots: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest component of each row and its posterior probability, in float64, as scikit-learn's GaussianMixture.

    rows: (n, d) float64; roots: its precisions_cholesky_ (k, d, d). Returns labels (n,) int8 and shares (n,) to 6 digits.
    """
    shifts = np.einsum("kb,kba->ka", means, roots)
    levels = np.log(weights) + np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
    labels, shares = np.empty(len(rows), np.int8), np.empty(len(rows))
    _assign(np.ascontiguousarray(rows), np.ascontiguousarray(roots), shifts, levels, labels, shares)
    return labels, shares
