"""`iom metrics`: what a monitoring system wants to know, as Prometheus reads it.

Counts of whole tables, days and states; no course, no student, no level of anybody.
"""

from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from iom_platform.cli.environment import start_platform
from iom_platform.flow.clock import utc_now
from iom_platform.settings import Settings
from iom_platform.storage.warehouse import count_tables, open_warehouse, read_table
from iom_platform.storage.warehouse_lock import NoWarehouse
from iom_platform.tables import DELIVERIES, FILES

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Gauge

_RUNS_OF_DAYS = 7
_WAIT_SECONDS = 5


def write_metrics(out: Path | None) -> None:
    """Print the metrics, or put them in the place of a file, whole."""
    from prometheus_client import generate_latest, write_to_textfile

    settings = start_platform()
    # who asks every minute comes again: better no answer than one that waits for a run
    patience = settings.warehouse.model_copy(update={"wait_seconds": _WAIT_SECONDS})
    registry = _collect(settings.model_copy(update={"warehouse": patience}))
    if out is None:
        print(generate_latest(registry).decode(), end="")
    else:
        write_to_textfile(str(out), registry)
        out.chmod(0o644)  # it names nobody, and the collector is another user


def _collect(settings: Settings) -> "CollectorRegistry":
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    _collect_tables(settings, registry)
    _collect_deliveries(settings, registry)
    _collect_runs(registry)
    return registry


def _gauge(registry: "CollectorRegistry", name: str, what: str, *labels: str) -> "Gauge":
    from prometheus_client import Gauge

    return Gauge(f"iom_{name}", what, labels, registry=registry)


def _seconds(day: date) -> float:
    return datetime.combine(day, time(), UTC).timestamp()


def _collect_tables(settings: Settings, registry: "CollectorRegistry") -> None:
    rows = _gauge(registry, "table_rows", "Rows of a table.", "table")
    newest = _gauge(registry, "table_newest_as_of_timestamp_seconds", "Newest as-of day in a table.", "table")
    for table in count_tables(settings):
        if table.rows is not None:
            rows.labels(table.path).set(table.rows)
        if table.newest_as_of is not None:
            newest.labels(table.path).set(_seconds(table.newest_as_of))


def _collect_deliveries(settings: Settings, registry: "CollectorRegistry") -> None:
    records = _gauge(
        registry,
        "delivery_records",
        "Records of a source's newest delivery, landed = loaded + quarantined.",
        "source",
        "state",
    )
    newest = _gauge(
        registry, "delivery_newest_timestamp_seconds", "Declared day of a source's newest delivery.", "source"
    )
    accepted = _gauge(
        registry, "delivery_newest_is_accepted", "Whether a source's newest delivery was accepted.", "source"
    )
    try:
        with open_warehouse(settings, purpose="iom metrics", write=False) as con:
            deliveries, files = read_table(con, DELIVERIES), read_table(con, FILES)
    except NoWarehouse:
        return
    last = deliveries.sort_values(["delivered_on", "landed_at"]).groupby("source").tail(1)
    for delivery in last.to_dict("records"):
        source = delivery["source"]
        newest.labels(source).set(_seconds(delivery["delivered_on"].date()))
        accepted.labels(source).set(bool(delivery["is_accepted"]))
        own = files[files["delivery_id"] == delivery["delivery_id"]]
        for state in ("landed", "loaded", "quarantined"):
            records.labels(source, state).set(int(own[f"{state}_rows"].sum()))


def _collect_runs(registry: "CollectorRegistry") -> None:
    import dagster as dg

    from iom_platform.cli.runs import dagster_instance

    runs = _gauge(registry, "runs", f"Runs of the last {_RUNS_OF_DAYS} days.", "job", "status")
    success = _gauge(registry, "run_last_success_timestamp_seconds", "End of a job's last run that was green.", "job")
    with dagster_instance() as instance:
        begun = dg.RunsFilter(created_after=utc_now().replace(tzinfo=UTC) - timedelta(days=_RUNS_OF_DAYS))
        found = instance.get_run_records(begun)
        for (job, status), number in Counter(
            (r.dagster_run.job_name, r.dagster_run.status.value) for r in found
        ).items():
            runs.labels(job, status.lower()).set(number)
        for job in {r.dagster_run.job_name for r in found}:
            green = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS])
            for record in instance.get_run_records(green, limit=1):
                success.labels(job).set(record.end_time or 0)
