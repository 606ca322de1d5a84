"""Clusters of many learners by a few numbers of each, and how good they are.

Reading and writing files do not belong here; nor do the daily models of enrollments (`algorithms.py`), whose registry
says how a method is fitted that cannot see every row.

Columns are (n_features, n_learners) float32, standardized. The models are scikit-learn's own, so that they load without
this package; a label is what their `predict` says of the float64 values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from iom_platform.clustering.algorithms import draw_rows, find_algorithm, find_and_summarize, select_params
from iom_platform.clustering.centers import NOISE, centers_of
from iom_platform.clustering.passes.chunks import Fit, Map, chunks
from iom_platform.clustering.passes.kmeans import fit_kmeans
from iom_platform.clustering.passes.mixture import Mixture, assign_mixture, fit_mixture
from iom_platform.clustering.passes.nearness import assign_by_centers
from iom_platform.clustering.passes.quantiles import find_quantiles
from iom_platform.clustering.passes.silhouette import measure_silhouettes
from iom_platform.clustering.passes.spread import count_members, find_means, sum_spread

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture
    from sklearn.preprocessing import StandardScaler

MOST_CLUSTERS = 100  # a label is written with two digits
START_ROWS = 100_000  # rows on which starts are drawn and compared; every row then decides where the fit ends
_STARTS = 10
_KMEANS_TOLERANCE = 1e-4  # of the mean variance, as scikit-learn's default
_MIXTURE_TOLERANCE = 1e-4
_MIXTURE_FLOOR = 1e-6
_DETERMINED = 0.9999  # share of a feature's variance that the others explain, from which it says nothing of its own
_QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Clusters:
    """One fitted algorithm: scikit-learn's estimator on standardized values, and how the passes of its fit ended.

    Of a method that no pass can fit: which rows it was fitted on, and the agreement of `algorithms.Fitted`.
    """

    algorithm: str
    estimator: Any
    fit: Fit | None = None
    fitted_on: str = "every learner"
    agreement: float | None = None

    def assign(self, scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Labels (n,) int8, -1 = noise, and, for gmm, the posterior of the assigned component (n,), rounded to 6 digits.

        scaled: (n, n_features) float64.
        """
        if self.algorithm == "kmeans":
            return self.estimator.predict(scaled).astype(np.int8), None
        if self.algorithm == "gmm":
            return assign_mixture(
                scaled, self.estimator.weights_, self.estimator.means_, self.estimator.precisions_cholesky_
            )
        labels, is_doubtful = assign_by_centers(
            scaled, *centers_of(self.estimator), radius=getattr(self.estimator, "radius", None)
        )
        if is_doubtful.any():
            labels[is_doubtful] = self.estimator.predict(scaled[is_doubtful])
        return labels, None


def make_scaler(
    means: np.ndarray, deviations: np.ndarray, rows: int, weights: np.ndarray | None = None
) -> StandardScaler:
    """A scikit-learn StandardScaler of known moments; a constant feature becomes 0, as in scikit-learn.

    weights: (n_features,), which the standardized features are multiplied with: `scale_` is the deviation over the weight.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    scaler.mean_, scaler.var_ = means.copy(), deviations**2
    scaler.scale_ = np.where(deviations > 0, deviations, 1.0) / (1.0 if weights is None else weights)
    scaler.n_features_in_, scaler.n_samples_seen_ = len(means), rows
    return scaler


def find_empty_features(columns: np.ndarray, features: Sequence[str]) -> list[str]:
    """A sentence for each feature that says nothing of its own: constant, or determined by the others linearly."""
    found = [f"{name} is constant, so it tells no learner apart" for name, column in zip(features, columns, strict=True)
             if column.min() == column.max()]  # fmt: skip
    varying = [j for j, column in enumerate(columns) if column.min() < column.max()]
    if len(varying) < 2:
        return found
    correlation = _correlate(columns, varying)
    for at, j in enumerate(varying):
        others = np.delete(np.arange(len(varying)), at)
        weights = np.linalg.lstsq(correlation[np.ix_(others, others)], correlation[others, at], rcond=None)[0]
        explained = float(weights @ correlation[others, at])
        if explained > _DETERMINED:
            names = ", ".join(features[varying[o]] for o in others[np.abs(weights) > 1e-3])
            found.append(
                f"{features[j]} is a linear combination of {names} (R² {explained:.6f}), so measures of separation say little"
            )
    return found


def _correlate(columns: np.ndarray, varying: Sequence[int]) -> np.ndarray:
    """Correlations of these columns, summed in float64 a chunk at a time."""
    products, sums = np.zeros((len(varying), len(varying))), np.zeros(len(varying))
    for low, high in chunks(columns.shape[1]):
        some = columns[varying, low:high].astype(np.float64)
        products, sums = products + some @ some.T, sums + some.sum(axis=1)
    centered = products - np.outer(sums, sums) / columns.shape[1]
    scale = np.sqrt(np.diagonal(centered))
    return np.asarray(centered / np.outer(scale, scale))


def fit_clusters(
    columns: np.ndarray, *, algorithms: Sequence[str], clusters: int, max_iterations: int, seed: int, run: Map = map,
    knobs: Mapping[str, Any] | None = None, weights: np.ndarray | None = None,
) -> list[Clusters]:  # fmt: skip
    """Fit each algorithm; clusters are numbered from the one whose standardized means are highest.

    columns: multiplied with the `weights` (n_features,), where there are any. kmeans and gmm see every row: the start of
    K-Means is the best of 10 on a seeded sample of at most START_ROWS rows, and a mixture starts from the K-Means of the
    sample. The others are fitted on a sample of as many rows as the registry allows, `knobs` being theirs. Raises
    ValueError for fewer distinct rows in the first sample than clusters, and where a method finds fewer than two clusters
    or more than MOST_CLUSTERS.
    """
    rows = columns.shape[1]
    rng = np.random.default_rng(seed)
    sample = columns
    if rows > START_ROWS:
        sample = np.ascontiguousarray(columns[:, np.sort(rng.choice(rows, START_ROWS, replace=False))])
    if has_count(algorithms):
        distinct = len(np.unique(sample.T, axis=0))
        if distinct < clusters:
            where = f" in a sample of {START_ROWS:,}" if rows > START_ROWS else ""
            raise ValueError(f"there are {distinct} distinct learners{where} for {clusters} clusters")
    passes: dict[str, Any] = {"max_iterations": max_iterations, "run": run}
    tolerance = _KMEANS_TOLERANCE * (1.0 if weights is None else float(np.mean(weights**2)))
    found, start = [], None
    for algorithm in algorithms:
        if find_algorithm(algorithm).find:
            found.append(_fit_method(columns, algorithm, {**(knobs or {}), "n_clusters": clusters, "seed": seed}))
            continue
        if start is None:
            start = _start(sample, clusters, rng, tolerance=tolerance / 100, **passes)
        if algorithm == "kmeans":
            fit = fit_kmeans(columns, start, tolerance=tolerance, **passes)
            found.append(Clusters(algorithm, _as_kmeans(_order(fit.parameters, fit.parameters), seed), fit))
        else:
            rough = fit_mixture(
                sample, _spread_out(sample, start), tolerance=_MIXTURE_TOLERANCE / 10, floor=_MIXTURE_FLOOR, **passes
            )
            fit = fit_mixture(columns, rough.parameters, tolerance=_MIXTURE_TOLERANCE, floor=_MIXTURE_FLOOR, **passes)
            found.append(Clusters(algorithm, _as_mixture(fit.parameters, seed), fit))
    return found


def has_count(algorithms: Iterable[str]) -> bool:
    """Whether the number of clusters means anything to one of them."""
    return any("n_clusters" in find_algorithm(name).knobs for name in algorithms)


def _fit_method(columns: np.ndarray, algorithm: str, knobs: Mapping[str, Any]) -> Clusters:
    """Fit a method that cannot predict as the registry does, on one thread: the same bits on any number of cores."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    params = select_params(algorithm, knobs)
    rows, fitted_on = draw_rows(columns.T, find_algorithm(algorithm).max_rows, knobs["seed"])
    with threadpool_limits(limits=1):
        try:
            estimator, agreement = find_and_summarize(
                np.ascontiguousarray(rows, dtype=np.float64), params, order=_rank, spell=_as_option
            )
        except ValueError as error:
            raise ValueError(f"{algorithm}: {error}") from None
    clusters = int(estimator.classes_.max()) + 1
    if clusters > MOST_CLUSTERS:
        told = " or ".join(map(_as_option, find_algorithm(algorithm).knobs))
        raise ValueError(f"{algorithm}: finds {clusters} clusters, and {MOST_CLUSTERS} are the most; change {told}")
    return Clusters(algorithm, estimator, fitted_on=fitted_on, agreement=agreement)


def _as_option(knob: str) -> str:
    return "--k" if knob == "n_clusters" else f"--{knob.replace('_', '-')}"


def _start(sample: np.ndarray, clusters: int, rng: np.random.Generator, **knobs: Any) -> np.ndarray:
    """The centers of the best of several K-Means on the sample, each from a k-means++ start."""
    from sklearn.cluster import kmeans_plusplus

    rows = np.ascontiguousarray(sample.T)
    fits = []
    for _ in range(_STARTS):
        centers = kmeans_plusplus(rows, clusters, random_state=int(rng.integers(2**31)))[0]
        fits.append(fit_kmeans(sample, centers, **knobs))
    return np.asarray(min(fits, key=lambda fit: fit.criterion).parameters)


def _spread_out(sample: np.ndarray, centers: np.ndarray) -> Mixture:
    """The mixture whose components are the K-Means clusters of the sample."""
    distance = ((sample.T[:, None, :] - centers[None]) ** 2).sum(axis=2)
    labels = distance.argmin(axis=1)
    weights = np.bincount(labels, minlength=len(centers)) / len(labels)
    floor = _MIXTURE_FLOOR * np.eye(len(sample))
    covariances = np.stack(
        [np.cov(sample[:, labels == c], bias=True).reshape(floor.shape) + floor for c in range(len(centers))]
    )
    return Mixture(weights, centers, covariances)


def _rank(centers: np.ndarray) -> np.ndarray:
    """The places of the clusters, the one with the highest standardized means first; ties by the features in turn."""
    keys = np.round(np.column_stack([-centers.mean(axis=1), -centers]), 9)
    return np.lexsort(keys.T[::-1])


def _order(centers: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values[_rank(centers)])


def _as_kmeans(centers: np.ndarray, seed: int) -> KMeans:
    from sklearn.cluster import KMeans

    # fitted on its own centers, each of which is then a cluster
    return KMeans(len(centers), init=centers, n_init=1, max_iter=1, algorithm="lloyd", random_state=seed).fit(centers)


def _as_mixture(mixture: Mixture, seed: int) -> GaussianMixture:
    from sklearn.mixture import GaussianMixture

    made = GaussianMixture(len(mixture.weights), covariance_type="full", reg_covar=_MIXTURE_FLOOR, random_state=seed)
    made.weights_, made.means_, made.covariances_ = (
        _order(mixture.means, one) for one in (mixture.weights, mixture.means, mixture.covariances)
    )
    made.precisions_cholesky_ = np.swapaxes(np.linalg.inv(np.linalg.cholesky(made.covariances_)), 1, 2)
    made.precisions_ = made.precisions_cholesky_ @ np.swapaxes(made.precisions_cholesky_, 1, 2)
    made.n_features_in_ = mixture.means.shape[1]
    return made


def label_learners(values: np.ndarray, scaler: StandardScaler, found: Sequence[Clusters]) -> dict[str, np.ndarray]:
    """Columns of the result: cluster_* (n,) int8 of each algorithm, then *_confidence (n,) of those that have one.

    values: (n, n_features) float64, as delivered.
    """
    scaled = (values - scaler.mean_) / scaler.scale_
    assigned = {one.algorithm: one.assign(scaled) for one in found}
    confidences = {name: confidence for name, (_, confidence) in assigned.items() if confidence is not None}
    return {
        **{f"cluster_{name}": labels for name, (labels, _) in assigned.items()},
        **{f"{name}_confidence": confidence for name, confidence in confidences.items()},
    }


# -- how good they are ---------------------------------------------------------------------------------


def measure_clusters(
    columns: np.ndarray, found: Mapping[str, Clusters], labels: Mapping[str, np.ndarray], *, sample: int, seed: int,
    run: Map = map,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Measures of each algorithm by the names of `quality.measure_quality`; None where undefined.

    labels: (n_learners,) int8 by algorithm, -1 = noise, which every measure of separation leaves out. The silhouette is
    exact on a seeded sample of at most `sample` rows, the same for every algorithm; davies_bouldin, calinski_harabasz and
    inertia are of all rows. Of a method that was fitted on a sample also agreement_with_method, and noise_share.
    """
    rows = columns.shape[1]
    chosen = np.arange(rows)
    if rows > sample:
        chosen = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
    names = list(found)
    silhouettes = measure_silhouettes(
        np.ascontiguousarray(columns[:, chosen]), [labels[name][chosen] for name in names], run=run
    )
    return {
        name: {
            "silhouette": silhouette, "silhouette_sample_rows": int((labels[name][chosen] != NOISE).sum()),
            "silhouette_seed": seed,
            **_measure_one(columns, found[name], labels[name], run),
        } for name, silhouette in zip(names, silhouettes, strict=True)
    }  # fmt: skip


def _measure_one(columns: np.ndarray, clusters: Clusters, labels: np.ndarray, run: Map) -> dict[str, Any]:
    d, rows = columns.shape
    sizes = count_members(labels, max(int(labels.max()) + 1, 1))
    members = int(sizes.sum())
    spread = sum_spread(columns, labels, len(sizes), run=run)
    kept = sizes > 0
    sizes, centers = sizes[kept], spread.centers[kept]
    k, within = len(sizes), float(spread.squared[kept].sum())
    between = float((sizes[:, None] * (centers - spread.mean) ** 2).sum())
    measures: dict[str, Any] = {
        "rows": rows, "clusters": k, "smallest_cluster_share": float(sizes.min() / rows) if k else None,
        "davies_bouldin": _davies_bouldin(centers, spread.distance[kept] / sizes) if k > 1 else None,
        "calinski_harabasz": between / (k - 1) / (within / (members - k)) if 1 < k < members and within > 0 else None,
        "inertia": None, "bic": None, "aic": None,
    }  # fmt: skip
    if clusters.fit is None:
        return measures | {
            "noise_share": 1 - members / rows, "agreement_with_method": clusters.agreement,
            "iterations": None, "is_converged": None,
        }  # fmt: skip
    measures |= {"iterations": clusters.fit.iterations, "is_converged": clusters.fit.is_converged}
    if clusters.algorithm == "kmeans":
        measures["inertia"] = clusters.fit.criterion
    else:
        components = len(clusters.estimator.weights_)
        free = components * (d + d * (d + 1) // 2) + components - 1
        misfit = -2 * clusters.fit.criterion * rows
        measures |= {"bic": misfit + free * float(np.log(rows)), "aic": misfit + 2 * free}
    return measures


def _davies_bouldin(centers: np.ndarray, spread: np.ndarray) -> float | None:
    """Davies and Bouldin 1979: the mean over clusters of the worst ratio of spreads to the distance of centers."""
    apart = np.sqrt(((centers[:, None] - centers[None]) ** 2).sum(axis=2))
    np.fill_diagonal(apart, np.inf)
    if not (apart > 0).all():
        return None
    return float(((spread[:, None] + spread[None]) / apart).max(axis=1).mean())


def profile_learners(
    columns: np.ndarray, labels: Mapping[str, np.ndarray], scaler: StandardScaler, features: Sequence[str], *,
    weights: np.ndarray | None = None, run: Map = map,
) -> pd.DataFrame:  # fmt: skip
    """A row per algorithm, cluster and feature in the feature's own unit, to 6 digits.

    algorithm, cluster, learners, share, feature, mean, q1, median, q3 and standardized_difference: the cluster's mean
    from the mean of all, in standard deviations of all; weights: as `fit_clusters` was given. Noise is cluster -1.
    """
    import pandas as pd

    # counted from 0: noise is a group here
    first = {name: min(int(some.min()), 0) for name, some in labels.items()}
    labels = {name: some - np.int8(first[name]) if first[name] else some for name, some in labels.items()}
    means = {name: find_means(columns, some, int(some.max()) + 1, run=run)[1] for name, some in labels.items()}

    def describe(job: tuple[str, int]) -> list[dict[str, Any]]:
        name, j = job
        mean, scale = float(scaler.mean_[j]), float(scaler.scale_[j])
        sizes = count_members(labels[name], len(means[name]))
        quartiles = find_quantiles(columns[j], labels[name], len(sizes), _QUARTILES)
        rows = []
        for cluster in np.flatnonzero(sizes).tolist():
            apart = float(means[name][cluster, j])
            told = [mean + scale * float(one) for one in (apart, *quartiles[cluster])]
            rows.append({
                "algorithm": name, "cluster": cluster + first[name], "learners": int(sizes[cluster]), "share": sizes[cluster] / columns.shape[1],
                "feature": features[j], **{n: float(f"{v:.6g}") for n, v in zip(("mean", "q1", "median", "q3"), told, strict=True)},
                "standardized_difference": float(f"{apart / (1.0 if weights is None else weights[j]):.6g}"),
            })  # fmt: skip
        return rows

    jobs = [(name, j) for name in labels for j in range(len(features))]
    table = pd.DataFrame([row for rows in run(describe, jobs) for row in rows])
    at = {name: i for i, name in enumerate(features)}
    keys = {"algorithm": {n: i for i, n in enumerate(labels)}, "feature": at}
    order = table.assign(**{c: table[c].map(known) for c, known in keys.items()}).sort_values(
        ["algorithm", "cluster", "feature"]
    )
    return table.loc[order.index].reset_index(drop=True)


def hide_small(profiles: pd.DataFrame, *, k: int) -> pd.DataFrame:
    """Profiles whose clusters of fewer than k learners have a size and no figure: those would describe persons."""
    figures = ["mean", "q1", "median", "q3", "standardized_difference"]
    hidden = profiles.copy()
    hidden.loc[hidden["learners"] < k, figures] = np.nan
    return hidden
