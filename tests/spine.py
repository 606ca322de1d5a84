"""The whole platform on a home of its own, for tests that land and score with real Dagster, dbt, PostgreSQL and MLflow.

What a test expects belongs to the test.
"""

import csv
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from iom_platform.cli.environment import start_platform
from iom_platform.cli.runs import dagster_instance
from iom_platform.settings import Settings, load_settings
from iom_platform.storage import record, warehouse
from iom_platform.storage.postgres_server import stop_server
from iom_platform.tables import TABLES

IOM = Path(sys.executable).with_name("iom")
Frames = dict[str, pd.DataFrame]


class Spine:
    """A started platform; `variables` must be the environment of whatever runs on it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def land(self, path: Path, delivered_on: date, source: str = "synthetic") -> dg.ExecuteInProcessResult:
        ops = {"load_delivery": {"config": {"source": source, "path": str(path)}}}
        return self._execute("land_delivery", delivered_on, ops)

    def score(self, as_of_on: date, *, refit: bool = False, repin: bool = False) -> dg.ExecuteInProcessResult:
        ops = {"fit_model": {"config": {"refit": refit}}, "dbt_build": {"config": {"repin": repin}}}
        return self._execute("score_day", as_of_on, ops)

    def run_part(
        self, selection: dg.AssetSelection, day: date, ops: dict[str, Any] | None = None
    ) -> dg.ExecuteInProcessResult:
        """A run of a part of the graph, as its selection in the UI starts it."""
        from iom_platform.definitions import defs

        part = dg.Definitions.merge(defs, dg.Definitions(jobs=[dg.define_asset_job("part", selection=selection)]))
        return self._execute("part", day, ops or {}, part)

    def _execute(
        self, job: str, day: date, ops: dict[str, Any], defs: dg.Definitions | None = None
    ) -> dg.ExecuteInProcessResult:
        if defs is None:
            from iom_platform.definitions import defs

        with dagster_instance() as instance:
            return defs.resolve_job_def(job).execute_in_process(
                run_config={"ops": ops, "loggers": {"progress": {}}},
                partition_key=day.isoformat(),
                instance=instance,
                raise_on_error=False,
            )

    def iom(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """The command as a user calls it, in a process of its own."""
        return subprocess.run(
            [str(IOM), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **variables},
            timeout=600,
        )

    def start(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        """The command as a user calls it, in a process that goes on meanwhile."""
        return subprocess.Popen(
            [str(IOM), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )

    def hashes(self, as_of_on: date | None = None) -> dict[str, str]:
        """Hash of every table that exists, or of its rows of one day where it has days."""
        found: dict[str, str] = {}
        with warehouse.open_warehouse(self.settings, purpose="hash tables", write=False) as con:
            present = {
                f"{s}/{t}"
                for s, t in con.execute("select table_schema, table_name from information_schema.tables").fetchall()
            }
            for table in TABLES:
                if (
                    table.home == "warehouse"
                    and table.path in present
                    and (as_of_on is None or "as_of_on" in table.column_names)
                ):
                    found[table.path] = warehouse.hash_table(con, table, as_of_on)
        with record.open_record(self.settings) as conn:
            for table in TABLES:
                if table.home == "record" and (as_of_on is None or "as_of_on" in table.column_names):
                    found[table.path] = record.hash_table(conn, table, as_of_on)
        return found


def materialized(result: dg.ExecuteInProcessResult) -> set[str]:
    """The asset keys that a run materialized, as stage/table."""
    return {e.asset_key.to_user_string() for e in result.all_events if e.is_step_materialization and e.asset_key}


def red_checks(result: dg.ExecuteInProcessResult) -> set[tuple[str, str]]:
    """(stage/table, check) of the red checks of severity ERROR."""
    return {
        (c.asset_key.to_user_string(), c.check_name)
        for c in result.get_asset_check_evaluations()
        if not c.passed and c.severity == dg.AssetCheckSeverity.ERROR
    }


def said(result: dg.ExecuteInProcessResult) -> list[str]:
    """The sentences of the steps that failed."""
    failures = [e.step_failure_data for e in result.all_events if e.is_step_failure]
    return [str(f.user_failure_data.description if f.user_failure_data else f.error_display_string) for f in failures]


def warnings(result: dg.ExecuteInProcessResult) -> list[str]:
    """What the steps of a run of the home at hand warned of."""
    with dagster_instance() as instance:
        entries = instance.all_logs(result.run_id)
    return [e.user_message for e in entries if e.level == logging.WARNING and not e.is_dagster_event]


def succeed(result: dg.ExecuteInProcessResult) -> None:
    """Every step of the run was green, else the test fails with what the red ones said."""
    assert result.success, said(result)


def set_columns(file: Path, change: Callable[[int, dict[str, str]], dict[str, str]]) -> None:
    """Rewrite a delivered CSV file; `change` gets a record's number, from 1, and its values, and returns the new ones."""
    with file.open(newline="") as stream:
        reader = csv.DictReader(stream)
        records = [{**record, **change(number, record)} for number, record in enumerate(reader, start=1)]
        names = list(reader.fieldnames or ())
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(records)


def read_extract(folder: Path) -> Frames:
    """The delivered files as text, by their names without `.csv`."""
    return {p.stem: pd.read_csv(p, dtype=str, keep_default_na=False) for p in sorted(folder.glob("*.csv"))}


def write_extract(frames: Frames, folder: Path, delivered_on: date, scope: str = "full") -> Path:
    folder.mkdir()
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name}.csv", index=False, quoting=1)
    (folder / "delivery.json").write_text(json.dumps({"delivered_on": delivered_on.isoformat(), "scope": scope}))
    return folder


@contextmanager
def spine_at(home: Path, **variables: str) -> Iterator[Spine]:
    """A platform whose state lies in `home`; the environment is as before afterwards, and the server is stopped.

    Nothing is fitted beside the champion, and no stability refuses one: test_five_algorithms.py and test_champions.py ask
    for that.
    """
    before = dict(os.environ)
    os.environ.update(
        {
            "IOM_HOME": str(home),
            "IOM_CLUSTERING__CANDIDATES": "kmeans",
            "IOM_VALIDATION__BOOTSTRAP_ITERATIONS": "3",
            "IOM_VALIDATION__MIN_STABILITY": "-1",  # three refits on a small twin say little
            "IOM_VALIDATION__STABILITY_MARGIN": "1",
            **variables,
        }
    )
    try:
        start_platform()
        yield Spine(load_settings())
    finally:
        stop_server(load_settings())
        os.environ.clear()
        os.environ.update(before)
