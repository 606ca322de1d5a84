"""The report of a scored day: when its page is made, from which tables, and where the file goes.

What the page says belongs to `iom_platform.report`.
"""

import os
import tempfile
import traceback
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from iom_platform.flow.resources import (
    ADVISORS,
    AS_OF,
    GROUP_OF_STAGE,
    NIGHTLY_FRESH,
    ONE_DAY,
    RETRY,
    WAREHOUSE_POOL,
    Platform,
    asset_key,
    asset_tags,
    refusal,
    warehouse,
)
from iom_platform.settings import Settings
from iom_platform.tables import (
    ANONYMIZED_STUDENT_TERM,
    ANONYMIZED_STUDENT_WEEK,
    DELIVERIES,
    DELIVERY_SCOPE,
    FILES,
    LINEAGE,
    MODEL_NAME,
    PROFILES,
    PROMOTIONS,
    QUARANTINE,
    STUDENT_RISK,
)

if TYPE_CHECKING:
    import pandas as pd

    from iom_platform.report.page import ScoredDay

BOOKS = (DELIVERIES, FILES, QUARANTINE)  # the landing's own, without a column about a person
_REJECTED = ("delivery_id", "file_name", "rule", "remedy")
_TRUTH = {
    "id_student": "str", "code_module": "str", "code_presentation": "str", "onset_of_disengagement_day": "float64",
    "outcome": "str",
}  # fmt: skip


class ReportConfig(dg.Config):
    """Launchpad settings of the report."""

    truth_path: str | None = None  # truth.csv of the synthetic twin, to check the flags against


def report_path(settings: Settings, as_of_on: date) -> Path:
    return settings.reports_path / f"{as_of_on}.html"


def _read_truth(settings: Settings, path: Path) -> "pd.DataFrame":
    """The twin's truth with pseudonyms in place of ids, as `compare_flags` takes it."""
    import pandas as pd

    from iom_platform.extract.pseudonym_key import load_key
    from iom_platform.privacy.pseudonyms import pseudonymize

    try:
        truth = pd.read_csv(path, usecols=list(_TRUTH), dtype=_TRUTH)
    except (OSError, ValueError):  # the message may hold a line of the file
        raise refusal(
            f"{path.name} of truth_path is no truth of a twin: `iom synth` writes one beside each extract."
        ) from None
    return pd.DataFrame(
        {
            "student_pseudonym": pseudonymize(load_key(settings), "synthetic", truth["id_student"].tolist()),
            "course_id": truth["code_module"] + "-" + truth["code_presentation"],
            "onset_of_disengagement_day": truth["onset_of_disengagement_day"],
            "outcome": truth["outcome"],
        }
    )


def _withheld_courses(context: dg.AssetExecutionContext) -> int | None:
    """How many courses the wall held back on this day, as its step noted; their rows are nowhere past it."""
    wanted = dg.AssetRecordsFilter(asset_key(ANONYMIZED_STUDENT_TERM), asset_partitions=[context.partition_key])
    for record in context.instance.fetch_materializations(wanted, limit=1).records:
        noted = record.asset_materialization.metadata.get("withheld_courses") if record.asset_materialization else None
        return int(noted.value) if noted else None  # type: ignore[arg-type]
    return None


def _read_day(settings: Settings, as_of_on: date, withheld: int | None, truth: Path | None) -> "ScoredDay":
    from iom_platform.report.page import WEEK, ScoredDay
    from iom_platform.storage import record
    from iom_platform.storage.model_registry import Registry
    from iom_platform.storage.promotions import champion_for
    from iom_platform.storage.warehouse import read_table

    with warehouse(settings, purpose=f"report {as_of_on}", write=False) as con:
        scope = set(read_table(con, DELIVERY_SCOPE, as_of_on)["delivery_id"])
        terms, weeks = (read_table(con, t, as_of_on) for t in (ANONYMIZED_STUDENT_TERM, ANONYMIZED_STUDENT_WEEK))
        books = [read_table(con, t, columns=_REJECTED if t is QUARANTINE else None) for t in BOOKS]
    with record.open_record(settings) as conn:
        risk, before = (record.read_table(conn, STUDENT_RISK, day) for day in (as_of_on, as_of_on - WEEK))
        profiles, lineage = record.read_table(conn, PROFILES, as_of_on), record.read_table(conn, LINEAGE)
        champion = champion_for(conn, MODEL_NAME, as_of_on)
    deliveries, files, quarantine = (book[book["delivery_id"].isin(scope)] for book in books)
    return ScoredDay(
        as_of_on=as_of_on, k=settings.privacy.k, minimum_silhouette=settings.validation.min_silhouette_score,
        not_in_force=settings.not_in_force(), risk=risk, risk_before=before, terms=terms, weeks=weeks, profiles=profiles, lineage=lineage,
        deliveries=deliveries, files=files, quarantine=quarantine, withheld_courses=withheld, champion=champion,
        metrics=Registry.of(settings).metrics(champion["mlflow_run_id"]) if champion else {},
        truth=_read_truth(settings, truth) if truth else None,
    )  # fmt: skip


def _write_page(path: Path, page: str) -> None:
    """The file whole or not at all, for its user alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    handle, temporary = tempfile.mkstemp(prefix=".report.", dir=path.parent)  # 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


_SPEC = dg.AssetSpec(
    ["risk", "report"],
    deps=[
        *(dg.AssetDep(asset_key(t), partition_mapping=dg.AllPartitionMapping()) for t in BOOKS),
        *(asset_key(t) for t in (DELIVERY_SCOPE, ANONYMIZED_STUDENT_TERM, ANONYMIZED_STUDENT_WEEK)),
        *(asset_key(t) for t in (PROFILES, PROMOTIONS, LINEAGE, STUDENT_RISK)),
    ],
    description="One HTML page a day for advisors, leads and privacy officers: levels, movement, examples, groups, limits.",
    group_name=GROUP_OF_STAGE["risk"],
    owners=[ADVISORS],
    kinds={"python", "html"},
    tags=asset_tags("file", is_about_persons=True),
    freshness_policy=NIGHTLY_FRESH,
    partitions_def=AS_OF,
)


@dg.multi_asset(
    specs=[_SPEC],
    partitions_def=AS_OF,
    retry_policy=RETRY,
    backfill_policy=ONE_DAY,
    pool=WAREHOUSE_POOL,
    name="write_report",
)
def report(context: dg.AssetExecutionContext, config: ReportConfig, platform: Platform) -> dg.MaterializeResult[Any]:
    """Write the day's page beside those of other days; the rows that it tells of are published before it."""
    from iom_platform.report.page import render_page

    settings, as_of_on = platform.settings, date.fromisoformat(context.partition_key)
    truth = Path(config.truth_path) if config.truth_path else None
    day = _read_day(settings, as_of_on, _withheld_courses(context), truth)
    path = report_path(settings, as_of_on)
    try:
        _write_page(path, render_page(day))
    except Exception as error:
        context.log.debug(
            "".join(traceback.format_tb(error.__traceback__))
        )  # without the message, which may hold a row
        raise refusal(
            f"The report of {as_of_on} could not be made ({type(error).__name__}); the risk rows are published. "
            "Materialize risk/report once it is mended; its debug log says where it failed."
        ) from None
    counts = {str(level): int(n) for level, n in day.risk["risk_level"].value_counts().items()}
    return dg.MaterializeResult(metadata={"path": dg.MetadataValue.path(path), "enrollments": len(day.risk), **counts})


ASSETS = (report,)
