"""The warehouse: what stands between raw and anonymized, in DuckDB or in PostgreSQL as the setting `engine` says.

What its tables mean belongs to dbt; what lands in raw belongs to extract; how an engine is talked to, to `session.py`.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from iom_platform.settings import Settings
from iom_platform.storage import record
from iom_platform.storage.duckdb_session import DuckdbSession
from iom_platform.storage.postgres_server import ensure_server
from iom_platform.storage.postgres_session import PostgresSession
from iom_platform.storage.rows import hash_rows, partition_column, shape_rows, to_frame
from iom_platform.storage.session import Session
from iom_platform.storage.warehouse_lock import NoWarehouse, WarehouseError, warehouse_lock
from iom_platform.tables import ANONYMIZED_LEARNER_SUMMARY, TABLES, Table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_SCHEMAS = ("raw", "staging", "intermediate", "features", "anonymized", "clustering")
_SESSIONS: dict[str, type[Session]] = {"duckdb": DuckdbSession, "postgres": PostgresSession}


@contextlib.contextmanager
def open_warehouse(settings: Settings, *, purpose: str, write: bool) -> Iterator[Session]:
    """A session with the warehouse: one writer alone, or readers together. See `warehouse_lock` for the waiting.

    `purpose` is shown to whoever waits, so it names a command and never a person. A writer makes a DuckDB file that is
    missing.
    """
    engine = _SESSIONS[settings.engine]
    if not write and engine.is_absent(settings):
        raise NoWarehouse(engine.location(settings))
    with warehouse_lock(settings, purpose, exclusive=write) as deadline:
        session = engine.open(settings, purpose=purpose, write=write, deadline=deadline)
        try:
            yield session
        finally:
            session.close()


def has_warehouse(settings: Settings) -> bool:
    """Whether there is one; starts nothing, so a server that does not run has none."""
    return _SESSIONS[settings.engine].is_there(settings)


# -- tables --------------------------------------------------------------------------------------------


def prepare_warehouse(con: Session) -> None:
    """Create what is missing of schemas and of the tables that dbt does not make; repeatable.

    Keys are checked where rows are written, and not by an index: that slows a load down, and DuckDB's refuses a delete and
    insert of one key in one transaction.
    """
    for schema in _SCHEMAS:
        con.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    for table in TABLES:
        if table.home != "warehouse" or table.stage == "features":
            continue
        columns = ", ".join(f"{c.name} {con.types[c.dtype]}{'' if c.nullable else ' NOT NULL'}" for c in table.columns)
        order = con.order_column if table is ANONYMIZED_LEARNER_SUMMARY else ""
        con.execute(f"CREATE TABLE IF NOT EXISTS {table.sql_name} ({columns}{order})")
        _refuse_other_columns(con, table)


def _refuse_other_columns(con: Session, table: Table) -> None:
    """Raise WarehouseError for a table that an earlier version made; one that is absent is no matter here."""
    present = con.columns_of(table)
    other = sorted(set(present) ^ set(table.column_names))
    if present and other:
        raise WarehouseError(
            f"{table.path} in the warehouse has other columns than tables.py ({', '.join(other)}), for an earlier version made it; "
            f"{con.start_over} and land every delivery again"
        )


def append_rows(con: Session, table: Table, frame: "pd.DataFrame | pa.Table | pa.RecordBatch") -> int:
    """Add rows, checked and typed by `rows.shape_rows` (their key among themselves only); returns how many."""
    return _insert(con, table, shape_rows(table, frame))


def _insert(con: Session, table: Table, rows: "pa.Table") -> int:
    con.insert(table, rows)
    return len(rows)


def replace_partition(con: Session, table: Table, as_of_on: date, frame: "pd.DataFrame | pa.Table") -> int:
    """Put `frame` in the place of the table's rows of that day, in one transaction; returns its rows."""
    rows = shape_rows(table, frame, partition=as_of_on)
    with con.transaction():
        con.execute(f"DELETE FROM {table.sql_name} WHERE {partition_column(table)} = ?", [as_of_on])
        return _insert(con, table, rows)


def replace_table(con: Session, table: Table, frame: "pd.DataFrame | pa.Table") -> int:
    """Put `frame` in the place of all rows of the table, in one transaction; returns its rows."""
    rows = shape_rows(table, frame)
    with con.transaction():
        con.execute(f"DELETE FROM {table.sql_name}")
        return _insert(con, table, rows)


def read_rows(
    con: Session, table: Table, as_of_on: date | None = None, columns: Sequence[str] | None = None
) -> "pa.Table":
    """The table, or one day or some columns of it, as Arrow, sorted by key."""
    unknown = sorted(set(columns or ()) - set(table.column_names))
    if unknown:
        raise WarehouseError(f"{table.path} has no column {unknown[0]!r}; tables.py lists its columns")
    _refuse_other_columns(con, table)
    chosen = ", ".join(
        f"{c.name}::{con.types[c.dtype]} AS {c.name}" for c in table.columns if columns is None or c.name in columns
    )
    where, values = ("", []) if as_of_on is None else (f" WHERE {partition_column(table)} = ?", [as_of_on])
    texts = {c.name for c in table.columns if c.dtype == "text"}
    key = ", ".join(name + con.collation if name in texts else name for name in table.key)
    order = f" ORDER BY {key}" if key else ""
    return con.arrow(f"SELECT {chosen} FROM {table.sql_name}{where}{order}", values)


def read_table(
    con: Session, table: Table, as_of_on: date | None = None, columns: Sequence[str] | None = None
) -> "pd.DataFrame":
    """`read_rows` as a frame, typed as `rows.to_frame` says."""
    return to_frame(read_rows(con, table, as_of_on, columns))


def hash_table(con: Session, table: Table, as_of_on: date | None = None) -> str:
    """The table hash: `rows.hash_rows`; for raw tables, which are big, a sum over row digests, in no order."""
    if table.stage != "raw":
        return hash_rows(table, read_rows(con, table, as_of_on))
    where, values = ("", []) if as_of_on is None else (f" WHERE {partition_column(table)} = ?", [as_of_on])
    # a length before each value: ('a', 'bc') and ('ab', 'c') must differ, and null from ''
    parts = ", ".join(f"coalesce(length({c}::VARCHAR) || ':' || {c}::VARCHAR, '-')" for c in table.stable_columns)
    # fetchall: a row fetched alone leaves the result open, and DuckDB then refuses the connection's next read
    [(count, total)] = con.execute(
        f"SELECT count(*), coalesce(sum({con.digest.format(f'concat({parts})')}), 0) FROM {table.sql_name}{where}",
        values,
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
    with contextlib.suppress(NoWarehouse), open_warehouse(settings, purpose="iom tables", write=False) as con:
        found |= {table.path: count_rows(con, table) for table in TABLES if table.home == "warehouse"}
    with record.open_record(settings) as connection:
        found |= {table.path: record.count_rows(connection, table) for table in record.record_tables()}
    server = ensure_server(settings)
    places = {
        "warehouse": _SESSIONS[settings.engine].location(settings),
        "record": f"{server.host}:{server.port}/{record.DATABASE}",
    }
    lines = []
    for table in TABLES:
        rows, newest = found.get(table.path) or (None, None)
        lines.append(TableCount(table.path, table.home, places[table.home], rows, newest))
    return tuple(lines)


def count_rows(con: Session, table: Table) -> tuple[int, date | None] | None:
    """Rows and newest as-of day; None where the table is absent."""
    names = con.columns_of(table)
    if not names:
        return None
    newest = "max(as_of_on)" if "as_of_on" in names else "NULL"
    count, day = con.execute(f"SELECT count(*), {newest} FROM {table.sql_name}").fetchone() or (0, None)
    return count, day
