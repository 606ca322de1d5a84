"""Clusters of a method that cannot predict as scikit-learn classifiers on a few centers, and how sure an assignment is.

Finding the clusters does not belong here.

A row of behavior is nearly unique, and a model goes where its rows may not: so no row is kept, only centers that are
the mean of at least ROWS_PER_CENTER rows each (microaggregation: Domingo-Ferrer and Mateo-Sanz 2002). A cluster that is
smaller than that has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NOISE = -1
ROWS_PER_CENTER = 5
MAX_CENTERS = 1000  # of one model, so that 50,000 rows are assigned in seconds; larger cohorts get larger cells
_RESOLUTION = 1e-6  # of a radius: a row on the border must not change sides by the last bits


def nearest_center(scaled: np.ndarray, labels: np.ndarray, is_core: np.ndarray) -> Any:
    """A KNeighborsClassifier that gives each row the cluster of the nearest center; it knows no noise.

    scaled: (n_rows, n_inputs) 0-1; labels: (n_rows,) int, -1 where a row's cluster is too small for a center; is_core:
    (n_rows,) bool, rows that may make centers. A cluster has many centers, which follow its shape.
    """
    from sklearn.neighbors import KNeighborsClassifier

    centers, owners = _make_centers(scaled, labels, is_core)
    return KNeighborsClassifier(n_neighbors=1, algorithm="brute").fit(centers, owners)


def centers_in_reach(scaled: np.ndarray, labels: np.ndarray, is_core: np.ndarray) -> Any:
    """A RadiusNeighborsClassifier on such centers; beyond its radius is noise.

    labels: -1 = noise; else as `nearest_center`. The radius leaves as many of these rows outside as are noise.
    """
    from sklearn.neighbors import RadiusNeighborsClassifier

    centers, owners = _make_centers(scaled, labels, is_core)
    nearest = np.full(len(scaled), np.inf)
    for center in centers:
        nearest = np.minimum(nearest, _distances(scaled, center))
    inside = int((labels != NOISE).sum())
    radius = (np.floor(np.sort(nearest)[inside - 1] / _RESOLUTION) + 2) * _RESOLUTION
    # noise has a center too, else scikit-learn warns of a label that it has not seen: no row has it and another in reach
    nowhere = np.minimum(centers.min(axis=0), 0) - 2 - 2 * radius
    classifier = RadiusNeighborsClassifier(float(radius), weights="distance", algorithm="brute", outlier_label=NOISE)
    return classifier.fit(np.vstack([centers, nowhere]), np.append(owners, np.int64(NOISE)))


def _make_centers(scaled: np.ndarray, labels: np.ndarray, is_core: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centers (n_centers, n_inputs) and the cluster of each (n_centers,)."""
    is_kept = is_core & (labels != NOISE)
    smallest = max(ROWS_PER_CENTER, -(-int(is_kept.sum()) // MAX_CENTERS))
    centers, owners = [], []
    for cluster in np.unique(labels[is_kept]):
        cells = _split(scaled[is_kept & (labels == cluster)], smallest)
        centers += [cell.mean(axis=0) for cell in cells]
        owners += [int(cluster)] * len(cells)
    return np.array(centers), np.array(owners, dtype=np.int64)


def _split(rows: np.ndarray, smallest: int) -> list[np.ndarray]:
    """Cells of at least `smallest` rows: halved at the median of the widest input (LeFevre et al. 2006), if they differ."""
    spread = np.ptp(rows, axis=0)
    if len(rows) < 2 * smallest or not spread.any():
        return [rows]
    ordered = rows[np.argsort(rows[:, int(spread.argmax())], kind="stable")]
    half = len(rows) // 2
    return _split(ordered[:half], smallest) + _split(ordered[half:], smallest)


def centers_of(estimator: Any) -> tuple[np.ndarray, np.ndarray]:
    """The centers of a fitted estimator (n_centers, n_inputs) and the cluster of each (n_centers,)."""
    if hasattr(estimator, "_fit_X"):
        owners = np.asarray(estimator.classes_[estimator._y])
        return np.asarray(estimator._fit_X)[owners != NOISE], owners[owners != NOISE]
    centers = np.asarray(estimator.cluster_centers_ if hasattr(estimator, "cluster_centers_") else estimator.means_)
    return centers, np.arange(len(centers))


def margin(estimator: Any, scaled: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How far a row is from the border of its cluster: 0 is on the border, 1 is on a center.

    1 - d1 / d2 with the distances to the nearest own and the nearest other center; a radius bounds d2, and for noise,
    which is beyond it, takes the place of d1. Returns (n_rows,).
    """
    own, other = np.full(len(scaled), np.inf), np.full(len(scaled), np.inf)
    for center, owner in zip(*centers_of(estimator), strict=True):
        distance, is_own = _distances(scaled, center), labels == owner
        own = np.where(is_own, np.minimum(own, distance), own)
        other = np.where(is_own, other, np.minimum(other, distance))
    radius = getattr(estimator, "radius", None)
    if radius is not None:
        own = np.where(labels == NOISE, radius, own)
        other = np.where(labels == NOISE, other, np.minimum(other, radius))
    return np.where(other > 0, 1 - own / np.where(other > 0, other, 1), 0.0)


def posterior(estimator: Any, scaled: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The posterior probability of the assigned component. Returns (n_rows,)."""
    return np.asarray(estimator.predict_proba(scaled)[np.arange(len(scaled)), labels])


def _distances(scaled: np.ndarray, center: np.ndarray) -> np.ndarray:
    # row by row, not by a product of matrices: a row's last bits must not depend on its neighbors
    return np.asarray(np.sqrt(((scaled - center) ** 2).sum(axis=1)))
