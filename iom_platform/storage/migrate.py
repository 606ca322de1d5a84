"""The record's schema by revision: which one a record is at, and the way to another one, forward or back.

What a revision changes does not belong here; it stands in its file under `migrations/versions`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from iom_platform.storage.access import grant_rights, is_granted, make_roles

SCHEMA, TABLE = "migrations", "record"  # where the revision is kept
BASE = "base"  # before the first revision
_FOLDER = Path(__file__).with_name("migrations")
_LOCK = 7001


class MigrationError(RuntimeError):
    """The record stays as it was; the message is one sentence with its remedy."""

    exit_code = 1


def list_revisions() -> tuple[str, ...]:
    """Every revision that this version of the platform knows, oldest first."""
    return tuple(sorted(path.name.partition("_")[0] for path in _FOLDER.glob("versions/[0-9]*.py")))


def describe_revisions() -> Iterator[tuple[str, str]]:
    """(revision, what it brings) of all, oldest first."""
    for path in sorted(_FOLDER.glob("versions/[0-9]*.py")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        yield path.name.partition("_")[0], first.strip('"')


def is_migrated(conn: Connection) -> bool:
    """Whether the record is at the newest revision and its rights are granted; asks for no lock."""
    with conn.cursor() as cursor:
        return read_revision(cursor) == list_revisions()[-1] and is_granted(cursor)


def read_revision(cursor: Any) -> str:
    """The revision of a record, `base` where it has none. Raises MigrationError where only a later version knows it."""
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{SCHEMA}.{TABLE}",))
    if not cursor.fetchone()[0]:
        return BASE
    cursor.execute(f"SELECT version_num FROM {SCHEMA}.{TABLE}")
    (found,) = cursor.fetchone() or (BASE,)
    if found not in (BASE, *list_revisions()):
        newest = list_revisions()[-1]
        raise MigrationError(
            f"the record is at revision {found}, which this version of the platform does not know; use the version that took "
            f"it there, or let that one take it back with `iom migrate --to {newest}`"
        )
    return str(found)


def migrate(connect: Callable[[], Connection], to: str | None = None) -> tuple[str, str]:
    """Take the record to a revision, by default the newest, whole or not at all; returns (from, to).

    connect: opens a connection to the record. Of two at once one waits for the other. Raises MigrationError.
    """
    import sqlalchemy as sa
    from alembic import command
    from alembic.config import Config

    order = (BASE, *list_revisions())
    target = to or order[-1]
    if target not in order:
        raise MigrationError(f"there is no revision {target!r}; `iom migrate --show` lists them")
    engine = sa.create_engine("postgresql+psycopg2://", creator=connect, poolclass=sa.NullPool)
    with engine.begin() as connection:
        cursor = connection.connection.cursor()
        # CREATE SCHEMA IF NOT EXISTS of two commands at once would collide in the catalog
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        before = read_revision(cursor)
        make_roles(cursor)
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
        go = command.upgrade if order.index(target) >= order.index(before) else command.downgrade
        try:
            go(config, target)
        except sa.exc.DBAPIError as error:
            # the lines after the first may hold values of a row
            said = str(error.orig).partition("\n")[0].strip()
            raise MigrationError(
                f"the record cannot go from revision {before} to {target}, and stays as it was ({said}); mend that, and run "
                "`iom migrate`"
            ) from None
        grant_rights(cursor)
    return before, target


def refuse_to_lose(table: str) -> None:
    """For the way back of a revision: raises MigrationError where a table that it would drop has rows."""
    from alembic import op

    if op.get_bind().exec_driver_sql(f"SELECT EXISTS (SELECT FROM {table})").scalar():
        raise MigrationError(
            f"going back would lose the rows of {table}, and nothing was changed; keep them elsewhere and delete them first"
        )
