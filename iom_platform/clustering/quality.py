"""How good a clustering is, in numbers that need no truth.

Choosing an algorithm or a number of clusters does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

MIN_OUTCOMES = 30  # fewer would tell of single students


def _finite(measure: Callable[[], float]) -> float | None:
    """The measure, or None where the data leave it undefined."""
    try:
        value = float(measure())
    except (ValueError, ZeroDivisionError):
        return None
    return value if np.isfinite(value) else None


def _separation(scaled: np.ndarray, labels: np.ndarray, seed: int, sample: int) -> dict[str, Any]:
    from sklearn import metrics

    rows = np.arange(len(scaled))
    if len(rows) > sample:
        rows = np.sort(np.random.default_rng(seed).choice(rows, size=sample, replace=False))
    sampled, sampled_labels = scaled[rows], labels[rows]

    def defined(of: np.ndarray) -> bool:
        return 2 <= len(np.unique(of)) < len(of)

    # where all members sit on their center Davies-Bouldin and Calinski-Harabasz divide by zero or return a placeholder
    has_spread = any(np.ptp(scaled[labels == label], axis=0).any() for label in np.unique(labels))
    return {
        "silhouette": _finite(lambda: metrics.silhouette_score(sampled, sampled_labels))
        if defined(sampled_labels)
        else None,
        "silhouette_sample_rows": len(rows),
        "silhouette_seed": seed,
        "davies_bouldin": _finite(lambda: metrics.davies_bouldin_score(scaled, labels))
        if defined(labels) and has_spread
        else None,
        "calinski_harabasz": _finite(lambda: metrics.calinski_harabasz_score(scaled, labels))
        if defined(labels) and has_spread
        else None,
    }


def measure_quality(
    X_scaled: np.ndarray, labels: np.ndarray, *, seed: int, sample: int = 100_000,
    estimator: Any = None, course_ids: np.ndarray | None = None, course_weeks: np.ndarray | None = None,
    agreement: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measures of one clustering; None where a measure is undefined.

    X_scaled: (n_students, n_inputs) as the estimator sees it; labels: (n_students,) int, -1 = noise, which every measure
    of separation leaves out. estimator: the fitted one, for what only it knows; course_ids, course_weeks: (n_students,);
    agreement: of the fit, told as agreement_with_method.
    silhouette (Rousseeuw 1987) is taken on a seeded sample of at most `sample` rows, davies_bouldin (lower is better) and
    calinski_harabasz on all; inertia where the estimator has centers, bic and aic where it has a likelihood;
    noise_share, smallest_cluster_share; course_nmi and week_nmi are the mutual information with the course and with its
    week over the lesser of both entropies: 1 where the cluster says the course, or the course the cluster, however many
    there are of either. Near 1 the clusters tell courses apart rather than students.
    """
    labels = np.asarray(labels).astype(np.int64)
    kept = labels != -1
    scaled, kept_labels = np.asarray(X_scaled, dtype=np.float64)[kept], labels[kept]
    found = _separation(scaled, kept_labels, seed, sample)
    sizes = np.unique(kept_labels, return_counts=True)[1]
    found |= {
        "rows": len(labels),
        "clusters": len(sizes),
        "noise_share": float(1 - kept.mean()) if len(labels) else None,
        "smallest_cluster_share": float(sizes.min() / len(labels)) if len(sizes) else None,
        "inertia": None, "bic": None, "aic": None, "is_converged": None,
        "agreement_with_method": agreement,
    }  # fmt: skip
    if estimator is not None and hasattr(estimator, "cluster_centers_") and len(scaled):
        found["inertia"] = float(((scaled - estimator.cluster_centers_[kept_labels]) ** 2).sum())
    if estimator is not None and hasattr(estimator, "bic") and len(scaled):
        found["bic"], found["aic"] = _finite(lambda: estimator.bic(scaled)), _finite(lambda: estimator.aic(scaled))
    if hasattr(estimator, "n_iter_"):
        found["is_converged"] = bool(
            getattr(estimator, "converged_", estimator.n_iter_ < getattr(estimator, "max_iter", np.inf))
        )
    for name, groups in (("course_nmi", course_ids), ("week_nmi", course_weeks)):
        found[name] = None if groups is None else _shared(np.asarray(groups, dtype=str)[kept], kept_labels)
    return found


def _shared(groups: np.ndarray, labels: np.ndarray) -> float | None:
    """Mutual information over the lesser entropy, 0-1; None where either is one group, which shares nothing by definition."""
    from sklearn.metrics import normalized_mutual_info_score

    if len(np.unique(groups)) < 2 or len(np.unique(labels)) < 2:
        return None
    return _finite(lambda: normalized_mutual_info_score(groups, labels, average_method="min"))


def measure_outcomes(labels: np.ndarray, has_failed: np.ndarray) -> dict[str, Any]:
    """How much clusters tell of outcomes that came later; {} for fewer than MIN_OUTCOMES rows, and where all ended alike.

    labels: (n_students,) int, -1 = noise, which is a group here; has_failed: (n_students,) bool, Fail or Withdrawn.
    outcome_association is Cramér's V, 0-1, corrected for its bias (Bergsma 2013): 0 where clusters say nothing of it,
    also on few rows.
    """
    from scipy.stats.contingency import crosstab

    _, counts = crosstab(np.asarray(labels), np.asarray(has_failed, dtype=bool))
    rows = int(counts.sum())
    if rows < MIN_OUTCOMES or counts.shape[1] < 2:
        return {}
    clusters, kinds = counts.shape
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / rows
    squared = float(((counts - expected) ** 2 / expected).sum()) / rows - (clusters - 1) * (kinds - 1) / (rows - 1)
    least = min(n - (n - 1) ** 2 / (rows - 1) for n in (clusters, kinds)) - 1
    association = float(np.sqrt(max(0.0, squared) / least)) if least > 0 else 0.0
    return {"outcome_association": min(1.0, association), "outcome_rows": rows}
