"""The clustering algorithms: one registry and one meaning of fit, assign and confidence for all of them.

Quality, profiles and risk do not belong here, nor does storing a model.

A fitted model is one scikit-learn Pipeline of standard parts, so that preprocessing is versioned with the estimator and
MLflow's skops format can load it: `scale` picks each model input by its name, whatever else the frame holds, and prepares
it (see `preprocessing`); `cluster` is the estimator. A missing input means something, and is filled with that meaning
rather than with a number learned from classmates, where it has one.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from iom_platform.clustering.centers import (
    NOISE,
    ROWS_PER_CENTER,
    centers_in_reach,
    centers_of,
    margin,
    nearest_center,
    posterior,
)
from iom_platform.clustering.preprocessing import (
    DEFAULTS,
    Inputs,
    build_scaling,
    select_inputs,
    select_preparation,
    to_inputs,
)
from iom_platform.tables import MODEL_INPUTS

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline

# Raise it when the same snapshot, parameters and seed would give another model: a change of preprocessing, of an
# estimator's fixed parameters or of the canonical order. It is part of the fit key, so every model is then fitted anew.
CODE_VERSION = "2"

# Types that skops does not trust by itself and that this module's pipelines hold (the imputer keeps its dtype).
TRUSTED_TYPES = ("numpy.clip", "numpy.dtype", "pandas.DataFrame")

# of the distances to the min_samples-th nearest row, itself among them, where DBSCAN's eps is not given
EPS_QUANTILE = 0.5

_ACTIVITY = ("active_days_28d_to_peers", "clicks_28d_to_peers")


class FitRefused(ValueError):
    """A snapshot gives no model worth having; the message is one sentence, without a value of any row."""


def _as_setting(knob: str) -> str:
    return f"clustering.{knob}"


@dataclass(frozen=True)
class Algorithm:
    """One entry of the registry; its functions get bare estimators and scaled matrices (n_students, n_inputs)."""

    build: Callable[..., Any]  # (knobs by name) -> unfitted estimator; the names of its arguments are the knobs
    assigned_by: str  # the rule for a row, in words
    # of an estimator that predicts: renumbers the fitted clusters in place
    reorder: Callable[[Any, np.ndarray], None] | None = None
    # of one that cannot: (estimator, X) -> labels (n_students,), -1 = noise, and who may make a center (n_students,) bool
    find: Callable[[Any, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None
    # and (X, labels, is_core) -> the classifier that assigns in its place
    summarize: Callable[[np.ndarray, np.ndarray, np.ndarray], Any] = centers_in_reach
    max_rows: int | None = None  # a snapshot of more rows is fitted on a seeded sample of this many

    @property
    def knobs(self) -> tuple[str, ...]:
        """The settings that hold for this algorithm."""
        return tuple(inspect.signature(self.build).parameters)

    @property
    def is_of_density(self) -> bool:
        """Whether clusters are places where rows lie dense, and the others are noise."""
        return "min_samples" in self.knobs


def _build_kmeans(n_clusters: int, max_iterations: int, seed: int) -> Any:
    from sklearn.cluster import KMeans

    return KMeans(
        n_clusters=n_clusters, max_iter=max_iterations, n_init=10, tol=1e-6, algorithm="lloyd", random_state=seed
    )


def _reorder_kmeans(estimator: Any, order: np.ndarray) -> None:
    estimator.cluster_centers_ = np.ascontiguousarray(estimator.cluster_centers_[order])
    estimator.labels_ = np.argsort(order)[estimator.labels_].astype(np.int32)


def _build_gmm(n_clusters: int, max_iterations: int, seed: int) -> Any:
    from sklearn.mixture import GaussianMixture

    # Inputs pile up at 0 and 1, where a component would shrink without end: a standard deviation of 0.03 of a scaled
    # input's unit, its range by default, is its floor.
    return GaussianMixture(n_components=n_clusters, max_iter=max_iterations, covariance_type="full", reg_covar=1e-3,
                           n_init=5, tol=1e-4, random_state=seed)  # fmt: skip


def _reorder_gmm(estimator: Any, order: np.ndarray) -> None:
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        setattr(estimator, name, np.ascontiguousarray(getattr(estimator, name)[order]))


def _build_dbscan(min_samples: int, eps: float | None = None) -> Any:
    from sklearn.cluster import DBSCAN

    return DBSCAN(eps=eps, min_samples=min_samples)


def _find_by_dbscan(estimator: Any, scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same as DBSCAN on all rows; an eps that is None is the EPS_QUANTILE of the distances to the min_samples-th row."""
    from sklearn.neighbors import NearestNeighbors

    if estimator.eps is None:
        distance, _ = NearestNeighbors(n_neighbors=estimator.min_samples).fit(scaled).kneighbors(scaled)
        estimator.set_params(eps=max(float(np.quantile(distance[:, -1], EPS_QUANTILE)), 1e-6))
    # equal rows as one that weighs more: inactive students are alike, and each would hold a list of all the others
    distinct, place, weight = np.unique(scaled, axis=0, return_inverse=True, return_counts=True)
    found = estimator.fit(distinct, sample_weight=weight)
    is_core = np.isin(np.arange(len(distinct)), found.core_sample_indices_)
    return found.labels_[place], is_core[place]


def _build_hdbscan(min_cluster_size: int, min_samples: int) -> Any:
    from sklearn.cluster import HDBSCAN

    return HDBSCAN(min_cluster_size=min_cluster_size, min_samples=min_samples, copy=True)


def _build_hierarchical(n_clusters: int, linkage: str) -> Any:
    from sklearn.cluster import AgglomerativeClustering

    return AgglomerativeClustering(n_clusters=n_clusters, linkage=linkage)


def _find(estimator: Any, scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = np.asarray(estimator.fit_predict(scaled))
    return labels, labels != NOISE


_IN_REACH = (
    f"a vote, weighted by 1 / distance, of the centers within a radius, each the mean of at least {ROWS_PER_CENTER} rows of "
    "a cluster; noise where there is none"
)
_NEAREST = f"the nearest center, each the mean of at least {ROWS_PER_CENTER} rows of a cluster"

ALGORITHMS: Mapping[str, Algorithm] = {
    "kmeans": Algorithm(_build_kmeans, "the nearest center", _reorder_kmeans),
    "gmm": Algorithm(_build_gmm, "the component of highest posterior probability", _reorder_gmm),
    # what limits: lists of neighbors, 0.5 GB for 50,000 rows; all pairs, half a minute for them; all distances, 1 GB for 10,000
    "dbscan": Algorithm(_build_dbscan, _IN_REACH, find=_find_by_dbscan, max_rows=50_000),
    "hdbscan": Algorithm(_build_hdbscan, _IN_REACH, find=_find, max_rows=30_000),
    "hierarchical": Algorithm(_build_hierarchical, _NEAREST, find=_find, summarize=nearest_center, max_rows=10_000),
}

# of a fitted estimator, by its class
_CONFIDENCE = {
    "KMeans": margin, "GaussianMixture": posterior, "KNeighborsClassifier": margin, "RadiusNeighborsClassifier": margin,
}  # fmt: skip

# knob -> (least value, why); whole numbers
_LEAST = {
    "n_clusters": (2, "from 2 on clusters tell students apart"),
    "max_iterations": (1, "a fit takes at least one"),
    "seed": (0, f"a seed is a whole number from 0 to {2**32 - 1}"),
    "min_samples": (2, "fewer than 2 rows are no neighborhood"),
    "min_cluster_size": (ROWS_PER_CENTER, "a smaller cluster would describe single students"),
}
LINKAGES = ("ward", "average", "complete")


def find_algorithm(name: str) -> Algorithm:
    """The registered algorithm; ValueError names the known ones."""
    if name not in ALGORITHMS:
        raise ValueError(f"clustering.algorithm {name!r} is not registered; use one of {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]


def select_params(algorithm: str, knobs: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that hold for an algorithm, by their names in the settings, from knobs of any.

    All of them are checked. A preparation that is the default is left out, so that a model without any is what it was
    before there were some. Raises ValueError for an unknown algorithm or a value out of range, and TypeError for a knob
    that no algorithm has or that is no number.
    """
    names = ["seed", *find_algorithm(algorithm).knobs]
    for name, value in knobs.items():
        _check_knob(name, value)
    chosen = {name: value for name, value in knobs.items() if name in names}
    return {"algorithm": algorithm, **chosen, **select_preparation(knobs)}


def _check_knob(name: str, value: Any) -> None:
    if name in _LEAST:
        least, why = _LEAST[name]
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} is {value!r}, which is no whole number; write one such as {name}=4")
        if value < least or (name == "seed" and value >= 2**32):
            raise ValueError(f"clustering.{name} is {value}; {why}")
    elif name == "eps":
        if isinstance(value, bool) or not isinstance(value, Real | None):
            raise TypeError(f"eps is {value!r}, which is no number; write one such as eps=0.2")
        if value is not None and not 0 < value < np.inf:
            raise ValueError(f"clustering.eps is {value}; a distance is above 0, and None takes it from the data")
    elif name == "linkage":
        if value not in LINKAGES:
            raise ValueError(f"clustering.linkage is {value!r}; use one of {', '.join(LINKAGES)}")
    elif name not in DEFAULTS:
        known = [*dict.fromkeys(knob for entry in ALGORITHMS.values() for knob in entry.knobs), *DEFAULTS]
        raise TypeError(f"no algorithm has a knob {name!r}; the known ones are {', '.join(known)}")


def _canonical_order(centers: np.ndarray) -> np.ndarray:
    """Most active cluster first; ties by the other inputs. Rounded, since another thread count moves the last bits."""
    activity = centers[:, [MODEL_INPUTS.index(name) for name in _ACTIVITY]].mean(axis=1)
    keys = np.round(np.column_stack([-activity, centers]), 9)
    return np.lexsort(keys.T[::-1])


@dataclass(frozen=True)
class Fitted:
    """A fitted model, and how it was made.

    fitted_on: which rows, in words; assigned_by: the rule for a row; agreement: adjusted Rand index (Hubert and Arabie
    1985) of the rule with the clusters that the method found on those rows, noise as a cluster; 1 is the same, 0 is chance,
    None where the method predicts by itself.
    """

    model: Pipeline
    fitted_on: str
    assigned_by: str
    agreement: float | None = None


def fit(frame: pd.DataFrame | Inputs, *, algorithm: str, seed: int, **knobs: Any) -> Pipeline:
    """The model alone of `fit_and_describe`."""
    return fit_and_describe(frame, algorithm=algorithm, seed=seed, **knobs).model


def fit_and_describe(
    frame: pd.DataFrame | Inputs, *, algorithm: str, seed: int, max_rows: int | None = None, **knobs: Any
) -> Fitted:
    """Fit preprocessing and estimator on a training snapshot.

    frame: (n_students, >= MODEL_INPUTS), nulls allowed, or the inputs of one; the order of rows does not matter. knobs: as
    the settings `clustering.*`; those of other algorithms are ignored, so n_clusters means nothing to dbscan and hdbscan.
    max_rows: in place of the registry's. The model is a Pipeline with the steps `scale` and `cluster`, float64, fitted on one thread,
    clusters numbered from the most active one; it holds no row. A column without a value stays constant. Raises
    FitRefused, a ValueError, for an empty frame, no value at all, fewer distinct rows than clusters, and fewer than two
    clusters that are large enough for a center; ValueError for an absent or non-finite input; else as `select_params`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import Pipeline

    params, entry = select_params(algorithm, {"seed": seed, **knobs}), find_algorithm(algorithm)
    given = frame if isinstance(frame, Inputs) else Inputs.of(frame)
    if not len(given):
        raise FitRefused("there is no row to fit clusters on; choose an as-of day on which an observed course runs")
    if np.isnan(given.raw).all():
        raise FitRefused("no model input has a value in the snapshot; choose an as-of day with activity")
    if len(given) < params.get("pca_components", 0):
        raise FitRefused(
            f"there are {len(given)} rows and clustering.pca_components is {params['pca_components']}; lower it"
        )
    scaling, estimator = build_scaling(**select_preparation(params)), _build(params)

    def order(centers: np.ndarray) -> np.ndarray:
        return _canonical_order(to_inputs(scaling, centers))

    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told by measure_quality as is_converged
        _check_distinct(given.count_distinct(), params)  # without any variance no component has a direction
        scaled = np.asarray(scaling.fit_transform(given.in_order().filled), dtype=np.float64)
        (rows, fitted_on), agreement = draw_rows(scaled, max_rows or entry.max_rows, seed), None
        _check_distinct(len(np.unique(rows.round(9), axis=0)), params)
        if entry.find is None:
            estimator.fit(rows)
            assert entry.reorder is not None
            entry.reorder(estimator, order(centers_of(estimator)[0]))
        else:
            estimator, agreement = find_and_summarize(rows, params, order=order)
    model = Pipeline([("scale", Pipeline([("fill", given.fill), *scaling.steps])), ("cluster", estimator)])
    return Fitted(model, fitted_on, entry.assigned_by, agreement)


@cache
def _threads() -> Any:
    import sklearn.cluster  # noqa: F401  with it every library is there whose threads are meant
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()


def _one_thread() -> Any:
    """A context in which linear algebra runs on one thread; to look for the libraries again would take longer than a small fit."""
    return _threads().limit(limits=1)


def _build(params: Mapping[str, Any]) -> Any:
    entry = find_algorithm(params["algorithm"])
    return entry.build(**{name: params[name] for name in entry.knobs if name in params})


def draw_rows(scaled: np.ndarray, max_rows: int | None, seed: int) -> tuple[np.ndarray, str]:
    """At most max_rows of the rows (n_rows, n_inputs) in their order, drawn by the seed, and which they are in words."""
    if max_rows is None or len(scaled) <= max_rows:
        return scaled, f"all {len(scaled):,} rows"
    rows = scaled[np.sort(np.random.default_rng(seed).choice(len(scaled), size=max_rows, replace=False))]
    return rows, f"a sample of {len(rows):,} of {len(scaled):,} rows, seed {seed}"


def _check_distinct(distinct: int, params: Mapping[str, Any]) -> None:
    clusters = params.get("n_clusters", 2)
    if distinct < clusters:
        remedy = "lower clustering.n_clusters or choose" if "n_clusters" in params else "choose"
        raise FitRefused(f"the snapshot has {distinct} distinct rows for {clusters} clusters; {remedy} a later day")


def find_and_summarize(
    rows: np.ndarray, params: Mapping[str, Any], *, order: Callable[[np.ndarray], np.ndarray],
    spell: Callable[[str], str] = _as_setting,
) -> tuple[Any, float]:  # fmt: skip
    """The classifier that assigns to the clusters which a method finds that cannot predict, and how well it agrees with it.

    rows: (n_rows, n_inputs) float64; params: as `select_params` returns them; order: from the means of the clusters
    (k, n_inputs) to their places, the first one first; spell: a knob as its user knows it. The agreement is that of
    `Fitted`. Raises FitRefused for fewer rows than a knob asks for, and fewer than two clusters that have a center.
    """
    from sklearn.metrics import adjusted_rand_score

    entry = find_algorithm(params["algorithm"])
    assert entry.find is not None
    for knob in ("min_samples", "min_cluster_size"):
        if len(rows) < params.get(knob, 0):
            raise FitRefused(f"there are {len(rows)} rows and {spell(knob)} is {params[knob]}; lower it")
    exact, is_core = entry.find(_build(params), rows)
    sizes = np.bincount(exact[is_core & (exact != NOISE)])
    kept = np.flatnonzero(sizes >= ROWS_PER_CENTER)
    if len(kept) < 2:
        raise FitRefused(
            f"{len(rows)} rows make {len(kept)} cluster{'s' * (len(kept) != 1)} of {ROWS_PER_CENTER} rows or more, which "
            f"tells nobody apart; change {' or '.join(map(spell, entry.knobs))}"
        )
    placed = kept[order(np.array([rows[exact == cluster].mean(axis=0) for cluster in kept]))]
    number = np.full(exact.max() + 2, NOISE)  # the last place is for -1
    number[placed] = np.arange(len(placed))
    classifier = entry.summarize(rows, number[exact], is_core)
    return classifier, float(adjusted_rand_score(exact, classifier.predict(rows)))


def scale(model: Pipeline, frame: pd.DataFrame | Inputs, *, project: bool = True) -> np.ndarray:
    """The matrix that the estimator sees. Returns (n_students, n_inputs) float64, columns as MODEL_INPUTS or the components of them.

    project: False for the inputs themselves where the model has components.
    """
    rows = frame if isinstance(frame, Inputs) else select_inputs(frame)
    if not len(rows):
        return np.empty((0, len(MODEL_INPUTS)))
    steps = model["scale"]
    if not project and steps.steps[-1][0] == "components":
        steps = steps[:-1]
    with _one_thread():
        # what is filled already needs the steps after that alone
        found = steps[1:].transform(rows.filled) if isinstance(rows, Inputs) else steps.transform(rows)
    return np.asarray(found, dtype=np.float64)


def assign(model: Pipeline, frame: pd.DataFrame | Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of new rows under a fitted model; nothing is refitted.

    Returns labels (n_students,) int16, -1 = noise, and confidence (n_students,) float64 0-1, rounded to 6 digits: the
    posterior for gmm, for the others 1 - d1 / d2 (see `centers.margin`). The two are not on one scale. Raises ValueError
    as `fit` does for inputs.
    """
    scaled = scale(model, frame)
    if not len(scaled):
        return np.empty(0, dtype=np.int16), np.empty(0)
    if (measure := _CONFIDENCE.get(type(model[-1]).__name__)) is None:
        raise ValueError(
            f"the model's estimator {type(model[-1]).__name__} is not registered; fit it with this version"
        )
    with _one_thread():
        labels = np.asarray(model[-1].predict(scaled))
        confidence = measure(model[-1], scaled, labels)
    return labels.astype(np.int16), np.round(np.clip(confidence, 0.0, 1.0), 6)


def run_params(*, algorithm: str, seed: int, **knobs: Any) -> dict[str, Any]:
    """The parameters of a fit for the run log: ours by one name for every algorithm, the estimator's under `estimator.`.

    Knobs that do not hold for the algorithm are left out. The prefix keeps them apart: K-Means has an `algorithm` of its own.
    """
    shared = select_params(algorithm, {**knobs, "seed": seed})
    estimator = _build(shared)
    own = {f"estimator.{name}": value for name, value in estimator.get_params(deep=False).items()}
    return {**shared, "estimator": type(estimator).__name__, **own}


def name_fit(params: Mapping[str, Any]) -> str:
    """`kmeans, k=4, robust, pca=3, weighted`, or the algorithm alone where it finds the number by itself and nothing is prepared."""
    parts = [str(params.get("algorithm"))]
    parts += [f"k={params['n_clusters']}"] if "n_clusters" in params else []
    parts += [str(params["scaling"])] if "scaling" in params else []
    parts += [f"pca={params['pca_components']}"] if "pca_components" in params else []
    parts += ["weighted"] if "weights" in params else []
    return ", ".join(parts)


def fit_key(snapshot_hash: str, params: Mapping[str, Any], seed: int, code_version: str = CODE_VERSION) -> str:
    """The identity of a fit: equal keys mean an equal model, so a registered one is reused. 64 hex digits."""
    parts = {"snapshot": snapshot_hash, "params": dict(params), "seed": seed, "code": code_version}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
