"""The lock of the warehouse: one writer alone or readers together, by an advisory lock in PostgreSQL, whichever engine holds the rows.

What is read or written under it does not belong here.
"""

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE
from psycopg2.extensions import connection as Connection

from iom_platform.settings import Settings
from iom_platform.storage.postgres_server import Server, ensure_server
from iom_platform.storage.record import DATABASE

BUSY_EXIT_CODE = 75
"""Exit code of a command that waited in vain for the warehouse (EX_TEMPFAIL: try again later)."""

_log = logging.getLogger("iom")
_LOCK = (7000, 1)
DBT_SESSION = "iom dbt"
"""Name of dbt's sessions with PostgreSQL, as `profiles.yml` has it."""
_held: dict[tuple[int, Path], str] = {}  # (thread, file) -> purpose


class WarehouseError(RuntimeError):
    """The warehouse cannot be used; the message is one sentence with its remedy."""

    exit_code = 1


class NoWarehouse(WarehouseError):
    """Nothing has landed yet."""

    def __init__(self, location: str) -> None:
        super().__init__(f"there is no warehouse at {location} yet; fill it with `iom demo` or `iom run`")


class WarehouseBusy(WarehouseError):
    """Others held the warehouse for longer than warehouse.wait_seconds; a command exits with `exit_code`."""

    exit_code = BUSY_EXIT_CODE


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
            if exclusive and settings.engine == "postgres":
                _outlast_dbt(connection, purpose, deadline)
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
        connection = psycopg2.connect(server.url(DATABASE), application_name=name, async_=True)
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
        raise busy(purpose, holders)
    _log.warning("waiting up to %.0f s for the warehouse, which is held by %s", remaining, holders)
    _ask(
        connection, "SELECT set_config('lock_timeout', %s, false)", (f"{min(int(remaining * 1000) + 1, 2**31 - 1)}ms",)
    )
    try:
        # a queue in the server is fair: readers that come later cannot starve a waiting writer
        _ask(connection, f"SELECT pg_advisory_lock{suffix}(%s, %s)", _LOCK)
    except psycopg2.errors.LockNotAvailable:
        raise busy(purpose, _holders(connection)) from None


def _outlast_dbt(connection: Connection, purpose: str, deadline: float) -> None:
    """Wait until no dbt works in the database: one whose run was killed goes on for a while, and holds no lock of ours."""
    has_warned = False
    while pids := _ask(connection, "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s",
                       (DBT_SESSION,)):  # fmt: skip
        holder = f"dbt (session {pids[0][0]} of PostgreSQL)"
        if time.monotonic() >= deadline:
            raise busy(purpose, holder)
        if not has_warned:
            _log.warning("waiting for the warehouse, where %s still works", holder)
            has_warned = True
        time.sleep(0.2)


def busy(purpose: str, holders: str) -> WarehouseBusy:
    """What is raised where `holders` kept the warehouse until the deadline."""
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
