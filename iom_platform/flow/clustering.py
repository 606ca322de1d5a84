"""The clustering stage: see to the day's champion, then assign and profile with it.

How a champion is chosen belongs to `flow/promotion.py`; what an algorithm, a profile or a quality figure is to
`iom_platform.clustering`.
"""

import base64
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from iom_platform.clustering.selection import COURSES, GATES, STABILITY, find_faults
from iom_platform.flow.checks import check_spec, publish, suite_spec
from iom_platform.flow.cohort import read_cohort
from iom_platform.flow.lineage import read_uids, say_changes
from iom_platform.flow.previews import preview
from iom_platform.flow.promotion import limits_of, see_to_champion, see_to_lineage
from iom_platform.flow.resources import (
    AS_OF,
    ML_ENGINEERS,
    ONE_DAY,
    RETRY,
    WAREHOUSE_POOL,
    Platform,
    asset_key,
    refusal,
    table_spec,
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
    STUDENT_OUTCOME,
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


class FitConfig(dg.Config):
    """Launchpad settings of the fit."""

    refit: bool = False  # fit on this day although an earlier champion could score it


@dg.multi_asset(
    specs=[_spec(PROMOTIONS, ANONYMIZED_STUDENT_TERM, STUDENT_OUTCOME), _spec(LINEAGE, ANONYMIZED_STUDENT_TERM)],
    check_specs=[
        check_spec(PROMOTIONS, SILHOUETTE_CHECK, "Silhouette of the champion is at least validation.min_silhouette_score; warns.", blocking=False),
        check_spec(PROMOTIONS, COURSES, "The model that was fitted, else the champion, tells students apart rather than courses or weeks: validation.max_course_nmi.", blocking=False),
        check_spec(PROMOTIONS, STABILITY, "The model that was fitted, else the champion, is stable enough, and no less than the champion before: validation.min_stability, stability_margin.", blocking=False),
    ],
    partitions_def=AS_OF,
    retry_policy=RETRY,
    backfill_policy=ONE_DAY,
    pool=WAREHOUSE_POOL,
    name="fit_model",
)  # fmt: skip
def promotions(context: dg.AssetExecutionContext, config: FitConfig, platform: Platform) -> Iterator[Any]:
    """See that the day has a champion that was trained on or before it; fit and promote one where it has none."""
    from iom_platform.storage.champion import read_champion
    from iom_platform.storage.model_registry import Registry
    from iom_platform.storage.postgres_server import ensure_server
    from iom_platform.storage.promotions import champion_for, read_lineage
    from iom_platform.storage.record import open_record

    settings, as_of_on = platform.settings, date.fromisoformat(context.partition_key)
    decision = see_to_champion(context, settings, as_of_on, refit=config.refit)
    champion, how = decision.champion, decision.how
    scoring = read_champion(ensure_server(settings), as_of_on)
    # who has just asked for it, and was refused, needs no such advice
    if scoring and not decision.faults and (other := scoring.other_than(settings.clustering)):
        how = f"{how}; {other}"
    context.log.info(how)
    metadata: dict[str, Any] = {"decision": how}
    lineage: dict[str, Any] = {"decision": how}
    measures: dict[str, float] = {}
    if champion:
        see_to_lineage(context, settings, champion)
        registry = Registry.of(settings)
        with open_record(settings) as conn:
            newest = champion_for(conn, MODEL_NAME, date.max) or champion
            traced = read_lineage(conn, MODEL_NAME, champion["model_version"])
        lineage |= {"changes": say_changes(traced), **preview(LINEAGE, traced)}
        registry.set_champion(MODEL_NAME, newest["model_version"])  # at each pass: a crash may have left it behind
        measures = registry.metrics(champion["mlflow_run_id"])
        metadata |= {
            "model": f"{MODEL_NAME} version {champion['model_version']}",
            "trained_as_of": str(champion["trained_as_of"]),
            "mlflow_run_id": champion["mlflow_run_id"],
            "profiles": picture(registry.artifact(champion["mlflow_run_id"], "profiles.png")),
        }
    yield dg.MaterializeResult(asset_key=asset_key(PROMOTIONS), metadata=metadata)
    yield dg.MaterializeResult(asset_key=asset_key(LINEAGE), metadata=lineage)
    yield _judge_silhouette(measures.get("silhouette"), settings.validation.min_silhouette_score)
    # of a refused fit what forbade it; else what the settings as they are now say of the champion
    faults = decision.faults or find_faults(measures, limits_of(settings))
    for gate in GATES:
        yield dg.AssetCheckResult(
            passed=gate not in faults,
            check_name=gate,
            asset_key=asset_key(PROMOTIONS),
            severity=dg.AssetCheckSeverity.ERROR,
            metadata={"found": faults.get(gate, "nothing against it")},
        )


def _judge_silhouette(silhouette: float | None, minimum: float) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=silhouette is None or silhouette >= minimum,
        check_name=SILHOUETTE_CHECK,
        asset_key=asset_key(PROMOTIONS),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"silhouette": silhouette if silhouette is not None else "no model", "minimum": minimum},
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
    pool=WAREHOUSE_POOL,
    name="assign_clusters",
)
def assignments(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
    """Assign the day's observed enrollments with the champion loaded from MLflow; never fits."""
    from iom_platform.clustering.plots import plot_profiles
    from iom_platform.storage.promotions import champion_for
    from iom_platform.storage.record import open_record, replace_partition

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
