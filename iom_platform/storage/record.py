"""The record: the small, transactional tables in PostgreSQL, the identity map and the audit of its use.

How a cluster or a risk level is found, and who is asked for an export, does not belong here.
"""

import contextlib
import getpass
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.errors
from psycopg2.extensions import connection as Connection

from iom_platform.settings import Settings
from iom_platform.storage.access import READER, AccessError, grant_statement
from iom_platform.storage.migrate import is_migrated, migrate
from iom_platform.storage.postgres_rows import copy_in
from iom_platform.storage.postgres_server import Server, ensure_server
from iom_platform.storage.rows import arrow_type, hash_rows, partition_column, shape_rows, to_frame
from iom_platform.tables import TABLES, Table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

DATABASE = "iom"


class RecordError(RuntimeError):
    """The record refuses; the message is one sentence with its remedy and names no person."""

    exit_code = 1


class NotAllowed(RecordError):
    """The session may not read identities."""

    exit_code = 6


@contextlib.contextmanager
def open_record(settings: Settings) -> Iterator[Connection]:
    """A connection to the record in one transaction: committed on success, rolled back on an error."""
    connection = _connect(ensure_server(settings))
    try:
        yield connection
        connection.commit()
    finally:
        connection.close()


def _connect(server: Server) -> Connection:
    try:
        connection = psycopg2.connect(server.url(DATABASE), connect_timeout=10, application_name="iom record")
    except psycopg2.OperationalError:
        raise RecordError(
            f"database {DATABASE} at {server.location} does not let {server.user!r} in; see `iom status`"
        ) from None
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
    connection.commit()
    return connection


# -- definition ----------------------------------------------------------------------------------------


def record_tables() -> tuple[Table, ...]:
    return tuple(table for table in TABLES if table.home == "record")


def prepare_record(settings: Settings) -> None:
    """Take the record to the newest revision and grant what is to be; where all is done, no lock is asked for."""
    server = ensure_server(settings)
    with contextlib.closing(_connect(server)) as connection:
        if is_migrated(connection):
            return
    _migrate(server)


def migrate_record(settings: Settings, to: str | None) -> tuple[str, str]:
    """Take the record to a revision, by default the newest, forward or back; see `migrate`."""
    return _migrate(ensure_server(settings), to)


def _migrate(server: Server, to: str | None = None) -> tuple[str, str]:
    try:
        return migrate(partial(_connect, server), to)
    except AccessError:
        if not server.is_embedded:
            raise
        raise RecordError(
            "the embedded PostgreSQL server runs since before this version of the platform and lacks its roles; stop it with "
            "`iom down`, and run again"
        ) from None


# -- tables --------------------------------------------------------------------------------------------


def replace_partition(conn: Connection, table: Table, as_of_on: date, frame: "pd.DataFrame | pa.Table") -> int:
    """Put `frame` in the place of the table's rows of that day, in the caller's transaction; returns its rows."""
    rows = shape_rows(table, frame, partition=as_of_on)
    with conn.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table.sql_name} WHERE {partition_column(table)} = %s", (as_of_on,))
        _write(cursor, table, rows)
    return len(rows)


def append_rows(conn: Connection, table: Table, frame: "pd.DataFrame") -> None:
    """Add rows in the caller's transaction; RecordError names the rule that one of them breaks."""
    with conn.cursor() as cursor:
        _write(cursor, table, shape_rows(table, frame))


def _write(cursor: Any, table: Table, rows: "pa.Table") -> None:
    """COPY refuses a table with row-level security, so its rows pass through a temporary one."""
    cursor.execute("SELECT row_security_active(%s)", (table.sql_name,))
    is_secured = cursor.fetchone()[0]
    target = f"pg_temp.{table.name}" if is_secured else table.sql_name
    if is_secured:
        cursor.execute(f"CREATE TEMP TABLE {table.name} (LIKE {table.sql_name})")
    try:
        copy_in(cursor, target, rows)
        if is_secured:
            names = ", ".join(table.column_names)
            cursor.execute(f"INSERT INTO {table.sql_name} ({names}) SELECT {names} FROM {target}")
            cursor.execute(f"DROP TABLE {target}")
    except (psycopg2.IntegrityError, psycopg2.DataError) as error:
        # PostgreSQL's DETAIL quotes the whole row
        rule = error.diag.constraint_name or error.diag.column_name or "a type"
        raise RecordError(f"{table.path} refuses rows that break {rule}; nothing was written") from None


def read_table(conn: Connection, table: Table, as_of_on: date | None = None) -> "pd.DataFrame":
    """The table, or one day of it, sorted by key and typed as `rows.to_frame` says."""
    return to_frame(_read_rows(conn, table, as_of_on))


def _read_rows(conn: Connection, table: Table, as_of_on: date | None) -> "pa.Table":
    import pyarrow as pa

    order = f" ORDER BY {', '.join(table.key)}" if table.key else ""
    where = "" if as_of_on is None else f" WHERE {partition_column(table)} = %s"
    with conn.cursor() as cursor:
        chosen = ", ".join(f"{c.name} AT TIME ZONE 'UTC'" if c.dtype == "timestamp" else c.name for c in table.columns)
        cursor.execute(
            f"SELECT {chosen} FROM {table.sql_name}{where}{order}", None if as_of_on is None else (as_of_on,)
        )
        values = list(zip(*cursor.fetchall(), strict=True)) or [()] * len(table.columns)
    arrays = [pa.array(column_values, arrow_type(c)) for c, column_values in zip(table.columns, values, strict=True)]
    return pa.table(arrays, names=list(table.column_names))


def has_partition(conn: Connection, table: Table, as_of_on: date) -> bool:
    with conn.cursor() as cursor:
        cursor.execute(
            f"SELECT EXISTS (SELECT FROM {table.sql_name} WHERE {partition_column(table)} = %s)", (as_of_on,)
        )
        return bool(cursor.fetchone()[0])  # type: ignore[index]


def hash_table(conn: Connection, table: Table, as_of_on: date | None = None) -> str:
    """The table hash, see `rows.hash_rows`."""
    return hash_rows(table, _read_rows(conn, table, as_of_on))


def count_rows(conn: Connection, table: Table) -> tuple[int, date | None] | None:
    """Rows and newest as-of day; None where the table is absent."""
    newest = "max(as_of_on)" if "as_of_on" in table.column_names else "NULL"
    with conn.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (table.sql_name,))
        if not cursor.fetchone()[0]:  # type: ignore[index]
            return None
        cursor.execute(f"SELECT count(*), {newest} FROM {table.sql_name}")
        return cursor.fetchone()


# -- identities ----------------------------------------------------------------------------------------


def save_identities(settings: Settings, source: str, pairs: Iterable[tuple[str, str]]) -> int:
    """Add (student_id, student_pseudonym) pairs, all or none; returns how many are new.

    Raises RecordError where a pseudonym already belongs to another student, or a student has another pseudonym.
    """
    added = 0
    remaining = iter(pairs)
    with open_record(settings) as connection, connection.cursor() as cursor:
        while chunk := list(islice(remaining, 20_000)):
            ids, pseudonyms = [pair[0] for pair in chunk], [pair[1] for pair in chunk]
            try:
                cursor.execute("SELECT identity.save_students(%s, %s::text[], %s::text[])", (source, ids, pseudonyms))
            except psycopg2.errors.UniqueViolation:
                raise RecordError(
                    f"students of source {source!r} have pseudonyms other than the identity map says, or share one; "
                    "use the pseudonym key that the map was made with"
                ) from None
            added += cursor.fetchone()[0]  # type: ignore[index]
    return added


def read_identities(
    settings: Settings, *, reason: str, table_name: str, as_of_on: date | None, pseudonyms: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """pseudonym -> (source, student_id) for an identified export, with its audit row in the same transaction.

    pseudonyms: one for each row that is exported; the audit notes their number and the account of the operating system.

    Raises NotAllowed where the session user is no member of identity_reader; unknown pseudonyms are left out.
    """
    if not reason.strip():
        raise RecordError("an identified export needs a reason; say why in --reason")
    wanted = sorted(set(pseudonyms))
    with open_record(settings) as connection, connection.cursor() as cursor:
        if not _is_member(cursor):
            raise NotAllowed(_not_allowed(cursor))
        try:
            cursor.execute(f"SET LOCAL ROLE {READER}")
            cursor.execute(
                "SELECT student_pseudonym, source, student_id FROM identity.students WHERE student_pseudonym = ANY(%s)",
                (wanted,),
            )
            found = {pseudonym: (source, student) for pseudonym, source, student in cursor.fetchall()}
            cursor.execute("RESET ROLE")
        except psycopg2.errors.InsufficientPrivilege:
            connection.rollback()
            raise NotAllowed(_not_allowed(cursor)) from None
        cursor.execute(
            "INSERT INTO audit.exports (table_name, as_of_on, rows, reason, account) VALUES (%s, %s, %s, %s, %s)",
            (table_name, as_of_on, len(pseudonyms), reason.strip(), getpass.getuser()),
        )
    return found


def read_audit(settings: Settings) -> "pd.DataFrame":
    """Every identified export, oldest first: exported_at, account, actor, table_name, as_of_on, rows, reason."""
    import pandas as pd

    with open_record(settings) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT exported_at, account, actor, table_name, as_of_on, rows, reason FROM audit.exports ORDER BY exported_at"
        )
        return pd.DataFrame(cursor.fetchall(), columns=[column.name for column in cursor.description or ()])


def _is_member(cursor: Any) -> bool:
    """Whether the session user was granted the role; pg_has_role would let every superuser through."""
    cursor.execute(
        """WITH RECURSIVE held (role) AS (
            SELECT oid FROM pg_roles WHERE rolname = session_user
            UNION SELECT m.roleid FROM pg_auth_members m JOIN held ON m.member = held.role)
        SELECT EXISTS (SELECT FROM held JOIN pg_roles r ON r.oid = held.role WHERE r.rolname = %s)""",
        (READER,),
    )
    return bool(cursor.fetchone()[0])


def _not_allowed(cursor: Any) -> str:
    return f"the session is no member of {READER}, so no student id is shown; an administrator can run: {grant_statement(cursor)}"
