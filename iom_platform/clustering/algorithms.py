"""The clustering algorithms: one registry and one meaning of fit, assign and confidence for all of them.

Quality, profiles and risk do not belong here, nor does storing a model.

A fitted model is one scikit-learn Pipeline of standard parts, so that preprocessing is versioned with the estimator and
MLflow's skops format can load it: `scale` picks each model input by its name, whatever else the frame holds, and brings
it to 0-1; `cluster` is the estimator. A missing input means something, and is filled with that meaning rather than with
a number learned from classmates, where it has one.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from iom_platform.tables import MODEL_INPUTS

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline

# Raise it when the same snapshot, parameters and seed would give another model: a change of preprocessing, of an
# estimator's fixed parameters or of the canonical order. It is part of the fit key, so every model is then fitted anew.
CODE_VERSION = "2"

# Types that skops does not trust by itself and that this module's pipelines hold (the imputer keeps its dtype).
TRUSTED_TYPES = ("numpy.dtype", "pandas.DataFrame")

# Longer than any presentation: never active is further away than any activity.
NEVER_ACTIVE_DAYS = 365.0

# What a missing input means; None: nothing in itself, so the training median stands in.
_MEANING: dict[str, float | None] = {
    "active_days_28d_to_peers": 0.5,  # null where student and peer median are both 0: as the peers
    "clicks_28d_to_peers": 0.5,
    "clicks_14d_to_history": 0.5,  # null while there is no history: unchanged
    "days_since_last_activity": NEVER_ACTIVE_DAYS,
    "weekday_entropy_share": 0.0,  # null if never active: no day, no spread
    "submissions_missed_share": 0.0,  # null while none is due: none missed
    "score_pct_mean": None,
}
_ACTIVITY = ("active_days_28d_to_peers", "clicks_28d_to_peers")


@dataclass(frozen=True)
class Algorithm:
    """One entry of the registry; the functions get the bare estimator and the scaled matrix (n_students, n_inputs)."""

    estimator: str  # class name, by which a loaded model is recognized
    build: Callable[[int, int, int], Any]  # (n_clusters, max_iterations, seed) -> unfitted estimator
    centers: Callable[[Any], np.ndarray]  # -> (n_clusters, n_inputs)
    reorder: Callable[[Any, np.ndarray], None]  # renumbers the clusters in place
    confidence: Callable[[Any, np.ndarray, np.ndarray], np.ndarray]  # (estimator, X, labels) -> (n_students,) 0-1


def _build_kmeans(n_clusters: int, max_iterations: int, seed: int) -> Any:
    from sklearn.cluster import KMeans

    return KMeans(
        n_clusters=n_clusters, max_iter=max_iterations, n_init=10, tol=1e-6, algorithm="lloyd", random_state=seed
    )


def _reorder_kmeans(estimator: Any, order: np.ndarray) -> None:
    estimator.cluster_centers_ = np.ascontiguousarray(estimator.cluster_centers_[order])
    estimator.labels_ = np.argsort(order)[estimator.labels_].astype(np.int32)


def _margin(estimator: Any, scaled: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """1 - d1 / d2 with the distances to the own and to the nearest other center; 0 is on the border, 1 is on the center."""
    distance = np.stack(
        [np.sqrt(((scaled - center) ** 2).sum(axis=1)) for center in estimator.cluster_centers_], axis=1
    )
    rows = np.arange(len(scaled))
    own = distance[rows, labels]
    distance[rows, labels] = np.inf
    other = distance.min(axis=1)
    return np.where(other > 0, 1 - own / np.where(other > 0, other, 1), 0.0)


def _build_gmm(n_clusters: int, max_iterations: int, seed: int) -> Any:
    from sklearn.mixture import GaussianMixture

    # Inputs pile up at 0 and 1, where a component would shrink without end: a standard deviation of 0.03 of an input's
    # range is its floor.
    return GaussianMixture(n_components=n_clusters, max_iter=max_iterations, covariance_type="full", reg_covar=1e-3,
                           n_init=5, tol=1e-4, random_state=seed)  # fmt: skip


def _reorder_gmm(estimator: Any, order: np.ndarray) -> None:
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        setattr(estimator, name, np.ascontiguousarray(getattr(estimator, name)[order]))


def _posterior(estimator: Any, scaled: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The posterior probability of the assigned component."""
    return np.asarray(estimator.predict_proba(scaled)[np.arange(len(scaled)), labels])


ALGORITHMS: Mapping[str, Algorithm] = {
    "kmeans": Algorithm("KMeans", _build_kmeans, lambda e: np.asarray(e.cluster_centers_), _reorder_kmeans, _margin),
    "gmm": Algorithm("GaussianMixture", _build_gmm, lambda e: np.asarray(e.means_), _reorder_gmm, _posterior),
}


def find_algorithm(name: str) -> Algorithm:
    """The registered algorithm; ValueError names the known ones."""
    if name not in ALGORITHMS:
        raise ValueError(f"clustering.algorithm {name!r} is not registered; use one of {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]


def _select_inputs(frame: pd.DataFrame) -> pd.DataFrame:
    """The model inputs as float64, null as NaN, in the order of MODEL_INPUTS."""
    absent = [name for name in MODEL_INPUTS if name not in frame.columns]
    if absent:
        raise ValueError(f"the frame lacks the model input {absent[0]}; select it from anonymized/student_term")
    inputs = frame.loc[:, list(MODEL_INPUTS)].astype("float64")
    for name in MODEL_INPUTS:
        values = inputs[name].to_numpy()
        if (np.abs(values[~np.isnan(values)]) > np.finfo(np.float32).max).any():
            raise ValueError(
                f"model input {name} holds a value that is not finite; the feature's SQL divides by zero or overflows"
            )
    if (inputs["days_since_last_activity"] < 0).any():
        raise ValueError("model input days_since_last_activity is negative; a feature looked past the as-of day")
    return inputs


def _scaling() -> Any:
    """Imputation and scaling of each input to 0-1, clipped to the range of the training snapshot.

    The range is used rather than the standard deviation, since the inputs are bounded by construction, and a column that
    hardly varied at training would otherwise rule the distances of every later day.
    """
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, MinMaxScaler

    columns = []
    # a registered model gets whole numbers from a CSV file, nullable ones from a notebook, objects with pd.NA from MLflow
    as_numbers = FunctionTransformer(pd.DataFrame, kw_args={"dtype": "Float64"})
    for name in MODEL_INPUTS:
        meaning = _MEANING[name]
        fill = (SimpleImputer(strategy="median", keep_empty_features=True) if meaning is None
                else SimpleImputer(strategy="constant", fill_value=meaning, keep_empty_features=True))  # fmt: skip
        # a day more matters on the second day and hardly on the hundredth
        steps = [fill, FunctionTransformer(np.log1p)] if name == "days_since_last_activity" else [fill]
        columns.append((name, make_pipeline(as_numbers, *steps, MinMaxScaler(clip=True)), name))
    return ColumnTransformer(columns)


def _canonical_order(centers: np.ndarray) -> np.ndarray:
    """Most active cluster first; ties by the other inputs. Rounded, since another thread count moves the last bits."""
    activity = centers[:, [MODEL_INPUTS.index(name) for name in _ACTIVITY]].mean(axis=1)
    keys = np.round(np.column_stack([-activity, centers]), 9)
    return np.lexsort(keys.T[::-1])


def fit(frame: pd.DataFrame, *, algorithm: str, n_clusters: int, max_iterations: int, seed: int) -> Pipeline:
    """Fit preprocessing and estimator on a training snapshot.

    frame: (n_students, >= MODEL_INPUTS), nulls allowed; the order of rows does not matter. Returns a Pipeline with the
    steps `scale` and `cluster`, float64, fitted on one thread, clusters numbered from the most active one. A column
    without a value stays constant. Raises ValueError for an empty frame, an absent or non-finite input, no value at all,
    fewer than two clusters, and fewer distinct rows than clusters.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import Pipeline
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    entry = find_algorithm(algorithm)
    if n_clusters < 2:
        raise ValueError(f"clustering.n_clusters is {n_clusters}; from 2 on clusters tell students apart")
    inputs = _select_inputs(frame)
    if inputs.empty:
        raise ValueError("there is no row to fit clusters on; choose an as-of day on which an observed course runs")
    if inputs.isna().all(axis=None):
        raise ValueError("no model input has a value in the snapshot; choose an as-of day with activity")
    # the estimators draw their start by row number
    inputs = inputs.sort_values(list(MODEL_INPUTS), kind="stable", ignore_index=True)
    model = Pipeline([("scale", _scaling()), ("cluster", entry.build(n_clusters, max_iterations, seed))])
    scaled = model[:-1].fit_transform(inputs)
    distinct = len(np.unique(scaled.round(9), axis=0))
    if distinct < n_clusters:
        raise ValueError(
            f"the snapshot has {distinct} distinct rows for {n_clusters} clusters; lower clustering.n_clusters or choose a later day"
        )
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told by measure_quality as is_converged
        model[-1].fit(scaled)
    entry.reorder(model[-1], _canonical_order(entry.centers(model[-1])))
    return model


def scale(model: Pipeline, frame: pd.DataFrame) -> np.ndarray:
    """The matrix that the estimator sees. Returns (n_students, n_inputs) float64, 0-1, columns as MODEL_INPUTS."""
    inputs = _select_inputs(frame)
    if inputs.empty:
        return np.empty((0, len(MODEL_INPUTS)))
    return np.asarray(model[:-1].transform(inputs), dtype=np.float64)


def assign(model: Pipeline, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of new rows under a fitted model; nothing is refitted.

    Returns labels (n_students,) int16, -1 = noise, and confidence (n_students,) float64 0-1, rounded to 6 digits: the
    posterior for gmm, 1 - d1 / d2 for kmeans. The two are not on one scale. Raises ValueError as `fit` does for inputs.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    scaled = scale(model, frame)
    if not len(scaled):
        return np.empty(0, dtype=np.int16), np.empty(0)
    entry = next((a for a in ALGORITHMS.values() if a.estimator == type(model[-1]).__name__), None)
    if entry is None:
        raise ValueError(
            f"the model's estimator {type(model[-1]).__name__} is not registered; fit it with this version"
        )
    with threadpool_limits(limits=1):
        labels = np.asarray(model[-1].predict(scaled))
        confidence = entry.confidence(model[-1], scaled, labels)
    return labels.astype(np.int16), np.round(np.clip(confidence, 0.0, 1.0), 6)


def run_params(*, algorithm: str, n_clusters: int, max_iterations: int, seed: int) -> dict[str, Any]:
    """The parameters of a fit for the run log: ours by one name for every algorithm, the estimator's under `estimator.`.

    The prefix keeps them apart: K-Means has an `algorithm` of its own.
    """
    estimator = find_algorithm(algorithm).build(n_clusters, max_iterations, seed)
    shared = {"algorithm": algorithm, "n_clusters": n_clusters, "max_iterations": max_iterations, "seed": seed}
    own = {f"estimator.{name}": value for name, value in estimator.get_params(deep=False).items()}
    return {**shared, "estimator": type(estimator).__name__, **own}


def fit_key(snapshot_hash: str, params: Mapping[str, Any], seed: int, code_version: str = CODE_VERSION) -> str:
    """The identity of a fit: equal keys mean an equal model, so a registered one is reused. 64 hex digits."""
    parts = {"snapshot": snapshot_hash, "params": dict(params), "seed": seed, "code": code_version}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
