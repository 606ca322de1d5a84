"""The clustering stage: fit and promote a champion where a day has none, then assign and profile with it.

What an algorithm, a profile or a quality figure is belongs to `iom_platform.clustering`.
"""

import base64
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import dagster as dg

from iom_platform.flow.checks import check_spec, publish, suite_spec
from iom_platform.flow.clock import utc_now
from iom_platform.flow.lineage import read_uids, say_changes, trace_lineage
from iom_platform.flow.previews import preview
from iom_platform.flow.resources import (
    AS_OF,
    ML_ENGINEERS,
    ONE_DAY,
    RETRY,
    Platform,
    asset_key,
    refusal,
    table_spec,
    warehouse,
)
from iom_platform.settings import Settings
from iom_platform.tables import (
    ANONYMIZED_STUDENT_TERM,
    ASSIGNMENTS,
    LINEAGE,
    MODEL_INPUTS,
    MODEL_NAME,
    PROFILES,
    PROMOTIONS,
    Table,
)

if TYPE_CHECKING:
    import pandas as pd

SILHOUETTE_CHECK = "silhouette"


def _spec(table: Table, *deps: Table) -> dg.AssetSpec:
    return table_spec(
        table, owner=ML_ENGINEERS, kinds={"python", "scikitlearn", "postgres"}, partitions_def=AS_OF,
        deps=[asset_key(d) for d in deps],
    )  # fmt: skip


def picture(png: bytes) -> dg.MetadataValue:
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(png).decode()})")


def read_cohort(settings: Settings, as_of_on: date) -> "pd.DataFrame":
    """The day's anonymized rows, in key order."""
    from iom_platform.storage.warehouse import read_table

    with warehouse(settings, purpose=f"read cohort of {as_of_on}", write=False) as con:
        frame = read_table(con, ANONYMIZED_STUDENT_TERM, as_of_on)
    return frame.sort_values(list(ANONYMIZED_STUDENT_TERM.key), ignore_index=True)


class FitConfig(dg.Config):
    """Launchpad settings of the fit."""

    refit: bool = False  # fit on this day although an earlier champion could score it


@dataclass(frozen=True)
class Snapshot:
    """What a model is fitted on: the day's rows that get a level, their digest, and the run that asked."""

    frame: "pd.DataFrame"
    as_of_on: date
    digest: str
    dagster_run_id: str

    def fit_key(self, settings: Settings, params: dict[str, Any]) -> str:
        from iom_platform.clustering.algorithms import fit_key
        from iom_platform.risk import RISK_VERSION

        versions = {"risk_version": RISK_VERSION, "scikit-learn": version("scikit-learn")}
        return fit_key(self.digest, {**params, **settings.risk.model_dump(), **versions}, settings.clustering.seed)


def _take_snapshot(cohort: "pd.DataFrame", as_of_on: date, dagster_run_id: str) -> Snapshot:
    from iom_platform.risk import select_scorable
    from iom_platform.storage.rows import hash_rows, shape_rows

    frame = select_scorable(cohort)
    return Snapshot(
        frame, as_of_on, hash_rows(ANONYMIZED_STUDENT_TERM, shape_rows(ANONYMIZED_STUDENT_TERM, frame)), dagster_run_id
    )


def _log_fit(settings: Settings, snapshot: Snapshot, params: dict[str, Any], *, register: bool) -> dict[str, Any]:
    """Fit on the snapshot and log the run in MLflow with its measures, profile and risk cut-offs."""
    from iom_platform.clustering.algorithms import name_fit, run_params
    from iom_platform.clustering.card import ABOUT, PURPOSE, write_model_card
    from iom_platform.clustering.profiles import plot_profiles, profile_clusters
    from iom_platform.clustering.training import train
    from iom_platform.risk import fit_risk
    from iom_platform.storage.model_registry import Registry

    frame, day = snapshot.frame, snapshot.as_of_on.isoformat()
    # a hundred refits are worth their time for the model that students are scored with
    trained = train(frame, **params, bootstrap_iterations=settings.validation.bootstrap_iterations if register else 0)
    profiles = profile_clusters(frame, trained.labels, k=settings.privacy.k)
    risk_model = asdict(fit_risk(frame, trained.labels, **settings.risk.model_dump()))
    name, logged_params = f"{name_fit(params).replace(',', '')} {day}", run_params(**params)
    seen = {"sources": ", ".join(sorted(set(frame["source"]))), "courses": frame["course_id"].nunique()}
    card = write_model_card(
        title=name,
        params=logged_params,
        snapshot={"table": ANONYMIZED_STUDENT_TERM.path, "as-of day": day, "rows": len(frame), **seen, "digest": snapshot.digest,
                  "fitted on": trained.fitted_on, "assigned by": trained.assigned_by},
        quality=trained.quality,
        profiles=profiles,
        risk_model=risk_model,
    )  # fmt: skip
    registered, run_id = Registry.of(settings).log_fit(
        model=trained.model,
        risk_model=risk_model,
        inputs=frame[list(MODEL_INPUTS)],
        params=logged_params,
        metrics={name: float(value) for name, value in trained.quality.items() if value is not None},
        tags={
            "fit_key": snapshot.fit_key(settings, params),
            "trained_as_of": day,
            "dagster_run_id": snapshot.dagster_run_id,
            "fitted_on": trained.fitted_on,
            "assigned_by": trained.assigned_by,
            **{tag: str(value) for tag, value in seen.items()},
        },
        files={"profiles.png": plot_profiles(profiles), "model_card.md": card.encode()},
        profiles=profiles,
        model_name=MODEL_NAME,
        about=ABOUT,
        run_name=name,
        description=f"{PURPOSE}\n\nTrained on {len(frame):,} enrollments of {seen['courses']} courses at the end of {day}; "
        "see the artifact `model_card.md`.",
        dataset={"name": ANONYMIZED_STUDENT_TERM.path, "digest": snapshot.digest, "rows": len(frame), "as_of_on": day},
        register=register,
    )
    return {"model_version": registered, "mlflow_run_id": run_id}


def _params(settings: Settings, algorithm: str) -> dict[str, Any]:
    from iom_platform.clustering.algorithms import select_params

    return select_params(algorithm, settings.clustering.knobs)


def _promote(
    context: dg.AssetExecutionContext,
    settings: Settings,
    snapshot: Snapshot,
    former: dict[str, Any] | None,
    *,
    refit: bool,
) -> dict[str, Any]:
    """Fit the algorithm that the settings name and promote it with its lineage; an equal registered fit is reused unless forced."""
    from iom_platform.clustering.algorithms import name_fit
    from iom_platform.storage.model_registry import Registry
    from iom_platform.storage.record import open_record, save_lineage, save_promotion

    params = _params(settings, settings.clustering.algorithm)
    key = snapshot.fit_key(settings, params)
    found = None if refit else Registry.of(settings).find_version_by_fit_key(MODEL_NAME, key)
    try:
        made = found or _log_fit(settings, snapshot, params, register=True)
    except ValueError as error:
        raise refusal(f"{params['algorithm']} could not be fitted: {error}.") from None
    why = "forced refit" if refit else f"first model trained on or before {snapshot.as_of_on}"
    row = {
        "model_name": MODEL_NAME,
        "algorithm": params["algorithm"],
        "trained_as_of": snapshot.as_of_on,
        "fit_key": key,
        "reason": f"{why}, of clustering.algorithm {name_fit(params)}",
        "promoted_at": utc_now(),
        **made,
    }
    lineage = trace_lineage(context, settings, snapshot.frame, row["model_version"], former)
    with open_record(settings) as conn:
        save_promotion(conn, row)
        save_lineage(conn, lineage)
    return row


def _see_to_lineage(context: dg.AssetExecutionContext, settings: Settings, champion: dict[str, Any]) -> None:
    """Give a champion that an earlier version of the platform promoted the uids that it would have been born with."""
    from iom_platform.risk import select_scorable
    from iom_platform.storage.record import open_record, save_lineage

    if not read_uids(settings, champion["model_version"]):
        panel = select_scorable(read_cohort(settings, champion["trained_as_of"]))
        lineage = trace_lineage(context, settings, panel, champion["model_version"], None)
        with open_record(settings) as conn:
            save_lineage(conn, lineage)


def _compare(context: dg.AssetExecutionContext, settings: Settings, snapshot: Snapshot) -> None:
    """Log a fit of each other candidate beside the champion's; none of them may cost the day its scores."""
    from iom_platform.clustering.algorithms import FitRefused

    for algorithm in dict.fromkeys(settings.clustering.candidates):
        if algorithm != settings.clustering.algorithm:
            try:
                _log_fit(settings, snapshot, _params(settings, algorithm), register=False)
            except FitRefused as error:  # no fault: a small cohort, say, has no dense groups
                context.log.info(f"{algorithm} finds no clusters to compare: {error}")
            except Exception as error:  # whose message may quote a value
                context.log.warning(f"{algorithm} could not be fitted for comparison: {type(error).__name__}")


def _see_to_champion(
    context: dg.AssetExecutionContext, settings: Settings, as_of_on: date, *, refit: bool
) -> tuple[dict[str, Any] | None, str]:
    """The day's champion and how it came to be: kept, or fitted now; None where nothing can be fitted."""
    from iom_platform.clustering.training import ROWS_PER_CLUSTER, least_clusters
    from iom_platform.storage.record import champion_for, open_record

    with open_record(settings) as conn:
        champion = champion_for(conn, MODEL_NAME, as_of_on)
    if champion and not refit:
        return champion, f"kept version {champion['model_version']}, trained as of {champion['trained_as_of']}"
    snapshot = _take_snapshot(read_cohort(settings, as_of_on), as_of_on, context.run_id)
    rows, clusters = len(snapshot.frame), least_clusters(_params(settings, settings.clustering.algorithm))
    if rows < ROWS_PER_CLUSTER * clusters:
        few = f"{rows} observed enrollments with enough data are too few to fit {clusters} clusters"
        return champion, f"kept version {champion['model_version']}: {few}" if champion else f"no model: {few}"
    row = _promote(context, settings, snapshot, champion, refit=refit)
    _compare(context, settings, snapshot)
    return row, f"promoted version {row['model_version']}: {row['reason']}"


@dg.multi_asset(
    specs=[_spec(PROMOTIONS, ANONYMIZED_STUDENT_TERM), _spec(LINEAGE, ANONYMIZED_STUDENT_TERM)],
    check_specs=[check_spec(PROMOTIONS, SILHOUETTE_CHECK, "Silhouette of the champion is at least validation.min_silhouette_score; warns.", blocking=False)],
    partitions_def=AS_OF,
    retry_policy=RETRY,
    backfill_policy=ONE_DAY,
    name="fit_model",
)  # fmt: skip
def promotions(context: dg.AssetExecutionContext, config: FitConfig, platform: Platform) -> Iterator[Any]:
    """See that the day has a champion that was trained on or before it; fit and promote one where it has none."""
    from iom_platform.storage.champion import read_champion
    from iom_platform.storage.model_registry import Registry
    from iom_platform.storage.postgres_server import ensure_server
    from iom_platform.storage.record import champion_for, open_record, read_lineage

    settings, as_of_on = platform.settings, date.fromisoformat(context.partition_key)
    champion, how = _see_to_champion(context, settings, as_of_on, refit=config.refit)
    scoring = read_champion(ensure_server(settings), as_of_on)
    if scoring and (other := scoring.other_than(settings.clustering)):
        how = f"{how}; {other}"
    context.log.info(how)
    metadata: dict[str, Any] = {"decision": how}
    lineage: dict[str, Any] = {"decision": how}
    silhouette = None
    if champion:
        _see_to_lineage(context, settings, champion)
        registry = Registry.of(settings)
        with open_record(settings) as conn:
            newest = champion_for(conn, MODEL_NAME, date.max) or champion
            traced = read_lineage(conn, MODEL_NAME, champion["model_version"])
        lineage |= {"changes": say_changes(traced), **preview(LINEAGE, traced)}
        registry.set_champion(MODEL_NAME, newest["model_version"])  # at each pass: a crash may have left it behind
        silhouette = registry.metrics(champion["mlflow_run_id"]).get("silhouette")
        metadata |= {
            "model": f"{MODEL_NAME} version {champion['model_version']}",
            "trained_as_of": str(champion["trained_as_of"]),
            "mlflow_run_id": champion["mlflow_run_id"],
            "profiles": picture(registry.artifact(champion["mlflow_run_id"], "profiles.png")),
        }
    yield dg.MaterializeResult(asset_key=asset_key(PROMOTIONS), metadata=metadata)
    yield dg.MaterializeResult(asset_key=asset_key(LINEAGE), metadata=lineage)
    yield dg.AssetCheckResult(
        passed=silhouette is None or silhouette >= settings.validation.min_silhouette_score,
        check_name=SILHOUETTE_CHECK,
        asset_key=asset_key(PROMOTIONS),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "silhouette": silhouette if silhouette is not None else "no model",
            "minimum": settings.validation.min_silhouette_score,
        },
    )


def _no_rows(table: Table) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(columns=list(table.column_names))


def _assign(
    settings: Settings, observed: "pd.DataFrame", version: int, as_of_on: date
) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """The rows of clustering/assignments and clustering/profiles of a day, by one version."""
    from iom_platform.clustering.algorithms import assign
    from iom_platform.clustering.profiles import profile_clusters
    from iom_platform.storage.model_registry import Registry

    if not (uids := read_uids(settings, version)):
        raise refusal(
            f"clustering/lineage knows no cluster of version {version}; materialize clustering/promotions of {as_of_on} "
            "first, then assignments."
        )
    model, _ = Registry.of(settings).load_model(MODEL_NAME, version)
    labels, confidence = assign(model, observed[list(MODEL_INPUTS)])
    by: dict[str, Any] = {"as_of_on": as_of_on, "model_name": MODEL_NAME, "model_version": version}
    assigned = observed[list(ASSIGNMENTS.key)].assign(**by, cluster=labels, confidence=confidence)
    profiles = profile_clusters(observed, labels, k=settings.privacy.k).assign(**by)
    return tuple(  # type: ignore[return-value]
        rows.assign(cluster_uid=rows["cluster"].map(uids))[list(table.column_names)]
        for rows, table in ((assigned, ASSIGNMENTS), (profiles, PROFILES))
    )


@dg.multi_asset(
    specs=[
        _spec(ASSIGNMENTS, ANONYMIZED_STUDENT_TERM, PROMOTIONS, LINEAGE),
        _spec(PROFILES, ANONYMIZED_STUDENT_TERM, PROMOTIONS, LINEAGE),
    ],
    check_specs=[suite_spec(ASSIGNMENTS)],
    partitions_def=AS_OF,
    retry_policy=RETRY,
    backfill_policy=ONE_DAY,
    name="assign_clusters",
)
def assignments(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
    """Assign the day's observed enrollments with the champion loaded from MLflow; never fits."""
    from iom_platform.clustering.profiles import plot_profiles
    from iom_platform.storage.record import champion_for, open_record, replace_partition

    settings, as_of_on = platform.settings, date.fromisoformat(context.partition_key)
    cohort = read_cohort(settings, as_of_on)
    observed = cohort[cohort["is_observed"]].reset_index(drop=True)
    with open_record(settings) as conn:
        champion = champion_for(conn, MODEL_NAME, as_of_on)
    metadata: dict[str, Any] = {}
    if champion and len(observed):
        frame, profiles = _assign(settings, observed, champion["model_version"], as_of_on)
        metadata = {"profiles": picture(plot_profiles(profiles)), "model_version": champion["model_version"]}
    else:
        frame, profiles = _no_rows(ASSIGNMENTS), _no_rows(PROFILES)
        context.log.warning(
            f"Nothing is assigned on {as_of_on}: no observed enrollment, or no champion trained on or before it."
        )

    def write() -> int:
        with open_record(settings) as conn:
            replace_partition(conn, PROFILES, as_of_on, profiles)
            return replace_partition(conn, ASSIGNMENTS, as_of_on, frame)

    yield from publish(ASSIGNMENTS, frame, write, metadata=metadata)
    yield dg.MaterializeResult(
        asset_key=asset_key(PROFILES),
        metadata={"dagster/partition_row_count": len(profiles), **preview(PROFILES, profiles)},
    )


ASSETS = (promotions, assignments)
