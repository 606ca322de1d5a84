"""The warehouse of a university: a session with PostgreSQL, in the record's database, so that one query sees both.

Who may open it, and when, belongs to `warehouse_lock.py`; the record's own tables to `record.py`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, ClassVar, Self

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.extensions import connection as Connection

from iom_platform.settings import Settings
from iom_platform.storage.postgres_rows import copy_in, copy_out
from iom_platform.storage.postgres_server import Server, ensure_server, find_server
from iom_platform.storage.record import DATABASE
from iom_platform.storage.session import Result, Session
from iom_platform.storage.warehouse_lock import NoWarehouse, WarehouseError
from iom_platform.tables import Table

if TYPE_CHECKING:
    import pyarrow as pa


class PostgresSession(Session):
    """One connection of psycopg2."""

    types: ClassVar = {
        "text": "text", "json": "json", "int": "integer", "bigint": "bigint", "float": "double precision",
        "bool": "boolean", "date": "date", "timestamp": "timestamp",
    }  # fmt: skip
    collation = ' COLLATE "C"'
    digest = "('x' || right(md5({}), 16))::bit(64)::bigint::numeric"
    order_column = ", written_order bigint GENERATED ALWAYS AS IDENTITY"
    insertion_order = "ORDER BY written_order"
    start_over = (
        "drop the schemas raw, staging, intermediate, features and anonymized, with the tables clustering.learner_*,"
    )

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @staticmethod
    def is_there(settings: Settings) -> bool:
        server = find_server(settings)
        if server is None:
            return False
        with closing(_connect(server, write=False)) as connection:
            return _is_prepared(connection)

    @staticmethod
    def location(settings: Settings) -> str:
        server = ensure_server(settings)
        return f"{server.host}:{server.port}/{DATABASE}"

    @classmethod
    def open(cls, settings: Settings, *, purpose: str, write: bool, deadline: float) -> Self:
        connection = _connect(ensure_server(settings), write=write)
        if not write and not _is_prepared(connection):
            connection.close()
            raise NoWarehouse(cls.location(settings))
        return cls(connection)

    def close(self) -> None:
        self._connection.close()

    def execute(self, query: str, values: Sequence[Any] = ()) -> Result:
        cursor = self._connection.cursor()
        cursor.execute(_in_psycopg(query), tuple(values))
        return cursor

    def arrow(self, query: str, values: Sequence[Any] = ()) -> "pa.Table":
        import pyarrow as pa

        return pa.Table.from_batches(self.batches(query, values))

    def batches(self, query: str, values: Sequence[Any] = ()) -> "Iterator[pa.RecordBatch]":
        with self._connection.cursor() as cursor:
            yield from copy_out(cursor, _in_psycopg(query), tuple(values))

    def insert(self, table: Table, rows: "pa.Table") -> None:
        with self._connection.cursor() as cursor:
            copy_in(cursor, table.sql_name, rows)

    def gather_statistics(self, tables: Iterable[Table]) -> None:
        # by guesses it takes nested loops over tens of thousands of rows, and minutes for a second's work
        for table in tables:
            self.execute(f"ANALYZE {table.sql_name}")

    def columns_of(self, table: Table) -> tuple[str, ...]:
        rows = self.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped "
            "AND attidentity = '' ORDER BY attnum",
            [table.sql_name],
        ).fetchall()
        return tuple(row[0] for row in rows)

    def is_in_transaction(self) -> bool:
        return self._connection.get_transaction_status() != TRANSACTION_STATUS_IDLE


def _connect(server: Server, *, write: bool) -> Connection:
    try:
        connection = psycopg2.connect(
            server.url(DATABASE), connect_timeout=10, application_name="iom warehouse", options="-c TimeZone=UTC"
        )
    except psycopg2.OperationalError:
        raise WarehouseError(
            f"database {DATABASE} at {server.location} does not let {server.user!r} in; see `iom status`"
        ) from None
    connection.set_session(readonly=not write, autocommit=True)
    return connection


def _is_prepared(connection: Connection) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('raw.deliveries') IS NOT NULL")
        return cursor.fetchone() == (True,)


def _in_psycopg(query: str) -> str:
    return query.replace("%", "%%").replace("?", "%s")
