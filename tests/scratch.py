"""An empty database of a test's own on the session's server, as the platform's role and as its superuser.

No test belongs here, and no row.
"""

import contextlib
import dataclasses
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg2
from psycopg2.extensions import connection as Connection

from iom_platform.settings import Settings
from iom_platform.storage.postgres_server import ensure_server

Connect = Callable[[], Connection]


class Scratch(NamedTuple):
    """What opens connections to the database: as `iom`, which owns it, as the superuser, and as a login of the test's."""

    connect: Connect
    superuser: Connect
    login: Callable[[str, str], Connect]


@contextlib.contextmanager
def empty_database(settings: Settings) -> Iterator[Scratch]:
    server, name = ensure_server(settings), f"scratch_{uuid.uuid4().hex[:8]}"
    password = (settings.home / "postgres" / "superuser_password").read_text()

    def login(user: str, password: str, database: str = name) -> Connect:
        return lambda: psycopg2.connect(dataclasses.replace(server, user=user, password=password).url(database))

    with contextlib.closing(login("postgres", password, "postgres")()) as admin, admin.cursor() as cursor:
        admin.autocommit = True
        cursor.execute(f"CREATE DATABASE {name} OWNER iom")
        try:
            yield Scratch(lambda: psycopg2.connect(server.url(name)), login("postgres", password), login)
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def ask(connect: Connect, *statements: str) -> list[tuple[Any, ...]]:
    """What the last statement returns; all are committed together."""
    with contextlib.closing(connect()) as conn, conn.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        found = cursor.fetchall() if cursor.description else []
        conn.commit()
        return list(found)
