"""The clusters of learner summaries: each day's learners are fitted by each algorithm, labeled, measured and profiled.

What a cluster is belongs to `clustering/learners.py`; the daily models of enrollments to `flow/clustering.py`.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import dagster as dg

from iom_platform.flow.checks import run_suite, suite_spec
from iom_platform.flow.learners import STEP, gates, judge_rows, learner_spec, publish_in_place
from iom_platform.flow.previews import preview
from iom_platform.flow.resources import DELIVERED, ML_ENGINEERS, Platform, asset_key, refusal, warehouse
from iom_platform.settings import Settings
from iom_platform.tables import (
    ANONYMIZED_LEARNER_SUMMARY,
    LEARNER_CLUSTERS,
    LEARNER_FEATURES,
    LEARNER_PROFILES,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from iom_platform.clustering.learners import Clusters
    from iom_platform.extract.learner_columns import LearnerColumns
    from iom_platform.storage.session import Session

EXPERIMENT = "learner_clusters"  # in MLflow
ALGORITHMS = ("kmeans", "gmm")
SILHOUETTE_ROWS = 100_000  # as `iom cluster`
_Quality = dict[str, dict[str, Any]]


def _read_learners(con: "Session", day: date) -> "LearnerColumns | None":
    import numpy as np

    from iom_platform.extract.learner_columns import standardize
    from iom_platform.storage.learner_rows import read_in_order

    batches = read_in_order(con, day, LEARNER_FEATURES)
    return standardize(np.column_stack([column.to_numpy() for column in batch.columns]) for batch in batches)


def _write_labels(con: "Session", day: date, scaler: Any, found: "Sequence[Clusters]") -> "dict[str, np.ndarray]":
    """Write the rows of clustering/learner_clusters; returns labels (n,) by algorithm, in the order of the file."""
    import numpy as np
    import pyarrow as pa

    from iom_platform.clustering.learners import label_learners
    from iom_platform.storage.learner_rows import read_in_order
    from iom_platform.storage.warehouse import append_rows

    labels: dict[str, list[np.ndarray]] = {one.algorithm: [] for one in found}
    for batch in read_in_order(con, day, ANONYMIZED_LEARNER_SUMMARY.column_names):
        values = np.column_stack([batch.column(name).to_numpy() for name in LEARNER_FEATURES])
        made = label_learners(values, scaler, found)
        append_rows(con, LEARNER_CLUSTERS, pa.table(dict(zip(batch.schema.names, batch.columns, strict=True)) | made))
        for name, some in labels.items():
            some.append(made[f"cluster_{name}"])
    return {name: np.concatenate(some) for name, some in labels.items()}


def _write_clusters(
    con: "Session", context: dg.AssetExecutionContext, settings: Settings, learners: "LearnerColumns", day: date
) -> "tuple[_Quality, pd.DataFrame]":
    """Fit, and write the rows of both tables; returns measures by algorithm, and the profiles."""
    from iom_platform.clustering.learners import (
        find_empty_features,
        fit_clusters,
        hide_small,
        make_scaler,
        measure_clusters,
        profile_learners,
    )
    from iom_platform.clustering.passes.chunks import threads
    from iom_platform.storage.warehouse import append_rows

    columns, knobs = learners.columns, settings.clustering
    scaler = make_scaler(learners.means, learners.deviations, columns.shape[1])
    for warning in find_empty_features(columns, LEARNER_FEATURES):
        context.log.warning(warning)
    with threads() as run:
        try:
            found = fit_clusters(
                columns, algorithms=ALGORITHMS, clusters=knobs.n_clusters, max_iterations=knobs.max_iterations,
                seed=knobs.seed, run=run,
            )  # fmt: skip
        except ValueError as error:
            raise refusal(f"{error}; lower clustering.n_clusters.") from None
        labels = _write_labels(con, day, scaler, found)
        quality = measure_clusters(
            columns, {one.algorithm: one for one in found}, labels, sample=SILHOUETTE_ROWS, seed=knobs.seed, run=run
        )
        profiles = profile_learners(columns, labels, scaler, LEARNER_FEATURES, run=run)
    profiles = hide_small(profiles, k=settings.privacy.k).assign(as_of_on=day)[list(LEARNER_PROFILES.column_names)]
    append_rows(con, LEARNER_PROFILES, profiles)
    return quality, profiles


def _digest(learners: "LearnerColumns") -> str:
    """sha256 of the features in the order of the file; pseudonyms, which hang on the key, have no part in it."""
    digest = hashlib.sha256()
    for array in (learners.means, learners.deviations, learners.columns):
        digest.update(array.data)  # no copy, for they are contiguous
    return digest.hexdigest()


def _log_runs(
    settings: Settings, day: date, learners: "LearnerColumns", quality: _Quality, profiles: "pd.DataFrame", run_id: str
) -> dict[str, str]:
    """One MLflow run for each algorithm, whose ids are returned; equal fits of a day are logged once."""
    from iom_platform.clustering.algorithms import fit_key
    from iom_platform.storage.model_registry import Registry

    digest, registry, runs = _digest(learners), Registry.of(settings), {}
    rows, knobs = learners.columns.shape[1], settings.clustering
    for algorithm, measured in quality.items():
        params = {
            "algorithm": algorithm, "features": ", ".join(LEARNER_FEATURES), "n_clusters": knobs.n_clusters, "seed": knobs.seed,
            "max_iterations": knobs.max_iterations, "silhouette_rows": SILHOUETTE_ROWS, "k": settings.privacy.k,
            "scikit-learn": version("scikit-learn"),
        }  # fmt: skip
        key = fit_key(digest, {**params, "as_of_on": str(day)}, knobs.seed)
        runs[algorithm] = registry.log_comparison(
            experiment=EXPERIMENT,
            run_name=f"{algorithm} {day}",
            params=params,
            metrics={name: value for name, value in measured.items() if value is not None},
            tags={"fit_key": key, "as_of_on": str(day), "dagster_run_id": run_id},
            profiles=profiles[profiles["algorithm"] == algorithm],
            dataset={"name": ANONYMIZED_LEARNER_SUMMARY.path, "digest": digest, "rows": rows, "as_of_on": day},
        )
    return runs


def _describe(quality: _Quality, runs: Mapping[str, str]) -> dict[str, Any]:
    shown = ("silhouette", "davies_bouldin", "smallest_cluster_share", "is_converged")
    measures = {
        f"{name} {m}": measured[m] for name, measured in quality.items() for m in shown if measured[m] is not None
    }
    return measures | {f"{name} mlflow_run_id": run for name, run in runs.items()}


@dg.multi_asset(
    specs=[
        learner_spec(LEARNER_CLUSTERS, ML_ENGINEERS, ANONYMIZED_LEARNER_SUMMARY),
        learner_spec(LEARNER_PROFILES, ML_ENGINEERS, ANONYMIZED_LEARNER_SUMMARY),
    ],
    check_specs=[*gates(LEARNER_CLUSTERS), suite_spec(LEARNER_PROFILES, partitions_def=DELIVERED)],
    name="fit_learner_clusters",
    **STEP,
)
def learner_clusters(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
    """Cluster the day's learners by K-Means and a Gaussian mixture fitted on every one of them; both tables or neither."""
    from iom_platform.storage.learner_rows import delete_day, sample_rows

    settings, day = platform.settings, date.fromisoformat(context.partition_key)
    quality: _Quality = {}
    profiles: pd.DataFrame | None = None
    with warehouse(settings, purpose=f"cluster learners {day}", write=True) as con:
        learners = _read_learners(con, day)

        def write() -> None:
            nonlocal quality, profiles
            for table in (LEARNER_CLUSTERS, LEARNER_PROFILES):
                delete_day(con, table, day)
            if learners:
                quality, profiles = _write_clusters(con, context, settings, learners, day)

        def judge() -> list[dg.AssetCheckResult]:
            profiled = sample_rows(con, LEARNER_PROFILES, "as_of_on", day)
            return [*judge_rows(con, LEARNER_CLUSTERS, "as_of_on", day), run_suite(LEARNER_PROFILES, profiled)]

        yield from publish_in_place(con, write, judge)
        shown = preview(LEARNER_CLUSTERS, sample_rows(con, LEARNER_CLUSTERS, "as_of_on", day))
    rows, told = 0, {}
    if learners and profiles is not None:
        rows = learners.columns.shape[1]
        told = _describe(quality, _log_runs(settings, day, learners, quality, profiles, context.run.run_id))
    else:
        context.log.warning(f"Nobody is clustered on {day}: anonymized/learner_summary has no learner of that day.")
    yield dg.MaterializeResult(
        asset_key=asset_key(LEARNER_CLUSTERS), metadata={"dagster/partition_row_count": rows, **told, **shown}
    )
    yield dg.MaterializeResult(
        asset_key=asset_key(LEARNER_PROFILES),
        metadata={
            "dagster/partition_row_count": 0 if profiles is None else len(profiles),
            **({} if profiles is None else preview(LEARNER_PROFILES, profiles)),
        },
    )


ASSETS = (learner_clusters,)
