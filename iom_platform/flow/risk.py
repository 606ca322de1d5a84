"""The risk stage: when a day's risk table is computed and where it goes.

What a risk level or a reason is belongs to `iom_platform.risk`.
"""

import json
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from iom_platform.flow.checks import publish, suite_spec
from iom_platform.flow.clustering import picture
from iom_platform.flow.cohort import read_cohort
from iom_platform.flow.resources import (
    ADVISORS,
    AS_OF,
    ONE_DAY,
    RETRY,
    WAREHOUSE_POOL,
    Platform,
    asset_key,
    refusal,
    table_spec,
)
from iom_platform.settings import Settings
from iom_platform.tables import ANONYMIZED_STUDENT_TERM, ASSIGNMENTS, MODEL_NAME, PROMOTIONS, STUDENT_RISK

if TYPE_CHECKING:
    import pandas as pd


def nothing_to_score(settings: Settings, as_of_on: date) -> str:
    """Why a day may have no row; the same words in the UI and in the terminal."""
    return (
        f"Nothing to score on {as_of_on}: no presentation with at least {settings.privacy.k} students runs; "
        "the rows of earlier days stay."
    )


def _score(settings: Settings, cohort: "pd.DataFrame", as_of_on: date) -> "pd.DataFrame":
    from iom_platform.risk import RiskModel, score_risk
    from iom_platform.storage.model_registry import Registry
    from iom_platform.storage.promotions import champion_for
    from iom_platform.storage.record import open_record, read_table

    with open_record(settings) as conn:
        champion = champion_for(conn, MODEL_NAME, as_of_on)
        assigned = read_table(conn, ASSIGNMENTS, as_of_on)
    # a cluster's number means something only beside the model that gave it
    versions = sorted(set(assigned["model_version"]))
    if versions and (champion is None or versions != [champion["model_version"]]):
        raise refusal(
            f"clustering/assignments of {as_of_on} are not the champion's; materialize them first, then risk."
        )
    joined = cohort.merge(
        assigned[["student_pseudonym", "course_id", "cluster", "cluster_uid"]],
        on=["student_pseudonym", "course_id"],
        how="left",
    )
    risk_model = None
    if versions:
        _, stored = Registry.of(settings).load_model(MODEL_NAME, versions[0])
        try:
            risk_model = RiskModel.from_json(json.dumps(stored))
        except ValueError as error:
            raise refusal(f"{error}: materialize clustering/promotions with refit: true.") from None
    scored = score_risk(joined, joined["cluster"], risk_model)
    scored = joined.drop(columns="cluster").join(scored)
    known = scored["risk_level"] != "UNKNOWN"
    scored["cluster_uid"] = scored["cluster_uid"].where(known, None)
    scored["model_name"] = known.map({True: MODEL_NAME, False: None})
    scored["model_version"] = known.map({True: versions[0] if versions else None, False: None}).astype("Int64")
    return scored[list(STUDENT_RISK.column_names)]


@dg.multi_asset(
    specs=[table_spec(STUDENT_RISK, owner=ADVISORS, kinds={"python", "postgres"}, partitions_def=AS_OF,
                      deps=[asset_key(t) for t in (ANONYMIZED_STUDENT_TERM, ASSIGNMENTS, PROMOTIONS)])],
    check_specs=[suite_spec(STUDENT_RISK)],
    partitions_def=AS_OF,
    retry_policy=RETRY,
    backfill_policy=ONE_DAY,
    pool=WAREHOUSE_POOL,
    name="score_risk",
)  # fmt: skip
def student_risk(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
    """Score the day's cohort; earlier days stay as they were published."""
    from iom_platform.flow.plots import plot_levels
    from iom_platform.risk import summarize_risk
    from iom_platform.storage.record import open_record, replace_partition

    settings, as_of_on = platform.settings, date.fromisoformat(context.partition_key)
    cohort = read_cohort(settings, as_of_on)
    frame = _score(settings, cohort, as_of_on)
    metadata: dict[str, Any] = {
        "not_in_force": dg.MetadataValue.md("\n".join(f"- {s}" for s in settings.not_in_force()) or "none")
    }
    if len(frame):
        summary = summarize_risk(frame)
        metadata |= {
            "levels": dg.MetadataValue.md(summary.to_markdown(index=False)),
            "plot": picture(plot_levels(summary)),
        }
    else:
        metadata["message"] = nothing_to_score(settings, as_of_on)
        context.log.warning(metadata["message"])

    def write() -> int:
        with open_record(settings) as conn:
            return replace_partition(conn, STUDENT_RISK, as_of_on, frame)

    yield from publish(STUDENT_RISK, frame, write, metadata=metadata)


ASSETS = (student_risk,)
