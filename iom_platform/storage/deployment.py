"""Whose a server is: the deployment and the home that write to its record; every other is refused.

A copy of the configuration names the same server and the same deployment, but has another home. What is written, and by
which command, does not belong here. The embedded server lies in its home, so there is nothing to ask.
"""

import getpass
import secrets
from typing import Any

from iom_platform.settings import Settings
from iom_platform.storage.postgres_server import ensure_server
from iom_platform.storage.record import open_record
from iom_platform.storage.server_place import write_private

_LOCK = 7002
_DDL = """CREATE SCHEMA IF NOT EXISTS platform;
CREATE TABLE IF NOT EXISTS platform.deployments (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owned_at timestamptz NOT NULL DEFAULT now(), name text NOT NULL,
    home_id text NOT NULL, account text NOT NULL, reason text NOT NULL CHECK (btrim(reason) <> ''))"""

Owner = tuple[str, str, str]


class NotOurs(RuntimeError):
    """The record belongs to another deployment or home; the message is one sentence with its remedy."""

    exit_code = 6


def own_record(settings: Settings) -> None:
    """Raise NotOurs where the server of `postgres_url` belongs to another; who comes first owns it from then on."""
    if settings.postgres_url is None:
        return
    with open_record(settings) as connection, connection.cursor() as cursor:
        owner = _read_owner(cursor)
        if owner is None:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            owner = _read_owner(cursor) or _write_owner(cursor, settings, "the first to come")
    name, home_id, owned_on = owner
    if (name, home_id) != (settings.deployment, _home_id(settings)):
        other = "another home" if name == settings.deployment else f"{settings.deployment!r}"
        raise NotOurs(
            f"the record at {ensure_server(settings).location} belongs to the deployment {name!r} since {owned_on}, and this is {other}, "
            "so nothing is done; unset IOM_POSTGRES_URL, or let this home take its place with `iom adopt --reason TEXT`"
        )


def adopt_record(settings: Settings, *, reason: str) -> None:
    """Let this deployment and home own the record from now on; the former owner is refused then. All owners are kept."""
    with open_record(settings) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        _write_owner(cursor, settings, reason)


def _read_owner(cursor: Any) -> Owner | None:
    cursor.execute("SELECT to_regclass('platform.deployments') IS NOT NULL")
    if not cursor.fetchone()[0]:
        return None
    cursor.execute("SELECT name, home_id, owned_at::date::text FROM platform.deployments ORDER BY number DESC LIMIT 1")
    found: Owner | None = cursor.fetchone()
    return found


def _write_owner(cursor: Any, settings: Settings, reason: str) -> Owner:
    """The caller holds the lock, so that two first commands of one home agree on its id."""
    if _home_id(settings) is None:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(settings.home / "home.id", secrets.token_hex(16))
    cursor.execute(_DDL)
    cursor.execute(
        "INSERT INTO platform.deployments (name, home_id, account, reason) VALUES (%s, %s, %s, %s) "
        "RETURNING name, home_id, owned_at::date::text",
        (settings.deployment, _home_id(settings), getpass.getuser(), reason),
    )
    owner: Owner = cursor.fetchone()
    return owner


def _home_id(settings: Settings) -> str | None:
    path = settings.home / "home.id"
    return path.read_text() if path.exists() else None
