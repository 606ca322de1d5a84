"""The warehouse on real files, with real second processes: one writer, many readers, nobody waits in silence."""

import contextlib
import dataclasses
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import psycopg2.errors
import pyarrow as pa
import pytest
import yaml

from iom_platform.settings import PROJECT_ROOT, Settings
from iom_platform.settings import Warehouse as WarehouseSettings
from iom_platform.storage import record, warehouse
from iom_platform.storage.duckdb_session import DuckdbSession
from iom_platform.storage.postgres_server import ensure_server, server_status
from iom_platform.storage.promotions import save_promotion
from iom_platform.storage.rows import RowsError, hash_rows, shape_rows
from iom_platform.storage.session import Session
from iom_platform.storage.warehouse import (
    open_warehouse,
    prepare_warehouse,
    read_table,
    replace_partition,
    replace_table,
)
from iom_platform.storage.warehouse_lock import (
    BUSY_EXIT_CODE,
    DBT_SESSION,
    WarehouseBusy,
    WarehouseError,
    warehouse_lock,
)
from iom_platform.tables import (
    ANONYMIZED_LEARNER_SUMMARY,
    ANONYMIZED_STUDENT_TERM,
    ASSIGNMENTS,
    DELIVERIES,
    DELIVERY_SCOPE,
    FEATURES_STUDENT_OUTCOME,
    GENERALIZATIONS,
    OULAD_STUDENT_VLE,
    STUDENT_OUTCOME,
    TABLES,
)
from tests.plants import promotion_row

DAY = date(2013, 12, 16)
EARLIER = date(2013, 5, 15)
# a second command: opens (or only locks) the warehouse, says so, and keeps it until its input ends
COMMAND = """
import logging, sys
from pathlib import Path
from iom_platform.settings import Settings, Warehouse
from iom_platform.storage.warehouse import open_warehouse
logging.basicConfig(format="%(message)s")
home, write = Path(sys.argv[1]), sys.argv[2] == "write"
with open_warehouse(Settings(home=home, warehouse=Warehouse(wait_seconds=600)), purpose="iom other", write=write) as con:
    if write:
        con.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 1 AS a")
        con.execute("BEGIN")
        con.execute("INSERT INTO kept VALUES (2)")
    print("ready", flush=True)
    sys.stdin.read()
"""
FOREIGN = """
import sys, duckdb
con = duckdb.connect(sys.argv[1] + "/warehouse.duckdb", read_only=sys.argv[2] == "read")
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def _second(code: str, settings: Settings, mode: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", code, str(settings.home), mode]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def _until_ready(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "ready\n", process.communicate()[1]


def _waiting(settings: Settings, seconds: int) -> Settings:
    return settings.model_copy(update={"warehouse": WarehouseSettings(wait_seconds=seconds)})


class _Release(logging.Handler):
    """Lets the second command go as soon as the first one says that it waits."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        super().__init__()
        self.process, self.messages = process, list[str]()

    def emit(self, entry: logging.LogRecord) -> None:
        self.messages.append(entry.getMessage())
        if self.process.stdin is not None:
            self.process.stdin.close()


@contextlib.contextmanager
def _releasing(process: "subprocess.Popen[str]") -> Iterator[list[str]]:
    handler = _Release(process)
    logging.getLogger("iom").addHandler(handler)
    try:
        yield handler.messages
    finally:
        logging.getLogger("iom").removeHandler(handler)


@pytest.fixture
def here(settings: Settings, tmp_path: Path) -> Settings:
    """The session's server, with a warehouse file that no other test has touched."""
    settings.warehouse_path.unlink(missing_ok=True)
    with open_warehouse(settings, purpose="fixture", write=True):
        pass
    return _waiting(settings, 600)


@pytest.fixture(params=["duckdb", "postgres"])
def con(here: Settings, request: pytest.FixtureRequest) -> Iterator[Session]:
    """An empty warehouse of each engine."""
    with open_warehouse(here.model_copy(update={"engine": request.param}), purpose="test", write=True) as connection:
        if request.param == "postgres":
            connection.execute("DROP SCHEMA IF EXISTS raw, staging, intermediate, features, anonymized CASCADE")
            connection.execute("DROP TABLE IF EXISTS clustering.learner_clusters, clustering.learner_profiles")
        prepare_warehouse(connection)
        yield connection


# -- the lock ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("theirs", "ours"), [("write", True), ("write", False), ("read", True)])
def test_a_second_command_waits_with_one_message_and_then_works(here: Settings, theirs: str, ours: bool) -> None:
    with _second(COMMAND, here, theirs) as other:
        _until_ready(other)
        with _releasing(other) as messages, open_warehouse(here, purpose="iom ours", write=ours) as con:
            assert con.execute("SELECT 42").fetchall() == [(42,)]
    assert len(messages) == 1
    assert f"held by 'iom other' (pid {other.pid})" in messages[0]


@pytest.mark.parametrize(("theirs", "ours"), [("write", True), ("write", False), ("read", True)])
def test_after_the_wait_it_is_busy(here: Settings, theirs: str, ours: bool) -> None:
    for seconds in (0, 1):
        with _second(COMMAND, here, theirs) as other:
            _until_ready(other)
            with (
                pytest.raises(
                    WarehouseBusy, match=rf"held by 'iom other' \(pid {other.pid}\), so 'iom ours' gave up"
                ) as busy,
                open_warehouse(_waiting(here, seconds), purpose="iom ours", write=ours),
            ):
                pass
    assert busy.value.exit_code == BUSY_EXIT_CODE == 75


def test_readers_share_it(here: Settings) -> None:
    with _second(COMMAND, here, "read") as other:
        _until_ready(other)
        with open_warehouse(_waiting(here, 0), purpose="iom ours", write=False) as con:
            assert con.execute("SELECT 42").fetchall() == [(42,)]
            with pytest.raises(duckdb.InvalidInputException, match="read-only"):
                con.execute("CREATE TABLE t (a INTEGER)")


def test_the_kill_of_a_writer_frees_it_and_keeps_what_was_committed(here: Settings) -> None:
    with _second(COMMAND, here, "write") as other:
        _until_ready(other)
        other.kill()
        other.wait()
        with open_warehouse(here, purpose="iom ours", write=False) as con:
            assert con.execute("SELECT a FROM kept").fetchall() == [(1,)]


def test_ctrl_c_ends_the_wait(here: Settings) -> None:
    with warehouse_lock(here, "iom ours"), _second(COMMAND, here, "write") as other:
        assert other.stderr is not None
        assert "held by 'iom ours'" in other.stderr.readline()
        other.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in other.communicate(timeout=120)[1]


def test_a_subprocess_such_as_dbt_opens_the_file_under_our_lock(here: Settings) -> None:
    with warehouse_lock(here, "dbt build"):
        with _second(FOREIGN, here, "write") as dbt:
            _until_ready(dbt)
        with _second(COMMAND, here, "read") as other:
            assert other.stderr is not None
            assert "held by 'dbt build'" in other.stderr.readline()


@pytest.mark.parametrize("ours", [True, False])
def test_a_foreign_writer_of_the_file_is_waited_for(here: Settings, ours: bool) -> None:
    with _second(FOREIGN, here, "write") as foreign:
        _until_ready(foreign)
        with _releasing(foreign) as messages, open_warehouse(here, purpose="iom ours", write=ours) as con:
            assert con.execute("SELECT 42").fetchall() == [(42,)]
    assert len(messages) == 1
    assert f"outside the platform (pid {foreign.pid})" in messages[0]


def test_a_foreign_writer_makes_it_busy(here: Settings) -> None:
    with _second(FOREIGN, here, "write") as foreign:
        _until_ready(foreign)
        with (
            pytest.raises(WarehouseBusy, match=f"pid {foreign.pid}"),
            open_warehouse(_waiting(here, 0), purpose="iom ours", write=True),
        ):
            pass
    with open_warehouse(_waiting(here, 0), purpose="iom ours", write=True):
        pass


def test_a_writer_whose_server_dies_still_keeps_others_out(stopped_settings: Settings) -> None:
    """The advisory lock is gone with the server; DuckDB's own lock on the file is not."""
    ensure_server(stopped_settings)
    with _second(COMMAND, stopped_settings, "write") as other:
        _until_ready(other)
        location = Path(server_status(stopped_settings)["location"])
        os.kill(int((location / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        with (
            pytest.raises(WarehouseBusy, match=f"pid {other.pid}"),
            open_warehouse(_waiting(stopped_settings, 0), purpose="iom ours", write=True),
        ):
            pass


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("inner", [True, False])
def test_opening_twice_in_one_thread_is_an_error_and_no_deadlock(here: Settings, outer: bool, inner: bool) -> None:
    with open_warehouse(here, purpose="outer step", write=outer):
        with (
            pytest.raises(
                WarehouseError, match="already holds the warehouse for 'outer step'; close it before 'inner step'"
            ),
            open_warehouse(here, purpose="inner step", write=inner),
        ):
            pass
        with pytest.raises(WarehouseError, match="outer step"), warehouse_lock(here, "inner step"):
            pass
    with open_warehouse(_waiting(here, 0), purpose="afterward", write=True):
        pass


def test_another_thread_waits_like_another_process(here: Settings) -> None:
    caught: list[Exception] = []

    def step() -> None:
        try:
            with open_warehouse(_waiting(here, 0), purpose="inner step", write=False):
                pass
        except WarehouseBusy as error:
            caught.append(error)

    with open_warehouse(here, purpose="outer step", write=True):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert len(caught) == 1


def test_a_purpose_of_any_length_and_letters_is_shown(here: Settings) -> None:
    with (
        warehouse_lock(here, "é" + "x" * 100),
        _second(COMMAND, here, "write") as other,
    ):
        assert other.stderr is not None
        assert f"held by '?{'x' * 30}" in other.stderr.readline()


# -- opening -------------------------------------------------------------------------------------------


def test_a_reader_of_a_warehouse_that_is_not_there_hears_what_to_do(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "empty")
    with (
        pytest.raises(WarehouseError, match=r"there is no warehouse at .* yet; fill it with `iom demo` or `iom run`"),
        open_warehouse(settings, purpose="iom export", write=False),
    ):
        pass
    assert not settings.home.exists()


def test_a_file_that_is_no_warehouse_is_said_and_left_alone(here: Settings) -> None:
    here.warehouse_path.write_text("not a database" * 1000)
    with (
        pytest.raises(WarehouseError, match="cannot be opened"),
        open_warehouse(here, purpose="iom tables", write=True),
    ):
        pass
    assert here.warehouse_path.read_text() == "not a database" * 1000


def test_a_writer_in_postgresql_outlasts_a_dbt_that_still_works(here: Settings) -> None:
    """As one does whose run was killed: it holds no lock of ours. Readers need not wait, and DuckDB's own lock tells a writer."""
    postgres = here.model_copy(update={"engine": "postgres"})
    left = psycopg2.connect(ensure_server(here).url("iom"), application_name=DBT_SESSION)
    with contextlib.closing(left):
        busy = pytest.raises(
            WarehouseBusy, match=r"is held by dbt \(session \d+ of PostgreSQL\), so 'iom ours' gave up"
        )
        with busy, warehouse_lock(_waiting(postgres, 0), "iom ours"):
            pass
        with warehouse_lock(_waiting(postgres, 0), "iom ours", exclusive=False):
            pass
        with warehouse_lock(_waiting(here, 0), "iom ours"):
            pass
        threading.Timer(0.5, left.close).start()
        with warehouse_lock(postgres, "iom ours"):
            assert left.closed
    profiles = yaml.safe_load((PROJECT_ROOT / "dbt_project" / "profiles.yml").read_text())
    assert profiles["iom_platform"]["outputs"]["postgres"]["application_name"] == DBT_SESSION


def test_it_runs_within_its_limits(here: Settings) -> None:
    names = ("TimeZone", "memory_limit", "preserve_insertion_order", "temp_directory")
    with open_warehouse(here, purpose="test", write=True) as con:
        found = con.execute(f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}").fetchone()
    assert found == ("UTC", "953.6 MiB", False, str(here.home / "duckdb_tmp"))
    assert stat.S_IMODE(here.warehouse_path.stat().st_mode) == 0o600


# -- tables --------------------------------------------------------------------------------------------


def outcomes(day: date = DAY, students: tuple[str, ...] = ("aa", "bb")) -> pd.DataFrame:
    row = {"as_of_on": day, "course_id": "BBB-2013J", "outcome": "Pass", "outcome_known_on": day, "delivery_set": "d"}
    return pd.DataFrame({"student_pseudonym": students, **row})


def clicks(**changes: Any) -> pd.DataFrame:
    row = {
        "source": "oulad", "delivery_id": "d", "file_name": "studentVle.csv", "file_row": range(1, 4), "code_module": "AAA",
        "code_presentation": "2013J", "student_pseudonym": ["aa", "aa", "bb"], "id_site": 1, "date": 0, "sum_click": 2,
        "clicked_at": [None, datetime(2013, 10, 1, 12, tzinfo=UTC), None],
    }  # fmt: skip
    return pd.DataFrame({name: (row | changes)[name] for name in OULAD_STUDENT_VLE.column_names})


def test_prepare_is_repeatable_and_makes_what_tables_py_says(con: Session) -> None:
    prepare_warehouse(con)
    schemas = {row[0] for row in con.execute("SELECT schema_name FROM information_schema.schemata").fetchall()}
    assert {"raw", "staging", "intermediate", "features", "anonymized", "clustering"} <= schemas
    for table in TABLES:
        if table.stage in ("raw", "anonymized"):
            found = con.execute(f"SELECT column_name, is_nullable FROM information_schema.columns WHERE table_schema = '{table.stage}' AND table_name = '{table.name}' ORDER BY ordinal_position")  # fmt: skip
            unlisted = [("written_order", "NO")] if con.order_column and table is ANONYMIZED_LEARNER_SUMMARY else []
            assert found.fetchall() == [(c.name, "YES" if c.nullable else "NO") for c in table.columns] + unlisted


@pytest.mark.parametrize("use", [prepare_warehouse, lambda con: read_table(con, ANONYMIZED_STUDENT_TERM)])
def test_a_table_of_an_earlier_version_is_refused_with_a_remedy(con: Session, use: Callable[[Session], Any]) -> None:
    """As facts of the registrar once passed the wall; its rows are neither read nor written over."""
    con.execute("ALTER TABLE anonymized.student_term RENAME course_days_enrolled TO registration_lead_days")
    with pytest.raises(WarehouseError) as refused:
        use(con)
    assert str(refused.value) == (
        "anonymized/student_term in the warehouse has other columns than tables.py (course_days_enrolled, registration_lead_days), "
        f"for an earlier version made it; {con.start_over} and land every delivery again"
    )


def test_replace_table_leaves_no_row_of_before_and_wrong_rows_leave_all(con: Session) -> None:
    replace_partition(con, STUDENT_OUTCOME, EARLIER, outcomes(EARLIER))
    assert replace_table(con, STUDENT_OUTCOME, outcomes()) == 2
    assert set(read_table(con, STUDENT_OUTCOME)["as_of_on"]) == {pd.Timestamp(DAY)}
    with pytest.raises(RowsError):
        replace_table(con, STUDENT_OUTCOME, outcomes().drop(columns="outcome"))
    assert len(read_table(con, STUDENT_OUTCOME)) == 2


def test_replace_partition_replaces_its_day_alone(con: Session) -> None:
    assert replace_partition(con, STUDENT_OUTCOME, EARLIER, outcomes(EARLIER)) == 2
    assert replace_partition(con, STUDENT_OUTCOME, DAY, outcomes()) == 2
    arrow = pa.Table.from_pandas(outcomes(students=("bb", "aa", "zz")), preserve_index=False)
    assert replace_partition(con, STUDENT_OUTCOME, DAY, arrow) == 3
    found = read_table(con, STUDENT_OUTCOME, DAY)
    assert list(found["student_pseudonym"]) == ["aa", "bb", "zz"]
    assert found["as_of_on"].tolist() == [pd.Timestamp(DAY)] * 3
    assert tuple(found.columns) == STUDENT_OUTCOME.column_names
    assert list(read_table(con, STUDENT_OUTCOME, EARLIER, ["outcome"]).columns) == ["outcome"]
    assert len(read_table(con, STUDENT_OUTCOME)) == 5
    with pytest.raises(WarehouseError, match="no column 'student_id'"):
        read_table(con, STUDENT_OUTCOME, columns=["student_id"])


def test_generalizations_are_partitioned_by_their_fit(con: Session) -> None:
    kinds = {"text": "x", "int": 5, "date": DAY, "bigint": 1, "float": 0.5, "bool": True}
    frame = pd.DataFrame([{c.name: kinds[c.dtype] for c in GENERALIZATIONS.columns}])
    assert replace_partition(con, GENERALIZATIONS, DAY, frame) == 1
    assert replace_partition(con, GENERALIZATIONS, DAY, frame) == 1
    assert len(read_table(con, GENERALIZATIONS)) == 1


def test_a_replacement_that_fails_leaves_the_old_rows(con: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_partition(con, STUDENT_OUTCOME, DAY, outcomes())

    def fail(*_: Any) -> int:
        raise RuntimeError("disk full")

    monkeypatch.setattr(warehouse, "_insert", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        replace_partition(con, STUDENT_OUTCOME, DAY, outcomes(students=("zz",)))
    assert len(read_table(con, STUDENT_OUTCOME, DAY)) == 2


def test_inside_a_transaction_it_joins_that_one(con: Session) -> None:
    with pytest.raises(ZeroDivisionError), con.transaction():
        replace_partition(con, STUDENT_OUTCOME, DAY, outcomes())
        raise ZeroDivisionError
    assert read_table(con, STUDENT_OUTCOME).empty
    with con.transaction():
        replace_partition(con, STUDENT_OUTCOME, DAY, outcomes())
    assert len(read_table(con, STUDENT_OUTCOME)) == 2


def test_rows_that_do_not_fit_are_refused(con: Session) -> None:
    for frame, message in (
        (outcomes(students=("aa", "aa")), "1 rows repeat the key"),
        (outcomes(EARLIER), "outside the partition"),
        (outcomes().drop(columns="outcome"), "lack outcome"),
        (outcomes().assign(outcome=None), "column outcome: 2 rows are null"),
    ):
        with pytest.raises(RowsError, match=message):
            replace_partition(con, STUDENT_OUTCOME, DAY, frame)
    with pytest.raises((duckdb.ConstraintException, psycopg2.errors.NotNullViolation)):
        con.execute("INSERT INTO raw.delivery_scope VALUES (NULL, 'd')")


def test_raw_rows_come_back_as_they_went(con: Session) -> None:
    assert warehouse.append_rows(con, OULAD_STUDENT_VLE, clicks()) == 3
    found = read_table(con, OULAD_STUDENT_VLE).sort_values("file_row", ignore_index=True)
    assert found["clicked_at"].tolist()[1] == pd.Timestamp(2013, 10, 1, 12)
    assert found["clicked_at"].isna().tolist() == [True, False, True]
    assert found["sum_click"].tolist() == [2, 2, 2]


# -- the table hash ------------------------------------------------------------------------------------


def test_the_hash_is_the_one_of_the_record(con: Session, here: Settings) -> None:
    frame = pd.DataFrame(
        {
            "as_of_on": DAY, "student_pseudonym": ["bb", "aa", "É"], "course_id": "BBB-2013J", "model_name": "m",
            "model_version": 1, "cluster": [-1, 0, 1], "cluster_uid": [None, "c-0a1b2c3d", "c-4e5f6071"], "confidence": [1 / 3, 0.1, 1e-300],
        }
    )  # fmt: skip
    if isinstance(con, DuckdbSession):
        columns = ", ".join(f"{c.name} {con.types[c.dtype]}" for c in ASSIGNMENTS.columns)
        con.execute(f"CREATE TABLE clustering.assignments ({columns})")
        con.insert(ASSIGNMENTS, shape_rows(ASSIGNMENTS, frame))
    record.prepare_record(here)
    with record.open_record(here) as connection:
        save_promotion(connection, promotion_row(model_name="m"))
        record.replace_partition(connection, ASSIGNMENTS, DAY, frame)
        expected = record.hash_table(connection, ASSIGNMENTS, DAY)
    assert (
        warehouse.hash_table(con, ASSIGNMENTS, DAY)
        == expected
        == hash_rows(ASSIGNMENTS, shape_rows(ASSIGNMENTS, frame))
    )


def test_the_hash_of_a_day_sees_values_and_not_order(con: Session) -> None:
    replace_partition(con, STUDENT_OUTCOME, DAY, outcomes())
    first = warehouse.hash_table(con, STUDENT_OUTCOME, DAY)
    replace_partition(con, STUDENT_OUTCOME, EARLIER, outcomes(EARLIER))
    replace_partition(con, STUDENT_OUTCOME, DAY, outcomes()[::-1].assign(delivery_set="another"))
    assert warehouse.hash_table(con, STUDENT_OUTCOME, DAY) == first
    assert warehouse.hash_table(con, STUDENT_OUTCOME) != first
    replace_partition(con, STUDENT_OUTCOME, DAY, outcomes().assign(outcome=["Pass", "Fail"]))
    assert warehouse.hash_table(con, STUDENT_OUTCOME, DAY) != first


def test_the_hash_of_raw_rows_sees_every_row_and_not_their_order(con: Session) -> None:
    def digest(frame: pd.DataFrame) -> str:
        con.execute("DELETE FROM raw.oulad_student_vle")
        warehouse.append_rows(con, OULAD_STUDENT_VLE, frame)
        return warehouse.hash_table(con, OULAD_STUDENT_VLE)

    first = digest(clicks())
    assert digest(clicks()[::-1]) == first
    assert digest(clicks()) == first
    assert digest(pd.concat([clicks(), clicks()[:1]])) != first
    assert digest(pd.concat([clicks(), clicks()[:1], clicks()[:1]])) != first
    assert digest(clicks(sum_click=[2, 2, 3])) != first
    apart = digest(clicks(code_module="A", code_presentation="AB"))
    assert apart != digest(clicks(code_module="AA", code_presentation="B"))
    assert digest(clicks(clicked_at=None)) != first


def test_the_hash_leaves_volatile_columns_out(con: Session) -> None:
    row = {"delivery_id": "d", "source": "s", "delivered_on": DAY, "scope": "full", "sha256": "x", "is_accepted": True}
    digests = set()
    for landed_at in (datetime(2020, 1, 1), datetime(2021, 1, 1)):
        con.execute("DELETE FROM raw.deliveries")
        warehouse.append_rows(con, DELIVERIES, pd.DataFrame([row | {"landed_at": landed_at}]))
        digests.add(warehouse.hash_table(con, DELIVERIES))
    assert len(digests) == 1


# -- overview ------------------------------------------------------------------------------------------


def test_the_overview_shows_every_table_and_what_is_absent(here: Settings) -> None:
    with open_warehouse(here, purpose="test", write=True) as con:
        prepare_warehouse(con)
        replace_partition(con, STUDENT_OUTCOME, EARLIER, outcomes(EARLIER))
        replace_partition(con, STUDENT_OUTCOME, DAY, outcomes())
        warehouse.append_rows(con, DELIVERY_SCOPE, pd.DataFrame([{"as_of_on": EARLIER, "delivery_id": "d"}]))
    lines = {line.path: line for line in warehouse.count_tables(here)}
    assert tuple(lines) == tuple(table.path for table in TABLES)
    assert (lines["anonymized/student_outcome"].rows, lines["anonymized/student_outcome"].newest_as_of) == (4, DAY)
    assert (lines["raw/delivery_scope"].rows, lines["raw/delivery_scope"].newest_as_of) == (1, EARLIER)
    assert (lines["raw/oulad_courses"].rows, lines["raw/oulad_courses"].newest_as_of) == (0, None)
    assert lines[FEATURES_STUDENT_OUTCOME.path].rows is None
    assert lines["raw/files"].location == str(here.warehouse_path)
    assert lines["risk/student_risk"].location.endswith("/iom")


def test_the_overview_of_an_empty_home_is_no_error(stopped_settings: Settings) -> None:
    lines = warehouse.count_tables(stopped_settings)
    assert {line.rows for line in lines} == {None}
    assert len(lines) == len(TABLES)
    assert not stopped_settings.warehouse_path.exists()
    assert dataclasses.is_dataclass(lines[0])
