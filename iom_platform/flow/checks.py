"""Checks that block what follows: Great Expectations suites as gates before a table is published.

A rule about one row belongs to the stage that applies it; a suite's expectations belong to `expectations/`.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg

from iom_platform.flow.previews import preview
from iom_platform.flow.resources import AS_OF, asset_key, refusal
from iom_platform.tables import Table

if TYPE_CHECKING:
    import pandas as pd

SUITE_CHECK = "expectations"


@cache
def _suite(path: str) -> dict[str, Any]:
    from iom_platform.storage.expectations import load_suite

    return load_suite(path)


def suite_columns_of(table: Table) -> tuple[str, ...]:
    """The columns that the table's suite reads; all of them where it reads the whole table."""
    from iom_platform.storage.expectations import suite_columns

    return suite_columns(_suite(table.path)) or table.column_names


def suite_spec(table: Table, *, partitions_def: dg.PartitionsDefinition = AS_OF) -> dg.AssetCheckSpec:
    """The blocking check that runs the table's suite."""
    return dg.AssetCheckSpec(
        SUITE_CHECK,
        asset=asset_key(table),
        blocking=True,
        partitions_def=partitions_def,
        description=f"Great Expectations suite expectations/{table.path}.json",
    )


def check_spec(table: Table, name: str, description: str, *, blocking: bool = True) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        name, asset=asset_key(table), blocking=blocking, partitions_def=AS_OF, description=description
    )


def run_suite(table: Table, frame: "pd.DataFrame") -> dg.AssetCheckResult:
    """The result of the table's suite on a frame; its metadata names rules and counts, never values."""
    from iom_platform.storage.expectations import validate_frame

    result = validate_frame(_suite(table.path), frame)
    return dg.AssetCheckResult(
        passed=result.success,
        check_name=SUITE_CHECK,
        asset_key=asset_key(table),
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "expectations": result.evaluated,
            "rows": len(frame),
            "broken": dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in result.failed) or "none"),
        },
    )


def publish(
    table: Table,
    frame: "pd.DataFrame",
    write: Callable[[], int],
    *,
    checks: tuple[dg.AssetCheckResult, ...] = (),
    metadata: dict[str, Any] | None = None,
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[Any]]:
    """Check, and only then write: a red blocking check leaves the earlier rows in place and stops what follows."""
    results = (run_suite(table, frame), *checks)
    yield from results
    red = [r.check_name for r in results if not r.passed and r.severity == dg.AssetCheckSeverity.ERROR]
    if red:
        raise refusal(
            f"{table.path} was not written: {', '.join(map(str, red))} failed; "
            "the check's metadata names each broken rule, and the rows published before stay."
        )
    rows = write()
    yield dg.MaterializeResult(
        asset_key=asset_key(table),
        metadata={"dagster/partition_row_count": rows, **preview(table, frame), **(metadata or {})},
    )
