"""The warehouse: one DuckDB file with one writer at a time, guarded by an advisory lock in PostgreSQL.

What the tables between raw and anonymized mean belongs to dbt; what lands in raw belongs to extract.
"""

import contextlib
import hashlib
import logging
import os
import select
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.errors
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE
from psycopg2.extensions import connection as Connection

from iom_platform.settings import Settings
from iom_platform.storage import record
from iom_platform.storage.postgres_server import Server, ensure_server
from iom_platform.storage.rows import hash_rows, partition_column, shape_rows, to_frame
from iom_platform.tables import TABLES, Table

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa

BUSY_EXIT_CODE = 75
"""Exit code of a command that waited in vain for the warehouse (EX_TEMPFAIL: try again later)."""

_log = logging.getLogger("iom")
_LOCK = (7000, 1)
_SCHEMAS = ("raw", "staging", "intermediate", "features", "anonymized", "clustering")
# timestamps carry no zone, they are UTC: dbt's session may run in another time zone
_TYPES = {
    "text": "VARCHAR", "json": "JSON", "int": "INTEGER", "bigint": "BIGINT", "float": "DOUBLE",
    "bool": "BOOLEAN", "date": "DATE", "timestamp": "TIMESTAMP",
}  # fmt: skip
_held: dict[tuple[int, Path], str] = {}  # (thread, file) -> purpose


class WarehouseError(RuntimeError):
    """The warehouse cannot be used; the message is one sentence with its remedy."""

    exit_code = 1


class WarehouseBusy(WarehouseError):
    """Others held the warehouse for longer than warehouse.wait_seconds; a command exits with `exit_code`."""

    exit_code = BUSY_EXIT_CODE


# -- the lock ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def warehouse_lock(settings: Settings, purpose: str, exclusive: bool = True) -> Iterator[float]:
    """Hold the warehouse without opening it, for a subprocess such as dbt's that opens it itself.

    Waits with one message in the log "iom" that names the holder, raises WarehouseBusy after warehouse.wait_seconds.
    Yields the deadline on the monotonic clock. The lock ends with the process, however it dies. It does not nest:
    a second lock in the same thread could only wait for the first, so it raises WarehouseError at once.
    """
    deadline = time.monotonic() + settings.warehouse.wait_seconds
    place = (threading.get_ident(), settings.warehouse_path.resolve())
    if place in _held:
        raise WarehouseError(
            f"this thread already holds the warehouse for {_held[place]!r}; close it before {purpose!r}, or pass it on"
        )
    _held[place] = purpose
    try:
        connection = _lock_session(ensure_server(settings), purpose)
        try:
            _acquire(connection, purpose, exclusive, deadline)
            yield deadline
        finally:
            connection.close()
    finally:
        del _held[place]


def _lock_session(server: Server, purpose: str) -> Connection:
    # 63 bytes are kept of it, and only ASCII
    name = f"iom {os.getpid()} {purpose}".encode("ascii", "replace").decode()[:63]
    try:
        # asynchronous, because a plain wait inside libpq is deaf to Ctrl-C; it is in autocommit
        connection = psycopg2.connect(server.url(record.DATABASE), application_name=name, async_=True)
        _wait(connection)
    except psycopg2.OperationalError:
        raise WarehouseError(
            f"the lock of the warehouse is out of reach at {server.location}; see `iom status`"
        ) from None
    _ask(
        connection, "SELECT set_config('idle_session_timeout', '0', false), set_config('statement_timeout', '0', false)"
    )
    return connection


def _wait(connection: Connection) -> None:
    while (state := connection.poll()) != POLL_OK:
        select.select([connection] if state == POLL_READ else [], [connection] if state == POLL_WRITE else [], [], 1.0)


def _ask(connection: Connection, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        _wait(connection)
        return list(cursor.fetchall())


def _acquire(connection: Connection, purpose: str, exclusive: bool, deadline: float) -> None:
    suffix = "" if exclusive else "_shared"
    if _ask(connection, f"SELECT pg_try_advisory_lock{suffix}(%s, %s)", _LOCK)[0][0]:
        return
    remaining = deadline - time.monotonic()
    holders = _holders(connection)
    if remaining <= 0:
        raise _busy(purpose, holders)
    _log.warning("waiting up to %.0f s for the warehouse, which is held by %s", remaining, holders)
    _ask(
        connection, "SELECT set_config('lock_timeout', %s, false)", (f"{min(int(remaining * 1000) + 1, 2**31 - 1)}ms",)
    )
    try:
        # a queue in the server is fair: readers that come later cannot starve a waiting writer
        _ask(connection, f"SELECT pg_advisory_lock{suffix}(%s, %s)", _LOCK)
    except psycopg2.errors.LockNotAvailable:
        raise _busy(purpose, _holders(connection)) from None


def _busy(purpose: str, holders: str) -> WarehouseBusy:
    return WarehouseBusy(
        f"the warehouse is held by {holders}, so {purpose!r} gave up; try again later or raise warehouse.wait_seconds"
    )


def _holders(connection: Connection) -> str:
    """Purpose and process id of whoever holds the lock."""
    found = _ask(
        connection,
        """SELECT DISTINCT coalesce(nullif(a.application_name, ''), 'an unnamed session') FROM pg_locks l
        JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = %s AND l.objid = %s
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1""",
        _LOCK,
    )
    names = []
    for (name,) in found:
        parts = name.split(" ", 2)
        names.append(f"{parts[2]!r} (pid {parts[1]})" if len(parts) == 3 and parts[0] == "iom" else repr(name))
    return " and ".join(names) or "another session"


# -- opening -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_warehouse(settings: Settings, *, purpose: str, write: bool) -> Iterator["duckdb.DuckDBPyConnection"]:
    """A connection to the warehouse: one writer alone, or readers together. See `warehouse_lock` for the waiting.

    `purpose` is shown to whoever waits, so it names a command and never a person. A writer creates the file and is in
    autocommit: what must be whole goes into a transaction, as `replace_partition` does.
    """
    path = settings.warehouse_path
    if not write and not path.exists():
        raise WarehouseError(f"there is no warehouse at {path} yet; fill it with `iom demo` or `iom run`")
    with warehouse_lock(settings, purpose, exclusive=write) as deadline:
        connection = _connect(settings, purpose, write, deadline)
        try:
            yield connection
        finally:
            connection.close()


def _connect(settings: Settings, purpose: str, write: bool, deadline: float) -> "duckdb.DuckDBPyConnection":
    import duckdb

    path, has_warned = settings.warehouse_path, False
    config: dict[str, Any] = {
        "memory_limit": settings.warehouse.memory_limit,
        "threads": min(os.cpu_count() or 1, 8),
        "temp_directory": str(settings.home / "duckdb_tmp"),
        # reads sort, and no table's meaning hangs on the order of its rows
        "preserve_insertion_order": False,
    }
    while True:
        try:
            connection = duckdb.connect(str(path), read_only=not write, config=config)
            break
        except (duckdb.IOException, duckdb.ConnectionException) as error:
            holder = _foreign_holder(error)
            if holder is None:
                raise WarehouseError(
                    f"the warehouse at {path} cannot be opened: {str(error).splitlines()[0]}"
                ) from None
            if time.monotonic() >= deadline:
                raise _busy(purpose, holder) from None
            if not has_warned:
                _log.warning("waiting for the warehouse, whose file is held by %s", holder)
                has_warned = True
            time.sleep(0.2)
    if write:
        path.chmod(0o600)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _foreign_holder(error: Exception) -> str | None:
    """Who holds DuckDB's own lock on the file without ours, such as a plain `dbt build`; None for another error."""
    message = str(error)
    if "different configuration" in message:
        return f"another connection of this process (pid {os.getpid()})"
    if "Could not set lock on file" not in message:
        return None
    _, found, tail = message.partition("(PID ")
    return (
        f"a process outside the platform (pid {tail.partition(')')[0]})" if found else "a process outside the platform"
    )


# -- tables --------------------------------------------------------------------------------------------


def prepare_warehouse(con: "duckdb.DuckDBPyConnection") -> None:
    """Create what is missing of schemas and of the tables that dbt does not make; repeatable.

    Keys are checked where rows are written, not by DuckDB: its indexes slow a load down and refuse a delete and insert
    of one key in one transaction.
    """
    for schema in _SCHEMAS:
        con.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    for table in TABLES:
        if table.home != "warehouse" or table.stage == "features":
            continue
        columns = ", ".join(f"{c.name} {_TYPES[c.dtype]}{'' if c.nullable else ' NOT NULL'}" for c in table.columns)
        con.execute(f"CREATE TABLE IF NOT EXISTS {table.sql_name} ({columns})")
        _refuse_other_columns(con, table)


def _refuse_other_columns(con: "duckdb.DuckDBPyConnection", table: Table) -> None:
    """Raise WarehouseError for a table that an earlier version made; one that is absent is no matter here."""
    present = _present_columns(con, table)
    other = sorted(set(present) ^ set(table.column_names))
    if present and other:
        raise WarehouseError(
            f"{table.path} in the warehouse has other columns than tables.py ({', '.join(other)}), for an earlier version made it; "
            "move warehouse.duckdb out of the home and land every delivery again"
        )


def _present_columns(con: "duckdb.DuckDBPyConnection", table: Table) -> tuple[str, ...]:
    rows = con.execute(
        "SELECT column_name FROM duckdb_columns() WHERE database_name = current_database() AND schema_name = ? AND table_name = ? "
        "ORDER BY column_index",
        [table.stage, table.name],
    ).fetchall()
    return tuple(row[0] for row in rows)


def append_rows(
    con: "duckdb.DuckDBPyConnection", table: Table, frame: "pd.DataFrame | pa.Table | pa.RecordBatch"
) -> int:
    """Add rows, checked and typed by `rows.shape_rows` (their key among themselves only); returns how many."""
    return _insert(con, table, shape_rows(table, frame))


def _insert(con: "duckdb.DuckDBPyConnection", table: Table, rows: "pa.Table") -> int:
    names = ", ".join(table.column_names)
    con.register("rows_to_insert", rows)
    try:
        con.execute(f"INSERT INTO {table.sql_name} ({names}) SELECT {names} FROM rows_to_insert")
    finally:
        con.unregister("rows_to_insert")
    return len(rows)


def frame_of(rows: "pa.Table") -> "pd.DataFrame":
    """Rows in the types that a frame read from the warehouse has; nothing is stored."""
    import duckdb

    with duckdb.connect() as con:
        frame: pd.DataFrame = con.from_arrow(rows).df()
    return frame


@contextlib.contextmanager
def transaction(con: "duckdb.DuckDBPyConnection") -> Iterator[None]:
    """All or nothing; inside an open transaction it joins that one."""
    # DuckDB has no other sign: out of a transaction each statement has a number of its own, and a second BEGIN aborts
    first, second = (con.execute("SELECT txid_current()").fetchone() for _ in range(2))
    if first == second:
        yield
        return
    con.execute("BEGIN")
    try:
        yield
    except BaseException:
        con.execute("ROLLBACK")
        raise
    con.execute("COMMIT")


def replace_partition(
    con: "duckdb.DuckDBPyConnection", table: Table, as_of_on: date, frame: "pd.DataFrame | pa.Table"
) -> int:
    """Put `frame` in the place of the table's rows of that day, in one transaction; returns its rows."""
    rows = shape_rows(table, frame, partition=as_of_on)
    with transaction(con):
        con.execute(f"DELETE FROM {table.sql_name} WHERE {partition_column(table)} = ?", [as_of_on])
        return _insert(con, table, rows)


def replace_table(con: "duckdb.DuckDBPyConnection", table: Table, frame: "pd.DataFrame | pa.Table") -> int:
    """Put `frame` in the place of all rows of the table, in one transaction; returns its rows."""
    rows = shape_rows(table, frame)
    with transaction(con):
        con.execute(f"DELETE FROM {table.sql_name}")
        return _insert(con, table, rows)


def read_rows(
    con: "duckdb.DuckDBPyConnection", table: Table, as_of_on: date | None = None, columns: Sequence[str] | None = None
) -> "pa.Table":
    """The table, or one day or some columns of it, as Arrow, sorted by key."""
    unknown = sorted(set(columns or ()) - set(table.column_names))
    if unknown:
        raise WarehouseError(f"{table.path} has no column {unknown[0]!r}; tables.py lists its columns")
    _refuse_other_columns(con, table)
    chosen = ", ".join(
        f"{c.name}::{_TYPES[c.dtype]} AS {c.name}" for c in table.columns if columns is None or c.name in columns
    )
    where, values = ("", []) if as_of_on is None else (f" WHERE {partition_column(table)} = ?", [as_of_on])
    order = f" ORDER BY {', '.join(table.key)}" if table.key else ""
    return con.sql(f"SELECT {chosen} FROM {table.sql_name}{where}{order}", params=values).to_arrow_table()


def read_table(
    con: "duckdb.DuckDBPyConnection", table: Table, as_of_on: date | None = None, columns: Sequence[str] | None = None
) -> "pd.DataFrame":
    """`read_rows` as a frame, typed as `rows.to_frame` says."""
    return to_frame(read_rows(con, table, as_of_on, columns))


def hash_table(con: "duckdb.DuckDBPyConnection", table: Table, as_of_on: date | None = None) -> str:
    """The table hash: `rows.hash_rows`; for raw tables, which are big, a sum over row digests, in no order."""
    if table.stage != "raw":
        return hash_rows(table, read_rows(con, table, as_of_on))
    where, values = ("", []) if as_of_on is None else (f" WHERE {partition_column(table)} = ?", [as_of_on])
    # a length before each value: ('a', 'bc') and ('ab', 'c') must differ, and null from ''
    parts = ", ".join(f"coalesce(length({c}::VARCHAR) || ':' || {c}::VARCHAR, '-')" for c in table.stable_columns)
    # fetchall: a row fetched alone leaves the result open, and DuckDB then refuses the connection's next read
    [(count, total)] = con.execute(
        f"SELECT count(*), coalesce(sum(md5_number_lower(concat({parts}))), 0) FROM {table.sql_name}{where}", values
    ).fetchall()
    return hashlib.sha256(f"{table.path} {count} {total}".encode()).hexdigest()


# -- overview ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableCount:
    """One line of `iom tables`; rows is None where the table is absent."""

    path: str
    home: str
    location: str
    rows: int | None
    newest_as_of: date | None


def count_tables(settings: Settings) -> tuple[TableCount, ...]:
    """Every table that tables.py knows, in its order."""
    found: dict[str, tuple[int, date | None] | None] = {}
    if settings.warehouse_path.exists():
        with open_warehouse(settings, purpose="iom tables", write=False) as con:
            found |= {table.path: count_rows(con, table) for table in TABLES if table.home == "warehouse"}
    with record.open_record(settings) as connection:
        found |= {table.path: record.count_rows(connection, table) for table in record.record_tables()}
    server = ensure_server(settings)
    places = {"warehouse": str(settings.warehouse_path), "record": f"{server.host}:{server.port}/{record.DATABASE}"}
    lines = []
    for table in TABLES:
        rows, newest = found.get(table.path) or (None, None)
        lines.append(TableCount(table.path, table.home, places[table.home], rows, newest))
    return tuple(lines)


def count_rows(con: "duckdb.DuckDBPyConnection", table: Table) -> tuple[int, date | None] | None:
    """Rows and newest as-of day; None where the table is absent."""
    names = _present_columns(con, table)
    if not names:
        return None
    newest = "max(as_of_on)" if "as_of_on" in names else "NULL"
    count, day = con.execute(f"SELECT count(*), {newest} FROM {table.sql_name}").fetchone() or (0, None)
    return count, day
