"""The embedded warehouse: a session with one DuckDB file.

Who may open it, and when, belongs to `warehouse_lock.py`.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from iom_platform.settings import Settings
from iom_platform.storage.session import Result, Session
from iom_platform.storage.warehouse_lock import WarehouseError, busy
from iom_platform.tables import Table

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa

_log = logging.getLogger("iom")
_BATCH_ROWS = 1 << 18


class DuckdbSession(Session):
    """One connection of DuckDB; its results are the connection itself."""

    types: ClassVar = {
        "text": "VARCHAR", "json": "JSON", "int": "INTEGER", "bigint": "BIGINT", "float": "DOUBLE",
        "bool": "BOOLEAN", "date": "DATE", "timestamp": "TIMESTAMP",
    }  # fmt: skip
    collation = ""
    digest = "md5_number_lower({})"
    order_column = ""
    # rows keep the order of their writing; an order that is asked for stays also where that need not be preserved
    insertion_order = "ORDER BY rowid"
    start_over = "move warehouse.duckdb out of the home"

    def __init__(self, connection: "duckdb.DuckDBPyConnection") -> None:
        connection.execute("SET TimeZone = 'UTC'")
        self._connection = connection

    @staticmethod
    def is_there(settings: Settings) -> bool:
        return settings.warehouse_path.exists()

    @classmethod
    def is_absent(cls, settings: Settings) -> bool:
        return not cls.is_there(settings)

    @staticmethod
    def location(settings: Settings) -> str:
        return str(settings.warehouse_path)

    @classmethod
    def open(cls, settings: Settings, *, purpose: str, write: bool, deadline: float) -> Self:
        return cls(_connect(settings, purpose, write, deadline))

    def close(self) -> None:
        self._connection.close()

    def execute(self, query: str, values: Sequence[Any] = ()) -> Result:
        return self._connection.execute(query, list(values))  # type: ignore[no-any-return]

    def arrow(self, query: str, values: Sequence[Any] = ()) -> "pa.Table":
        return self._connection.sql(query, params=list(values)).to_arrow_table()

    def frame(self, query: str, values: Sequence[Any] = ()) -> "pd.DataFrame":
        frame: pd.DataFrame = self._connection.execute(query, list(values)).df()
        return frame

    def batches(self, query: str, values: Sequence[Any] = ()) -> "Iterator[pa.RecordBatch]":
        with self._connection.cursor() as cursor:
            # a reader of `cursor.execute` gives the batches in any order
            yield from cursor.sql(query, params=list(values)).to_arrow_reader(_BATCH_ROWS)

    def insert(self, table: Table, rows: "pa.Table") -> None:
        names = ", ".join(table.column_names)
        self._connection.register("rows_to_insert", rows)
        try:
            self._connection.execute(f"INSERT INTO {table.sql_name} ({names}) SELECT {names} FROM rows_to_insert")
        finally:
            self._connection.unregister("rows_to_insert")

    def columns_of(self, table: Table) -> tuple[str, ...]:
        rows = self._connection.execute(
            "SELECT column_name FROM duckdb_columns() WHERE database_name = current_database() AND schema_name = ? "
            "AND table_name = ? ORDER BY column_index",
            [table.stage, table.name],
        ).fetchall()
        return tuple(row[0] for row in rows)

    def is_in_transaction(self) -> bool:
        # DuckDB has no other sign: out of a transaction each statement has a number of its own, and a second BEGIN aborts
        first, second = (self._connection.execute("SELECT txid_current()").fetchone() for _ in range(2))
        return bool(first == second)


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
                raise busy(purpose, holder) from None
            if not has_warned:
                _log.warning("waiting for the warehouse, whose file is held by %s", holder)
                has_warned = True
            time.sleep(0.2)
    if write:
        path.chmod(0o600)
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
