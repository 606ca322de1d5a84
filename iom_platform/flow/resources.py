"""What every asset shares: partitions, the platform resource, the retry policy, labels for the UI.

No asset and no computation belongs here.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from iom_platform.flow.liveness import mark_run
from iom_platform.settings import Settings, load_settings
from iom_platform.tables import Table

if TYPE_CHECKING:
    from iom_platform.storage.session import Session

# partitions of a check are a preview feature of Dagster 1.13; without them a partitioned asset shows no green check
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

_SETTINGS = load_settings()

# end_offset=1: the day that is still running can be looked at, as far as it has been delivered
AS_OF = dg.DailyPartitionsDefinition(
    start_date=_SETTINGS.institution.first_as_of.isoformat(), timezone=_SETTINGS.institution.timezone, end_offset=1
)
DELIVERED = dg.DailyPartitionsDefinition(
    start_date=_SETTINGS.institution.first_as_of.isoformat(), timezone=_SETTINGS.institution.timezone, end_offset=1
)

# The one retry policy: a step that lost its server is tried once more. What is deterministic
# (bad data, a red check) is raised as `refusal`, which no policy retries.
RETRY = dg.RetryPolicy(max_retries=1, delay=5)

# a backfill is one run a day: each day has its own pin, champion and checks
ONE_DAY = dg.BackfillPolicy.multi_run(1)

# the schedule scores every night: after one missed night the asset warns, after two it is overdue
NIGHTLY_FRESH = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=50), warn_window=timedelta(hours=26))

WAREHOUSE_KIND = _SETTINGS.engine  # as Dagster shows a table's place

DATA_ENGINEERS = "team:data-engineers"
PRIVACY_OFFICERS = "team:privacy-officers"
ML_ENGINEERS = "team:ml-engineers"
ADVISORS = "team:advisors"


class Platform(dg.ConfigurableResource[Settings]):
    """The platform's settings, read afresh from `iom.yaml` and the environment at each run.

    A run on a record of another deployment ends before its first step: see `iom_platform.storage.deployment`.
    """

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        from iom_platform.storage.deployment import own_record

        own_record(self.settings)
        if context.run and context.instance:
            mark_run(context.instance, context.run)

    @property
    def settings(self) -> Settings:
        return load_settings()


RED = 5  # exit code of a run that failed or has a red check


def refusal(message: str, *, exit_code: int = RED) -> dg.Failure:
    """A failure that a retry cannot mend; `message` is one sentence with a remedy and no personal data."""
    return dg.Failure(description=message, metadata={"exit_code": exit_code}, allow_retries=False)


# whoever writes the warehouse; dagster.yaml lets one run of the pool go on at a time
WAREHOUSE_POOL = "warehouse"


@contextmanager
def warehouse(settings: Settings, *, purpose: str, write: bool) -> "Iterator[Session]":
    """`open_warehouse` for a step: who waited long enough is told so at once, and does not wait a second time."""
    from iom_platform.storage.warehouse import open_warehouse
    from iom_platform.storage.warehouse_lock import WarehouseBusy

    try:
        with open_warehouse(settings, purpose=purpose, write=write) as con:
            yield con
    except WarehouseBusy as error:
        raise refusal(str(error), exit_code=error.exit_code) from None


def asset_key(table: Table) -> dg.AssetKey:
    return dg.AssetKey([table.stage, table.name])


def column_schema(table: Table) -> dg.TableSchema:
    """The table's columns as Dagster shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                c.name, c.dtype, description=c.doc, constraints=dg.TableColumnConstraints(nullable=c.nullable)
            )
            for c in table.columns
        ]
    )


def asset_tags(home: str, *, is_about_persons: bool) -> dict[str, str]:
    """Tags by which the catalog is searched: where a table lives, and whether a privacy officer must care."""
    return {"iom/home": home, "iom/about": "persons-pseudonymized" if is_about_persons else "no-person"}


def table_spec(
    table: Table, *, owner: str, kinds: set[str], partitions_def: dg.PartitionsDefinition | None, **more: object
) -> dg.AssetSpec:
    """The asset spec of a table in `tables.py`: its words are the UI's words."""
    return dg.AssetSpec(
        asset_key(table),
        description=table.doc,
        group_name=GROUP_OF_STAGE[table.stage],
        owners=[owner],
        kinds=kinds,
        tags=asset_tags(table.home, is_about_persons=table.is_about_persons),
        freshness_policy=NIGHTLY_FRESH if partitions_def is AS_OF else None,
        partitions_def=partitions_def,
        metadata={"dagster/column_schema": column_schema(table), "dagster/table_name": table.sql_name},
        **more,  # type: ignore[arg-type]
    )


GROUP_OF_STAGE = {
    "raw": "extract",
    "staging": "features",
    "intermediate": "features",
    "features": "features",
    "anonymized": "privacy",
    "clustering": "clustering",
    "risk": "risk",
}
