"""Learner summaries up to the wall: a file is landed, and its learners pass without a trace of it.

How a file is read belongs to `iom_platform.extract`, their clusters to `flow/learner_clusters.py`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from iom_platform.flow.checks import run_suite, suite_spec
from iom_platform.flow.clock import utc_now
from iom_platform.flow.extract import (
    ROWS_CHECK,
    refuse_other_declaration,
    refused,
    warn_of_landed,
    warn_of_quarantine,
)
from iom_platform.flow.previews import preview
from iom_platform.flow.resources import (
    DATA_ENGINEERS,
    DELIVERED,
    ONE_DAY,
    PRIVACY_OFFICERS,
    RETRY,
    WAREHOUSE_KIND,
    WAREHOUSE_POOL,
    Platform,
    asset_key,
    refusal,
    table_spec,
    warehouse,
)
from iom_platform.settings import Settings
from iom_platform.tables import (
    ANONYMIZED_LEARNER_SUMMARY,
    LEARNER_SUMMARY,
    QUARANTINE,
    Table,
)

if TYPE_CHECKING:
    from iom_platform.extract.learner_summary import LearnerFile
    from iom_platform.extract.source import Delivery
    from iom_platform.storage.session import Session

ONE_ROW_CHECK = "one_row_a_learner"
STEP: Mapping[str, Any] = {
    "partitions_def": DELIVERED, "retry_policy": RETRY, "backfill_policy": ONE_DAY, "pool": WAREHOUSE_POOL
}  # fmt: skip


def learner_spec(table: Table, owner: str, *deps: Table) -> dg.AssetSpec:
    keys = [asset_key(t) for t in deps]
    return table_spec(table, owner=owner, kinds={"python", WAREHOUSE_KIND}, partitions_def=DELIVERED, deps=keys)


def _check_spec(table: Table, name: str, description: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        name, asset=asset_key(table), blocking=True, partitions_def=DELIVERED, description=description
    )


def gates(table: Table) -> list[dg.AssetCheckSpec]:
    unique = _check_spec(table, ONE_ROW_CHECK, "No learner has two rows.")
    return [suite_spec(table, partitions_def=DELIVERED), unique]


def judge_rows(con: "Session", table: Table, where: str, value: object) -> list[dg.AssetCheckResult]:
    """The suite on rows that stand for all, and whether a learner has one."""
    from iom_platform.storage.learner_rows import count_repeated, cover_rows

    rows, repeated = count_repeated(con, table, where, value)
    unique = dg.AssetCheckResult(
        passed=not repeated, check_name=ONE_ROW_CHECK, asset_key=asset_key(table), metadata={"rows": rows, "repeated": repeated}
    )  # fmt: skip
    return [run_suite(table, cover_rows(con, table, where, value)), unique]


def _red(results: Sequence[dg.AssetCheckResult]) -> str:
    return ", ".join(f"{r.asset_key.to_user_string()} {r.check_name}" for r in results if not r.passed and r.asset_key)


class _IsRed(Exception):
    """Ends a transaction whose rows a gate does not let pass."""


def publish_in_place(
    con: "Session", write: Callable[[], None], judge: Callable[[], list[dg.AssetCheckResult]]
) -> Iterator[dg.AssetCheckResult]:
    """Write, and keep what was written only if its gates are green: millions of rows are judged where they lie."""
    results: list[dg.AssetCheckResult] = []
    try:
        with con.transaction():
            write()
            results += judge()
            if red := _red(results):
                raise _IsRed
    except _IsRed:
        yield from results
        raise refusal(
            f"nothing was written, for {red} failed; the check's metadata names each broken rule, and the rows published before stay."
        ) from None
    yield from results


# -- landing -------------------------------------------------------------------------------------------


class LearnersConfig(dg.Config):
    """Launchpad settings of the landing of learner summaries."""

    path: str = Field(..., description="CSV or Parquet file with a row for each learner_id.")


def _open(context: dg.AssetExecutionContext, config: LearnersConfig) -> "tuple[Delivery, LearnerFile]":
    from iom_platform.extract.learner_landing import open_learners
    from iom_platform.extract.source import DeliveryRefused

    try:
        delivery, file = open_learners(Path(config.path), delivered_on=date.fromisoformat(context.partition_key))
    except DeliveryRefused as error:
        raise refused(str(error)) from None
    for notice in delivery.notices:
        context.log.warning(notice)
    return delivery, file


def _load(settings: Settings, con: "Session", delivery: "Delivery", file: "LearnerFile") -> None:
    from iom_platform.extract.learner_landing import load_learners
    from iom_platform.extract.pseudonym_key import load_key
    from iom_platform.extract.source import DeliveryRefused
    from iom_platform.storage.record import save_identities
    from iom_platform.storage.warehouse import append_rows

    try:
        with con.transaction():
            # the pairs are made as rows are loaded, so that nobody holds them all; they are kept before the rows are
            pairs = load_learners(delivery, file, load_key(settings), partial(append_rows, con), landed_at=utc_now())
            save_identities(settings, delivery.source, pairs)
    except DeliveryRefused as error:
        raise refused(str(error)) from None


def _judge_landing(con: "Session", delivery_id: str) -> tuple[list[dg.AssetCheckResult], dict[str, int]]:
    [(landed,)] = con.execute("select landed_rows from raw.files where delivery_id = ?", [delivery_id]).fetchall()
    loaded, quarantined = (
        con.execute(f"select count(*) from {t.sql_name} where delivery_id = ?", [delivery_id]).fetchall()[0][0]
        for t in (LEARNER_SUMMARY, QUARANTINE)
    )
    counts = {"landed": landed, "loaded": loaded, "quarantined": quarantined}
    rows = dg.AssetCheckResult(
        passed=landed == loaded + quarantined,
        check_name=ROWS_CHECK,
        asset_key=asset_key(LEARNER_SUMMARY),
        metadata=counts,
    )
    return [*judge_rows(con, LEARNER_SUMMARY, "delivery_id", delivery_id), rows], counts


@dg.multi_asset(
    specs=[learner_spec(LEARNER_SUMMARY, DATA_ENGINEERS)],
    check_specs=[*gates(LEARNER_SUMMARY), _check_spec(LEARNER_SUMMARY, ROWS_CHECK, "landed = loaded + quarantined")],
    name="load_learners",
    **STEP,
)
def raw_learners(context: dg.AssetExecutionContext, config: LearnersConfig, platform: Platform) -> Iterator[Any]:
    """Land a learner summary whole or not at all, ids replaced by pseudonyms; the same bytes again change nothing."""
    from iom_platform.storage.learner_rows import find_delivery, sample_rows
    from iom_platform.storage.warehouse import prepare_warehouse

    delivery, file = _open(context, config)
    tags = {"iom/source": delivery.source, "iom/delivery": delivery.delivery_id}
    context.instance.add_run_tags(context.run.run_id, tags)
    with warehouse(platform.settings, purpose=f"land {delivery.delivery_id}", write=True) as con:
        prepare_warehouse(con)
        if has_landed := refuse_other_declaration(con, delivery):
            warn_of_landed(context, delivery)
        else:
            _load(platform.settings, con, delivery, file)
        results, counts = _judge_landing(con, delivery.delivery_id)
        red = _red(results)
        con.execute("update raw.deliveries set is_accepted = ? where delivery_id = ?", [not red, delivery.delivery_id])
        newest = find_delivery(con, delivery.delivered_on)
        shown = preview(LEARNER_SUMMARY, sample_rows(con, LEARNER_SUMMARY, "delivery_id", delivery.delivery_id))
    yield from results
    warn_of_quarantine(context, counts["quarantined"], has_landed=has_landed)
    if red:
        raise refusal(
            f"delivery {delivery.delivery_id} is not accepted, for {red} failed; no table after it will use it."
        )
    if newest != delivery.delivery_id:
        context.log.warning(
            f"delivery {newest} landed later and tells of {delivery.delivered_on}; what follows uses that one."
        )
    metadata: dict[str, Any] = {
        "delivery_id": delivery.delivery_id,
        "source": delivery.source,
        "dagster/partition_row_count": counts["loaded"],
    }
    yield dg.MaterializeResult(asset_key=asset_key(LEARNER_SUMMARY), metadata={**metadata, **counts, **shown})


# -- the wall ------------------------------------------------------------------------------------------


@dg.multi_asset(
    specs=[learner_spec(ANONYMIZED_LEARNER_SUMMARY, PRIVACY_OFFICERS, LEARNER_SUMMARY)],
    check_specs=gates(ANONYMIZED_LEARNER_SUMMARY),
    name="release_learners",
    **STEP,
)
def anonymized_learners(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
    """Let pseudonyms and features pass the wall, without a trace of file or record; fewer than k learners do not."""
    from iom_platform.storage.learner_rows import count_repeated, find_delivery, release_learners, sample_rows
    from iom_platform.storage.warehouse import prepare_warehouse

    settings, day = platform.settings, date.fromisoformat(context.partition_key)
    table = ANONYMIZED_LEARNER_SUMMARY
    with warehouse(settings, purpose=f"release learners {day}", write=True) as con:
        prepare_warehouse(con)
        delivery_id = find_delivery(con, day)
        if delivery_id is None:
            raise refusal(
                f"No accepted learner summary of {day} has landed; land one with `iom run --source learner_summary --path FILE`, "
                "or look at the red checks of raw/learner_summary."
            )
        learners, _ = count_repeated(con, LEARNER_SUMMARY, "delivery_id", delivery_id)
        if learners < settings.privacy.k:
            context.log.warning(
                f"{learners} learners are fewer than privacy.k, {settings.privacy.k}, and are withheld."
            )
        released = delivery_id if learners >= settings.privacy.k else None
        yield from publish_in_place(
            con, lambda: release_learners(con, released, day), lambda: judge_rows(con, table, "as_of_on", day)
        )
        rows = learners if released else 0
        shown = preview(table, sample_rows(con, table, "as_of_on", day))
    metadata: dict[str, Any] = {"dagster/partition_row_count": rows, "withheld_rows": learners - rows, **shown}
    yield dg.MaterializeResult(asset_key=asset_key(table), metadata=metadata)


ASSETS = (raw_learners, anonymized_learners)
