"""A backup of the platform as one folder of one moment, and the platform made again from it.

The pseudonym key is not in it: whoever holds both can tell students by name. When to make one, and where it is kept, does not
belong here.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql

from iom_platform.settings import Settings, environment_without_secrets
from iom_platform.storage import record
from iom_platform.storage.access import READER
from iom_platform.storage.postgres_server import DATABASES, Server, ensure_server
from iom_platform.storage.server_place import find_installation
from iom_platform.storage.session import Session
from iom_platform.storage.warehouse import has_warehouse, hash_table, open_warehouse
from iom_platform.tables import TABLES

MANIFEST = "manifest.json"
_FORMAT = 1
_WAREHOUSE = "warehouse.duckdb"
_FOLDERS = ("mlflow", "reports")  # of the home: what MLflow's database and the report's asset speak of
_UNFINISHED = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
_CHUNK = 1 << 20


class BackupRefused(RuntimeError):
    """Nothing was written or replaced; the message is one sentence with its remedy."""

    exit_code = 1


@dataclass(frozen=True)
class Dump:
    """One file of pg_dump. The identity map is read and made by its own role alone, so it is a file of its own."""

    file: str
    database: str
    dumping: tuple[str, ...] = ()
    restoring: tuple[str, ...] = ("--no-owner",)


_DUMPS = (
    Dump("iom.dump", "iom", ("--exclude-schema=identity", "--enable-row-security")),
    Dump("identity.dump", "iom", ("--schema=identity", f"--role={READER}"),
         ("--no-owner", "--schema=identity", f"--role={READER}")),
    Dump("dagster.dump", "dagster"),
    Dump("mlflow.dump", "mlflow"),
)  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """What a backup holds: sha256 of each file, rows' hash of each table, and what it can be restored to."""

    format: int
    made_at: str
    engine: str
    key: str
    files: dict[str, str]
    tables: dict[str, str]


def fingerprint(key: bytes) -> str:
    """Tells one pseudonym key from another, and nothing of either."""
    return hashlib.blake2b(key, digest_size=8, person=b"iom backup").hexdigest()


def hash_tables(settings: Settings, con: Session) -> dict[str, str]:
    """The table hash of every table that is there."""
    found = {t.path: hash_table(con, t) for t in TABLES if t.home == "warehouse" and con.columns_of(t)}
    with record.open_record(settings) as connection:
        found |= {t.path: record.hash_table(connection, t) for t in record.record_tables()}
    return found


# -- backup --------------------------------------------------------------------------------------------


def write_backup(settings: Settings, out: Path, *, key: bytes, made_at: datetime) -> Manifest:
    """Write the backup to `out`, a folder that is not there yet; whole or not at all. Raises BackupRefused.

    It holds the warehouse for as long as it takes, so no run begins meanwhile; one that is under way is refused.
    """
    if os.path.lexists(out):
        raise BackupRefused(f"{out} is there already; name a folder that is not")
    if not has_warehouse(settings):
        raise BackupRefused("nothing has landed yet, so there is nothing to back up")
    server = ensure_server(settings)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700)
    try:
        with open_warehouse(settings, purpose="iom backup", write=True) as con:
            _refuse_during_a_run(server)
            _copy_files(settings, con, part)
            for dump in _DUMPS:
                _run(server, "pg_dump", dump.database, "--format=custom", f"--file={part / dump.file}", *dump.dumping)
            tables = hash_tables(settings, con)
        manifest = Manifest(_FORMAT, made_at.isoformat(), settings.engine, fingerprint(key), _hash_files(part), tables)
        (part / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1, sort_keys=True))
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def _copy_files(settings: Settings, con: Session, part: Path) -> None:
    if settings.engine == "duckdb":
        con.execute("CHECKPOINT")  # what is in the log beside the file goes into it
        shutil.copyfile(settings.warehouse_path, part / _WAREHOUSE)
    for name in _FOLDERS:
        if (settings.home / name).is_dir():
            shutil.copytree(settings.home / name, part / name)


def _refuse_during_a_run(server: Server) -> None:
    """The steps of a run that need no warehouse would go on; what they write belongs to one moment with what they read."""
    with _connect(server, "dagster") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('runs') IS NOT NULL")
        if cursor.fetchone() == (False,):
            return
        cursor.execute("SELECT count(*) FROM runs WHERE status = ANY(%s)", (list(_UNFINISHED),))
        [count] = cursor.fetchone() or (0,)
    if count:
        raise BackupRefused(
            f"{count} runs of Dagster are queued or under way; wait until they have ended, or cancel them"
        )


def _connect(server: Server, database: str) -> "contextlib.closing[psycopg2.extensions.connection]":
    return contextlib.closing(psycopg2.connect(server.url(database), connect_timeout=10))


def _hash_files(folder: Path) -> dict[str, str]:
    """sha256 of each file below the folder, by its path there."""
    return {str(path.relative_to(folder)): _hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _run(server: Server, program: str, database: str, *arguments: str) -> None:
    """One of PostgreSQL's programs on a database of the server, its password in the environment of that process alone."""
    done = subprocess.run(
        [str(find_installation() / "bin" / program), f"--dbname={server.without_password().url(database)}", *arguments],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        env=environment_without_secrets(PGPASSWORD=server.password),
    )  # fmt: skip
    if done.returncode:
        # a line with DETAIL or CONTEXT may quote a row
        said = next((line for line in done.stderr.splitlines() if "error:" in line), "no message")
        raise BackupRefused(f"{program} could not finish on database {database}: {said}")


# -- restore -------------------------------------------------------------------------------------------


def restore_backup(settings: Settings, folder: Path, *, key: bytes, replace: bool) -> Manifest:
    """Make the platform again from a backup; the databases and folders of before stand until all is there.

    replace: although the home holds rows. Raises BackupRefused.
    """
    manifest = _read_manifest(folder)
    _refuse_what_does_not_fit(settings, folder, manifest, key)
    server = ensure_server(settings)
    if not replace and _holds_rows(settings, server):
        raise BackupRefused(
            "this home holds rows already; name an empty one in IOM_HOME, or say --replace to lose them"
        )
    _refuse_while_served(server)
    with _connect(server, "postgres") as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for database in DATABASES:
                _statement(cursor, "DROP DATABASE IF EXISTS {}", f"{database}_restored")
                _statement(cursor, "CREATE DATABASE {}", f"{database}_restored")
            _prepare_identity(server)
            for dump in _DUMPS:
                _run(
                    server,
                    "pg_restore",
                    f"{dump.database}_restored",
                    "--exit-on-error",
                    *dump.restoring,
                    str(folder / dump.file),
                )
            for database in DATABASES:
                _statement(cursor, "DROP DATABASE {}", database)
                _statement(cursor, "ALTER DATABASE {} RENAME TO {}", f"{database}_restored", database)
    _put_files(settings, folder)
    _compare(settings, manifest)
    return manifest


def _read_manifest(folder: Path) -> Manifest:
    try:
        found: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        manifest = Manifest(**found)
    except FileNotFoundError:
        raise BackupRefused(
            f"{folder} holds no {MANIFEST}, so it is no backup that was finished; name another"
        ) from None
    except (ValueError, TypeError):
        raise BackupRefused(
            f"{folder / MANIFEST} cannot be understood; name a backup that `iom backup` wrote"
        ) from None
    if manifest.format != _FORMAT:
        raise BackupRefused(
            f"{folder} is a backup of format {manifest.format}, and this version reads {_FORMAT}; install the one that wrote it"
        )
    return manifest


def _refuse_what_does_not_fit(settings: Settings, folder: Path, manifest: Manifest, key: bytes) -> None:
    if manifest.engine != settings.engine:
        raise BackupRefused(
            f"the backup is of engine {manifest.engine}, and this home asks for {settings.engine}; set IOM_ENGINE={manifest.engine}"
        )
    if manifest.key != fingerprint(key):
        raise BackupRefused(
            f"the pseudonym key of this home is not the backup's, so its students would get other pseudonyms; put the right one at {settings.key_path}"
        )
    present = _hash_files(folder)
    for name, digest in manifest.files.items():
        if present.get(name) != digest:
            raise BackupRefused(
                f"{folder / name} is {'damaged' if name in present else 'missing'}; take another backup"
            )


def _holds_rows(settings: Settings, server: Server) -> bool:
    if has_warehouse(settings):
        return True
    with _connect(server, record.DATABASE) as connection:
        return any((record.count_rows(connection, table) or (0, None))[0] for table in record.record_tables())


def _refuse_while_served(server: Server) -> None:
    with _connect(server, "postgres") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = ANY(%s)", (list(DATABASES),))
        [count] = cursor.fetchone() or (0,)
    if count:
        raise BackupRefused(
            f"{count} sessions are open in {', '.join(DATABASES)}; stop the services (`iom down`) and whoever else reads there"
        )


def _statement(cursor: Any, text: str, *names: str) -> None:
    cursor.execute(sql.SQL(text).format(*(sql.Identifier(name) for name in names)))


def _prepare_identity(server: Server) -> None:
    """The schema that the identity map is restored to, by its role, which may make none itself."""
    with (
        _connect(server, f"{record.DATABASE}_restored") as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(f"CREATE SCHEMA identity AUTHORIZATION {READER}")
        cursor.execute(f"SET LOCAL ROLE {READER}")
        cursor.execute("GRANT USAGE ON SCHEMA identity TO SESSION_USER")


def _put_files(settings: Settings, folder: Path) -> None:
    """The warehouse and the folders of the home, each swapped in whole."""
    if settings.engine == "duckdb":
        part = settings.warehouse_path.with_suffix(".restored")
        shutil.copyfile(folder / _WAREHOUSE, part)
        part.chmod(0o600)
        settings.warehouse_path.with_suffix(".duckdb.wal").unlink(missing_ok=True)
        part.replace(settings.warehouse_path)
    for name in _FOLDERS:
        place, part = settings.home / name, settings.home / f"{name}.restored"
        shutil.rmtree(part, ignore_errors=True)
        if (folder / name).is_dir():
            shutil.copytree(folder / name, part)
            shutil.rmtree(place, ignore_errors=True)
            part.rename(place)


def _compare(settings: Settings, manifest: Manifest) -> None:
    with open_warehouse(settings, purpose="iom restore", write=False) as con:
        found = hash_tables(settings, con)
    other = sorted(path for path, digest in manifest.tables.items() if found.get(path) != digest)
    if other:
        raise BackupRefused(
            f"restored, but {', '.join(other)} are not as in the backup; restore it again, or another one"
        )
