"""The risk stage: when a day's risk table is computed and where it goes.

What a risk level or a reason is belongs to `iom_platform.risk`.
"""

import json
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from iom_platform.flow.checks import publish, suite_spec
from iom_platform.flow.clustering import MODEL_NAME, picture, read_cohort
from iom_platform.flow.resources import ADVISORS, AS_OF, ONE_DAY, RETRY, Platform, asset_key, table_spec
from iom_platform.tables import ANONYMIZED_STUDENT_TERM, ASSIGNMENTS, PROMOTIONS, STUDENT_RISK

if TYPE_CHECKING:
    import pandas as pd


def _score(settings: Any, cohort: "pd.DataFrame", as_of_on: date) -> "pd.DataFrame":
    from iom_platform.risk import RiskModel, score_risk
    from iom_platform.storage.model_registry import Registry
    from iom_platform.storage.record import champion_for, open_record, read_table

    with open_record(settings) as conn:
        champion = champion_for(conn, MODEL_NAME, as_of_on)
        assigned = read_table(conn, ASSIGNMENTS, as_of_on)
    joined = cohort.merge(
        assigned[["student_pseudonym", "course_id", "cluster"]], on=["student_pseudonym", "course_id"], how="left"
    )
    risk_model = None
    if champion:
        _, stored = Registry.of(settings).load_model(MODEL_NAME, champion["model_version"])
        risk_model = RiskModel.from_json(json.dumps(stored))
    scored = score_risk(joined, joined["cluster"], risk_model)
    scored = joined.drop(columns="cluster").join(scored)
    known = scored["risk_level"] != "UNKNOWN"
    scored["model_name"] = known.map({True: MODEL_NAME, False: None})
    scored["model_version"] = known.map({True: champion["model_version"] if champion else None, False: None}).astype(
        "Int64"
    )
    return scored[list(STUDENT_RISK.column_names)]


@dg.multi_asset(
    specs=[table_spec(STUDENT_RISK, owner=ADVISORS, kinds={"python", "postgres"}, partitions_def=AS_OF,
                      deps=[asset_key(t) for t in (ANONYMIZED_STUDENT_TERM, ASSIGNMENTS, PROMOTIONS)])],
    check_specs=[suite_spec(STUDENT_RISK)],
    partitions_def=AS_OF,
    retry_policy=RETRY,
    backfill_policy=ONE_DAY,
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
        metadata["message"] = f"No presentation runs on {as_of_on}; the rows of earlier days stay."
        context.log.warning(metadata["message"])
    with open_record(settings) as conn:
        yield from publish(
            STUDENT_RISK, frame, lambda: replace_partition(conn, STUDENT_RISK, as_of_on, frame), metadata=metadata
        )


ASSETS = (student_risk,)
