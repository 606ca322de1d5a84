"""Uploads clusters of learners to a PostgreSQL server of the user's, as the table `learners.learner_clusters`.

The record and its tables do not belong here (`record.py`). Everything is one transaction: readers see the rows of before
until all new ones are there and counted.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl
import psycopg2
import psycopg2.errors
import pyarrow as pa
import pyarrow.parquet
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from iom_platform.storage.postgres_server import open_external

Mode = Literal["replace", "upsert"]
SCHEMA, TABLE = "learners", "learner_clusters"
_STAGED = "learner_clusters_staged"
_KEY = "learner_id"
_LOCK = 7003  # one upload at a time
_BATCH_ROWS = 1 << 16
_NAME_BYTES = 63
_TYPES = {pa.string(): "text", pa.large_string(): "text", pa.float64(): "double precision", pa.int8(): "smallint"}


class PostgresRefused(ValueError):
    """What is asked cannot be uploaded; one sentence says why, and the remedy."""

    exit_code = 2


class PostgresFailed(RuntimeError):
    """The rows were not uploaded; one sentence says why, and the remedy, without a password or an id."""

    exit_code = 1


@dataclass(frozen=True)
class PostgresTable:
    """The table on the server that `url` names; `replace` swaps it for the file's rows, `upsert` keeps those of others."""

    url: str | None = field(repr=False)
    mode: Mode

    def check(self, features: Sequence[str]) -> None:
        """Raise PostgresRefused or ServerError for what can be known before the file is read."""
        if self.url is None:
            raise PostgresRefused(
                "--postgres needs a server of yours, since ids do not go into .iom; set IOM_POSTGRES_URL to "
                "postgresql://user:password@host:5432/database"
            )
        for name in features:
            if len(name.encode()) > _NAME_BYTES:
                raise PostgresRefused(f"column {name[:40]}… is longer than PostgreSQL's {_NAME_BYTES} bytes; rename it")
        open_external(self.url)[1].close()

    def upload(self, file: Path) -> str:
        """Upload the rows of a Parquet file of `iom cluster`; returns what is told. Raises PostgresFailed."""
        server, connection = open_external(self.url or "")
        with closing(connection):
            try:
                connection.set_client_encoding("UTF8")
                rows, changed = _upload(connection, file, self.mode)
                connection.commit()
            except psycopg2.Error as error:
                raise PostgresFailed(
                    f"PostgreSQL at {server.location} did not take the rows ({_reason(error, server.user)}); the files are "
                    "finished and its table is as before: mend that and run the command again"
                ) from None
        how = "written anew" if self.mode == "replace" else f"in place, {changed:,} of them new or changed"
        return f"{rows:,} rows {how} in {SCHEMA}.{TABLE} at {server.location}"


def _reason(error: psycopg2.Error, user: str) -> str:
    if isinstance(error, psycopg2.errors.DependentObjectsStillExist):
        return f"views stand on {SCHEMA}.{TABLE}; drop them, or choose --postgres upsert"
    if isinstance(error, psycopg2.errors.InsufficientPrivilege):
        return f"role {user!r} must be allowed to create schema {SCHEMA} and tables in it, and own {TABLE} there"
    # the lines after the first may hold values of a row
    return (str(error).splitlines() or ["no message"])[0].strip()


def _upload(connection: Connection, file: Path, mode: Mode) -> tuple[int, int]:
    """Rows of the file, and how many of them the table did not have; the caller commits."""
    with pyarrow.parquet.ParquetFile(file) as parquet, connection.cursor() as cursor:
        rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        # IF NOT EXISTS asks for the right to create also where there is nothing to create
        cursor.execute("SELECT to_regnamespace(%s) IS NULL", (SCHEMA,))
        if cursor.fetchone() == (True,):
            cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
        if mode == "replace":
            found = changed = _replace(cursor, parquet, schema)
        else:
            found, changed = _upsert(cursor, parquet, schema)
        if found != rows:
            raise PostgresFailed(
                f"{found:,} of {rows:,} rows arrived in {SCHEMA}.{TABLE}; nothing was changed, run again"
            )
    return rows, changed


def _replace(cursor: Cursor, parquet: pyarrow.parquet.ParquetFile, schema: pa.Schema) -> int:
    """Make the table anew beside the one that is read, and swap them; returns its rows."""
    table, staged = sql.Identifier(SCHEMA, TABLE), sql.Identifier(SCHEMA, _STAGED)
    cursor.execute("SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass(%s)", (f"{SCHEMA}.{TABLE}",))
    if cursor.fetchone() == (True,):
        raise PostgresFailed(
            f"{SCHEMA}.{TABLE} has row security, which a new table would show to everybody; the files are finished: choose "
            "--postgres upsert"
        )
    cursor.execute(sql.SQL("CREATE TABLE {} ({})").format(staged, _columns(schema)))
    _copy(cursor, staged, parquet, "FORMAT csv, FREEZE")
    # an index that is made at once takes a fraction of the time of one that grows
    cursor.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(staged, sql.Identifier(_KEY)))
    for statement in _grants(cursor):
        cursor.execute(statement)
    cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
    cursor.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(staged, sql.Identifier(TABLE)))
    cursor.execute(sql.SQL("ALTER INDEX {} RENAME TO {}").format(
        sql.Identifier(SCHEMA, f"{_STAGED}_pkey"), sql.Identifier(f"{TABLE}_pkey")))  # fmt: skip
    cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(table))
    return _number(cursor)


def _upsert(cursor: Cursor, parquet: pyarrow.parquet.ParquetFile, schema: pa.Schema) -> tuple[int, int]:
    """Insert the rows, or change those that are there; returns how many stand there as in the file, and were written."""
    table, staged = sql.Identifier(SCHEMA, TABLE), sql.Identifier(_STAGED)
    key = sql.Identifier(_KEY)
    cursor.execute(sql.SQL("CREATE TABLE IF NOT EXISTS {} ({}, PRIMARY KEY ({}))").format(table, _columns(schema), key))
    _check_columns(cursor, schema)
    cursor.execute(sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP").format(staged, _columns(schema)))
    _copy(cursor, staged, parquet, "FORMAT csv, FREEZE")
    names = [sql.Identifier(name) for name in schema.names]
    values = sql.SQL(", ").join(names)
    changes = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(name) for name in names[1:])
    same = sql.SQL(" AND ").join(sql.SQL("t.{0} = s.{0}").format(name) for name in names)
    # a row that stands there as it should is left alone: the conflict alone would lock it, which writes it
    cursor.execute(sql.SQL(
        "INSERT INTO {} ({values}) SELECT {values} FROM {} AS s WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {same}) "
        "ON CONFLICT ({key}) DO UPDATE SET {changes}"
    ).format(table, staged, table, values=values, same=same, key=key, changes=changes))  # fmt: skip
    changed = cursor.rowcount
    cursor.execute(sql.SQL("SELECT count(*) FROM {} AS t JOIN {} AS s ON {}").format(table, staged, same))
    return _number(cursor), changed


def _columns(schema: pa.Schema) -> sql.Composable:
    return sql.SQL(", ").join(
        sql.SQL("{} {} NOT NULL").format(sql.Identifier(one.name), sql.SQL(_TYPES[one.type])) for one in schema
    )


def _check_columns(cursor: Cursor, schema: pa.Schema) -> None:
    cursor.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        (f"{SCHEMA}.{TABLE}",),
    )
    there, wanted = dict(cursor.fetchall()), {one.name: _TYPES[one.type] for one in schema}
    other = sorted(name for name in there | wanted if there.get(name) != wanted.get(name))
    if other:
        raise PostgresFailed(
            f"{SCHEMA}.{TABLE} has other columns than the result ({', '.join(other)}); the files are finished: choose "
            "--postgres replace, or the features and algorithms that it was made with"
        )


def _grants(cursor: Cursor) -> list[str]:
    """Statements that give whoever may use the table the same rights to the one that takes its place."""
    cursor.execute(
        "SELECT format('GRANT %%s ON %%I.%%I TO %%s%%s', a.privilege_type, %s, %s, "
        "CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, "
        "CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) "
        "FROM pg_class AS c CROSS JOIN aclexplode(c.relacl) AS a "
        "WHERE c.oid = to_regclass(%s) AND a.grantee <> c.relowner",
        (SCHEMA, _STAGED, f"{SCHEMA}.{TABLE}"),
    )
    return [statement for (statement,) in cursor.fetchall()]


def _number(cursor: Cursor) -> int:
    row = cursor.fetchone()
    return int(row[0]) if row else 0


def _copy(cursor: Cursor, table: sql.Composable, parquet: pyarrow.parquet.ParquetFile, options: str) -> None:
    statement = sql.SQL("COPY {} FROM STDIN WITH ({})").format(table, sql.SQL(options))
    cursor.copy_expert(statement, _Pieces(_lines(parquet)))  # type: ignore[arg-type]  # it never calls readline


def _lines(parquet: pyarrow.parquet.ParquetFile) -> Iterator[bytes]:
    for rows in parquet.iter_batches(_BATCH_ROWS):
        yield pl.DataFrame(rows).write_csv(include_header=False).encode()


class _Pieces:
    """What COPY reads: a piece at each call, of whatever size."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, size: int = -1) -> bytes:
        return next(self._pieces, b"")
