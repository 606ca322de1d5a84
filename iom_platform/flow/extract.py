"""The extract stage: lands one delivery in one transaction, then lets Great Expectations accept or refuse it.

How a file is read, and what is wrong with a row, belongs to `iom_platform.extract`.
"""

from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from iom_platform.flow.checks import SUITE_CHECK, run_suite, suite_columns_of, suite_spec
from iom_platform.flow.clock import utc_now
from iom_platform.flow.previews import SAMPLE_ROWS, preview
from iom_platform.flow.resources import (
    DATA_ENGINEERS,
    DELIVERED,
    ONE_DAY,
    RETRY,
    WAREHOUSE_KIND,
    WAREHOUSE_POOL,
    Platform,
    asset_key,
    refusal,
    table_spec,
)
from iom_platform.settings import Settings, load_settings
from iom_platform.tables import DELIVERIES, DELIVERY_SCOPE, FILES, OULAD_STUDENT_VLE, OULAD_TABLES, QUARANTINE, Table

if TYPE_CHECKING:
    import pandas as pd

    from iom_platform.extract.source import Delivery
    from iom_platform.storage.session import Session

ROWS_CHECK = "rows_add_up"
DELIVERY_REFUSED = 4  # exit code of `iom run` where nothing of the delivery was written


def refused(message: str) -> dg.Failure:
    return refusal(message, exit_code=DELIVERY_REFUSED)


def _offered() -> tuple[str, Any]:
    """What the launchpad offers: the newest extract that `iom demo` wrote; without one, the path is asked for."""
    twins = [p for p in load_settings().home.glob("demo/twin-*") if not p.name.endswith("-truth")]
    return ("synthetic", str(max(twins))) if twins else ("oulad", ...)


_SOURCE, _PATH = _offered()


class DeliveryConfig(dg.Config):
    """Launchpad settings of the landing: which source, and where its files lie."""

    source: str = Field(_SOURCE, description="Name of the source: oulad or synthetic.")
    path: str = Field(_PATH, description="Folder or zip of the extract, on the machine that runs the code location.")


def _find_no_base(con: "Session", delivery: "Delivery") -> str | None:
    """What to say of an increment that adds to nothing yet, else None."""
    bases = con.execute(
        "select count(*) from raw.deliveries where source = ? and scope = 'full' and is_accepted "
        "and (delivered_on, sha256) < (?, ?)",
        [delivery.source, delivery.delivered_on, delivery.sha256],
    ).fetchone()[0]
    if delivery.scope == "full" or bases:
        return None
    return (
        f"the increment of {delivery.delivered_on} has no accepted full delivery of source {delivery.source} before it; "
        "it takes effect once a full delivery of an earlier day has landed"
    )


def _refuse_foreign_courses(con: "Session", delivery: "Delivery") -> None:
    """A course belongs to one source; two accepted ones that deliver the same would be mixed in every cohort."""
    clash = con.execute(
        "select a.code_module || '-' || a.code_presentation, b.source from raw.oulad_courses a join raw.oulad_courses b "
        "using (code_module, code_presentation) join raw.deliveries d on d.delivery_id = b.delivery_id and d.is_accepted "
        "where a.delivery_id = ? and b.source <> ? order by 1, 2 limit 1",
        [delivery.delivery_id, delivery.source],
    ).fetchone()
    if clash:
        raise refused(
            f"courses.csv: course {clash[0]} was delivered by source {clash[1]} before; rename it, or use another IOM_HOME.",
        )


def refuse_other_declaration(con: "Session", delivery: "Delivery") -> bool:
    """Whether these bytes have landed before; with another source, day or scope they are refused."""
    before = con.execute(
        "select source, delivered_on, scope from raw.deliveries where delivery_id = ?", [delivery.delivery_id]
    ).fetchone()
    if not before:
        return False
    source, delivered_on, scope = before
    if source != delivery.source:
        raise refused(f"these bytes have landed before as source {source}; the same files cannot be two sources.")
    if (delivered_on, scope) != (delivery.delivered_on, delivery.scope):
        raise refused(
            f"these bytes have landed before with delivered_on {delivered_on} and scope {scope}, and now declare "
            f"{delivery.delivered_on} and {delivery.scope}; declare them as before, or deliver other files."
        )
    return True


def _load(settings: Settings, con: "Session", delivery: "Delivery") -> None:
    """All rows, counts and quarantine of a delivery in one transaction; identities go to the record alone."""
    from iom_platform.extract.loading import load_delivery
    from iom_platform.extract.pseudonym_key import load_key
    from iom_platform.storage.record import save_identities
    from iom_platform.storage.warehouse import append_rows

    with con.transaction():
        identities = load_delivery(delivery, load_key(settings), partial(append_rows, con), landed_at=utc_now())
        con.gather_statistics(OULAD_TABLES)
        _refuse_foreign_courses(con, delivery)
        # before the commit: a row without its identity could never be traced back; an identity without rows harms nothing
        save_identities(settings, delivery.source, identities)


def warn_of_landed(context: dg.AssetExecutionContext, delivery: "Delivery") -> None:
    context.log.warning(
        f"delivery {delivery.delivery_id} has landed before; its bytes are the same, and nothing is loaded again"
    )


def warn_of_quarantine(context: dg.AssetExecutionContext, quarantined: int, *, has_landed: bool) -> None:
    """Say how many records a delivery has in quarantine, and where to read why."""
    if quarantined:
        records = "1 record" if quarantined == 1 else f"{quarantined} records"
        said = f"this delivery has {records} in raw/quarantine" if has_landed else f"{records} went to raw/quarantine"
        context.log.warning(
            f"{said}; each row there names file, record, column, rule and remedy: iom export raw/quarantine --out quarantine.csv"
        )


def _read_for_suite(con: "Session", table: Table, delivery_id: str) -> "pd.DataFrame":
    """The delivery's rows as the suite needs them; of the big table, the distinct tuples of the suite's columns."""
    distinct = "distinct" if table is OULAD_STUDENT_VLE else ""
    columns = ", ".join(suite_columns_of(table) if distinct else table.column_names)
    return con.frame(f"select {distinct} {columns} from {table.sql_name} where delivery_id = ?", [delivery_id])


def _nothing_delivered(table: Table) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=True,
        check_name=SUITE_CHECK,
        asset_key=asset_key(table),
        metadata={"rows": 0, "broken": "nothing of it in this increment"},
    )


def _judge(con: "Session", delivery_id: str) -> Iterator[dg.AssetCheckResult]:
    """Every suite of the raw tables, and the counts, on what is in the warehouse."""
    counts = con.execute(
        "select table_name, sum(landed_rows) from raw.files where delivery_id = ? group by 1", [delivery_id]
    ).fetchall()
    landed = {name: int(rows) for name, rows in counts}
    is_increment = con.execute("select scope from raw.deliveries where delivery_id = ?", [delivery_id]).fetchall() == [
        ("increment",)
    ]
    for table in OULAD_TABLES:
        if is_increment and not landed.get(table.path):
            # absence is no deletion there, so a suite's "there are rows" does not hold
            yield _nothing_delivered(table)
        else:
            yield run_suite(table, _read_for_suite(con, table, delivery_id))
        loaded, quarantined = (
            con.execute(f"select count(*) from {name} where delivery_id = ? and file_name in (select file_name from raw.files where table_name = ?)",
                        [delivery_id, table.path]).fetchone()[0]
            for name in (table.sql_name, QUARANTINE.sql_name)
        )  # fmt: skip
        yield dg.AssetCheckResult(
            passed=landed.get(table.path, 0) == loaded + quarantined,
            check_name=ROWS_CHECK,
            asset_key=asset_key(table),
            metadata={"landed": landed.get(table.path, 0), "loaded": loaded, "quarantined": quarantined},
        )


def _sample(con: "Session", delivery_id: str) -> dict[str, dict[str, dg.MetadataValue]]:
    """A few rows of each table for its page, where they are about no person."""
    query = "select {0} from {1} where delivery_id = ? order by {0} limit ?"
    return {
        table.path: {}
        if table.is_about_persons
        else preview(
            table, con.frame(query.format(", ".join(table.column_names), table.sql_name), [delivery_id, SAMPLE_ROWS])
        )
        for table in (*OULAD_TABLES, *_BOOKS)
    }


def _open(context: dg.AssetExecutionContext, config: DeliveryConfig) -> "Delivery":
    from iom_platform.extract import SOURCES
    from iom_platform.extract.source import DeliveryRefused

    day = date.fromisoformat(context.partition_key)
    if config.source not in SOURCES:
        raise refused(f"unknown source {config.source!r}; known: {', '.join(sorted(SOURCES))}")
    try:
        delivery = SOURCES[config.source].open_delivery(Path(config.path), delivered_on=day)
    except DeliveryRefused as error:
        raise refused(str(error)) from None
    if delivery.delivered_on != day:
        raise refused(
            f"the delivery declares {delivery.delivered_on} as its day, and this partition is {day}; choose that partition."
        )
    for notice in delivery.notices:
        context.log.warning(notice)
    return delivery


_BOOKS = (QUARANTINE, FILES, DELIVERIES)
_SPECS = [
    table_spec(t, owner=DATA_ENGINEERS, kinds={"python", WAREHOUSE_KIND}, partitions_def=DELIVERED)
    for t in (*OULAD_TABLES, *_BOOKS)
]
_CHECKS = [suite_spec(t, partitions_def=DELIVERED) for t in OULAD_TABLES] + [
    dg.AssetCheckSpec(
        ROWS_CHECK,
        asset=asset_key(t),
        blocking=True,
        partitions_def=DELIVERED,
        description="landed = loaded + quarantined",
    )
    for t in OULAD_TABLES
]


@dg.multi_asset(
    specs=_SPECS,
    check_specs=_CHECKS,
    partitions_def=DELIVERED,
    retry_policy=RETRY,
    backfill_policy=ONE_DAY,
    pool=WAREHOUSE_POOL,
    name="load_delivery",
)
def raw_tables(context: dg.AssetExecutionContext, config: DeliveryConfig, platform: Platform) -> Iterator[Any]:
    """Land a delivery whole or not at all; the same bytes again change nothing; red checks leave it unaccepted."""
    from iom_platform.extract.source import DeliveryRefused
    from iom_platform.storage.warehouse import open_warehouse, prepare_warehouse

    settings = platform.settings
    delivery = _open(context, config)
    tags = {"iom/source": delivery.source, "iom/delivery": delivery.delivery_id}
    context.instance.add_run_tags(context.run.run_id, tags)  # a run that the UI started has none yet
    with open_warehouse(settings, purpose=f"land {delivery.delivery_id}", write=True) as con:
        prepare_warehouse(con)
        has_landed = refuse_other_declaration(con, delivery)
        if has_landed:
            _refuse_foreign_courses(con, delivery)  # what was refused then may be accepted now
            warn_of_landed(context, delivery)
        else:
            try:
                _load(settings, con, delivery)
            except DeliveryRefused as error:
                raise refused(str(error)) from None
        results = list(_judge(con, delivery.delivery_id))
        red = sorted({r.asset_key.to_user_string() for r in results if not r.passed and r.asset_key})
        con.execute("update raw.deliveries set is_accepted = ? where delivery_id = ?", [not red, delivery.delivery_id])
        no_base = _find_no_base(con, delivery)
        counts = {
            name: dict(zip(("landed", "dagster/partition_row_count", "quarantined"), map(int, rows), strict=True))
            for name, *rows in con.execute(
                "select table_name, sum(landed_rows), sum(loaded_rows), sum(quarantined_rows) from raw.files where delivery_id = ? group by 1",
                [delivery.delivery_id],
            ).fetchall()
        }
        samples = _sample(con, delivery.delivery_id)
    yield from results
    if red:
        raise refusal(
            f"delivery {delivery.delivery_id} is not accepted, for checks of {', '.join(red)} are red; "
            "no new day will use it."
        )
    if no_base:
        context.log.warning(no_base)
    quarantined = sum(c["quarantined"] for c in counts.values())
    warn_of_quarantine(context, quarantined, has_landed=has_landed)
    common = {"delivery_id": delivery.delivery_id, "source": delivery.source, "scope": delivery.scope}
    for table in OULAD_TABLES:
        yield dg.MaterializeResult(
            asset_key=asset_key(table),
            metadata={**common, **counts.get(table.path, {"dagster/partition_row_count": 0}), **samples[table.path]},
        )
    for table, rows in zip(_BOOKS, (quarantined, len(delivery.files), 1), strict=True):
        yield dg.MaterializeResult(
            asset_key=asset_key(table),
            metadata={**common, "dagster/partition_row_count": rows, **samples[table.path]},
        )


# written by the features step, which reads it as well; so it is shown, and materialized by nobody
delivery_scope = table_spec(DELIVERY_SCOPE, owner=DATA_ENGINEERS, kinds={WAREHOUSE_KIND}, partitions_def=None)

ASSETS = (raw_tables, delivery_scope)
