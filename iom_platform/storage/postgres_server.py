"""The PostgreSQL server that everything shares: the embedded one of the wheel, or the one that `postgres_url` names.

Schemas, tables and what is written into them do not belong here.
"""

import contextlib
import fcntl
import os
import secrets
import shlex
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import psycopg2
import psycopg2.errors
import psycopg2.extensions
from psycopg2 import sql

from iom_platform.settings import Settings
from iom_platform.storage.access import READER, ROLES
from iom_platform.storage.server_place import Place, ServerError, find_place, recorded_location, write_private

DATABASES = ("iom", "dagster", "mlflow")
OLDEST_VERSION = 15
_HOST = "127.0.0.1"
_START_SECONDS = 60
_LOG_BYTES = 16 * 2**20
_OPTIONS = {
    "listen_addresses": _HOST,
    "unix_socket_directories": "",
    "shared_buffers": "128MB",
    "max_connections": "100",
    # Dagster opens a connection for each event; stretching a random key of 256 bits adds time and no safety
    "scram_iterations": "1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # a failed statement, or the DETAIL of a broken key, could carry a student's id into the log
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


@dataclass(frozen=True)
class Server:
    """A server that accepts connections; `location` is the embedded one's folder, else its address."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    is_embedded: bool
    location: str
    options: str = field(default="", repr=False)  # query string of a `postgres_url`, such as sslmode=require

    def url(self, database: str) -> str:
        """The URL of one of its databases, password included: never to be logged."""
        login = quote(self.user, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        query = f"?{self.options}" if self.options else ""
        return f"postgresql://{login}@{host}:{self.port}/{quote(database, safe='')}{query}"

    def without_password(self) -> "Server":
        """Its URLs may be logged; libpq finds the password elsewhere."""
        return replace(self, password="")


def ensure_server(settings: Settings) -> Server:
    """The server, started if it is the embedded one and does not run; raises ServerError."""
    if settings.postgres_url is not None:
        return _ensure_external(settings.postgres_url)
    folder = settings.home.resolve() / "postgres"
    running = _attach(folder)
    if running is not None:
        return running
    with _start_lock(settings.home):
        running = _attach(folder)
        if running is not None:
            return running
        place = find_place(folder)
        if not (place.data / "PG_VERSION").exists():
            create_cluster(place, "postgres", _secret(folder / "superuser_password"))
        port = _port_in_use(place)
        if port is None:
            port = _start(place, folder)
        _set_up(folder, port)
        write_private(folder / "port", str(port))
        running = _attach(folder)
    if running is None:
        raise ServerError(f"the PostgreSQL server in {place.folder} started but refuses its own role; see {place.log}")
    return running


def find_server(settings: Settings) -> Server | None:
    """The server where it runs, else None; starts and creates nothing. Raises ServerError."""
    if settings.postgres_url is None:
        return _attach(settings.home.resolve() / "postgres")
    server, connection = open_external(settings.postgres_url)
    connection.close()
    return server


def stop_server(settings: Settings) -> bool:
    """Stop the embedded server, open sessions are rolled back; False where none runs or it is not ours to stop."""
    folder = settings.home.resolve() / "postgres"
    if settings.postgres_url is not None or not (recorded_location(folder) / "data").exists():
        return False
    with _start_lock(settings.home):
        place = find_place(folder)
        if _postmaster(place) is None:
            return False
        code, output = place.run("pg_ctl", "-m", "fast", "-w", "-t", "60", "-D", str(place.data), "stop")
        if code:
            raise ServerError(f"the PostgreSQL server in {place.folder} did not stop ({output}); see {place.log}")
    return True


def server_status(settings: Settings) -> dict[str, str]:
    """What `iom status` shows of the server; starts nothing."""
    if settings.postgres_url is not None:
        server = _parse_url(settings.postgres_url)[0]
        status = {"kind": "external", "location": server.location}
        try:
            open_external(settings.postgres_url)[1].close()
        except ServerError as error:
            return {**status, "state": "unusable", "problem": str(error)}
        return {**status, "state": "running"}
    folder = settings.home.resolve() / "postgres"
    location = recorded_location(folder)
    status = {"kind": "embedded", "location": str(location)}
    running = _attach(folder)
    if running is not None:
        return {**status, "state": "running", "address": f"{running.host}:{running.port}", "log": str(location / "log")}
    return {**status, "state": "stopped" if (location / "data").exists() else "not created yet"}


# -- the life of the embedded server -------------------------------------------------------------------


@contextlib.contextmanager
def _start_lock(home: Path) -> Iterator[None]:
    """One start or stop at a time per home; the kernel frees it with the process that holds it."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(home / "postgres.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _attach(folder: Path) -> Server | None:
    """The running server on the remembered port, if it knows our password and is set up."""
    try:
        port, password = int((folder / "port").read_text()), (folder / "password").read_text()
        location = str(recorded_location(folder))
    except (FileNotFoundError, ValueError):
        return None
    except PermissionError:
        raise ServerError(
            f"the PostgreSQL server in {folder} belongs to another account; run as that one or set IOM_HOME"
        ) from None
    try:
        # the database that is made last: where it is there, all of them are
        _connect_embedded(port, "iom", password, DATABASES[-1]).close()
    except psycopg2.OperationalError:
        return None
    return Server(_HOST, port, "iom", password, True, location)


def _connect_embedded(port: int, user: str, password: str, database: str) -> psycopg2.extensions.connection:
    # require_auth: whatever else may listen on a remembered port has to prove that it knows the password
    return psycopg2.connect(
        host=_HOST, port=port, user=user, password=password, dbname=database, connect_timeout=10,
        sslmode="disable", gssencmode="disable", require_auth="scram-sha-256",
    )  # fmt: skip


def _secret(path: Path) -> str:
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32))
    return path.read_text()


def create_cluster(place: Place, user: str, password: str, options: Sequence[str] = ()) -> None:
    """initdb beside the final folder, then rename: a killed initdb leaves nothing that looks like data."""
    for leftover in place.folder.glob("data.*.part"):
        shutil.rmtree(leftover, ignore_errors=True)
    part = place.folder / f"data.{secrets.token_hex(4)}.part"
    password_file = place.folder / f"{part.name}.password"
    write_private(password_file, password)
    if place.uid is not None:
        os.chown(password_file, place.uid, place.gid or -1)
    try:
        code, output = place.run(
            "initdb", "-D", str(part), "-U", user, "-A", "scram-sha-256", f"--pwfile={password_file}",
            "--locale=C.UTF-8", "-E", "UTF8", "--no-instructions", *options,
        )  # fmt: skip
    finally:
        password_file.unlink(missing_ok=True)
    if code:
        raise ServerError(
            f"initdb could not make a PostgreSQL cluster in {place.folder}: {output}; mend that, or set IOM_POSTGRES_URL"
        )
    part.rename(place.data)


def _processes_in(data: Path) -> set[int]:
    """Ids of the processes that work in `data`: the postmaster and its children, orphans too."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(entry / "cwd") == str(data):
                found.add(int(entry.name))
    return found


def _postmaster(place: Place) -> int | None:
    """Process id of the running postmaster; None where postmaster.pid is missing or stale."""
    try:
        pid = int((place.data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, 0)
    except (OSError, ValueError, IndexError):
        return None
    # after a crash the number may belong to an innocent process, or to a zombie that nobody reaps
    return pid if not Path("/proc/self").exists() or pid in _processes_in(place.data.resolve()) else None


def _port_in_use(place: Place) -> int | None:
    """The port of a server that already runs, waited for while it starts; None where none runs."""
    for _ in range(_START_SECONDS * 10):
        if _postmaster(place) is None:
            return None
        with contextlib.suppress(OSError):
            lines = (place.data / "postmaster.pid").read_text().splitlines()
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return int(lines[3])
        time.sleep(0.1)
    raise ServerError(f"the PostgreSQL server in {place.folder} does not get ready; see {place.log}")


def clear_crash(place: Place) -> None:
    """After a killed postmaster: wait for its children to leave, then drop a pid file that names a stranger."""
    if not Path("/proc/self").exists() or not (place.data / "postmaster.pid").exists():
        return
    for _ in range(_START_SECONDS * 10):
        if not _processes_in(place.data.resolve()):
            # PostgreSQL itself would take any live process of that number, under root any of root's, for its own
            (place.data / "postmaster.pid").unlink(missing_ok=True)
            return
        time.sleep(0.1)
    raise ServerError(f"processes of a killed PostgreSQL server still work in {place.data}; end them and try again")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError, OverflowError):
            probe.bind((_HOST, port))
            return True
    return False


def _pick_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _start(place: Place, folder: Path) -> int:
    """Start the server on the remembered port, or on another if it is taken; returns the port."""
    clear_crash(place)
    if place.log.exists() and place.log.stat().st_size > _LOG_BYTES:
        place.log.replace(place.log.with_name("log.1"))
    major = (place.data / "PG_VERSION").read_text().strip()
    remembered = 0
    with contextlib.suppress(OSError, ValueError):
        remembered = int((folder / "port").read_text())
    output = ""
    for attempt in range(5):
        port = remembered if attempt == 0 and remembered and _is_free(remembered) else _pick_port()
        options = shlex.join(
            ["-p", str(port), *(part for name, value in _OPTIONS.items() for part in ("-c", f"{name}={value}"))]
        )
        before = place.log.stat().st_size if place.log.exists() else 0
        code, output = place.run(
            "pg_ctl",
            "-w",
            "-t",
            str(_START_SECONDS),
            "-D",
            str(place.data),
            "-l",
            str(place.log),
            "-o",
            options,
            "start",
        )
        if code == 0:
            return port
        with contextlib.suppress(OSError), place.log.open(errors="replace") as log:
            log.seek(before)
            output = log.read()
        # somebody may take the port between our look and the server's
        if "could not bind" not in output:
            break
    last = next((line for line in reversed(output.splitlines()) if "FATAL" in line), output[-200:]).strip()
    raise ServerError(f"PostgreSQL {major} did not start in {place.folder} ({last}); see {place.log}")


def _set_up(folder: Path, port: int) -> None:
    """Roles and databases, as superuser; repeated at each start, and it never grants again what was revoked."""
    if not (folder / "superuser_password").exists():
        raise ServerError(f"{folder / 'superuser_password'} is missing; restore it, or set IOM_POSTGRES_URL")
    try:
        connection = _connect_embedded(port, "postgres", (folder / "superuser_password").read_text(), "postgres")
    except psycopg2.OperationalError as error:
        raise ServerError(
            f"the PostgreSQL server of {folder} refuses its superuser: {' '.join(str(error).split())}"
        ) from None
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT rolname FROM pg_roles")
        roles = {row[0] for row in cursor.fetchall()}
        if "iom" not in roles:
            cursor.execute("CREATE ROLE iom LOGIN NOSUPERUSER CREATEDB NOCREATEROLE")
        cursor.execute("ALTER ROLE iom PASSWORD %s", (_secret(folder / "password"),))
        for role in sorted(set(ROLES) - roles):
            cursor.execute(f"CREATE ROLE {role} NOLOGIN")
        if READER not in roles:
            cursor.execute(f"GRANT {READER} TO iom WITH INHERIT FALSE, SET TRUE")
        connection.commit()
        connection.autocommit = True
        _create_databases(cursor, "iom")


def _create_databases(cursor: psycopg2.extensions.cursor, owner: str) -> None:
    cursor.execute("SELECT datname FROM pg_database")
    present = {row[0] for row in cursor.fetchall()}
    for name in DATABASES:
        if name in present:
            continue
        statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(owner))
        # two first commands against one external server may both see it missing
        with contextlib.suppress(psycopg2.errors.DuplicateDatabase, psycopg2.errors.UniqueViolation):
            cursor.execute(statement)


# -- a server of the user's ----------------------------------------------------------------------------


def _parse_url(url: str) -> tuple[Server, str]:
    """The server and the database that a `postgres_url` names."""
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError:
        raise ServerError("postgres_url cannot be read; write postgresql://user:password@host:5432/database") from None
    if parts.scheme not in ("postgresql", "postgres") or not parts.username:
        raise ServerError("postgres_url names no PostgreSQL user; write postgresql://user:password@host:5432/database")
    host = unquote(parts.hostname or "localhost")
    pairs = parse_qsl(parts.query)
    # libpq takes a password among the options too; it must not stay there, where `url` would show it
    user, password = unquote(parts.username), dict(pairs).get("password", unquote(parts.password or ""))
    options = urlencode([(name, value) for name, value in pairs if name != "password"], quote_via=quote)
    server = Server(host, port, user, password, False, f"{host}:{port}", options)
    return server, unquote(parts.path.lstrip("/")) or "postgres"


def open_external(url: str) -> tuple[Server, psycopg2.extensions.connection]:
    """The server and a connection to the database that the URL names; refuses an old version."""
    server, database = _parse_url(url)
    try:
        connection = psycopg2.connect(server.url(database), connect_timeout=10)
    except (psycopg2.Error, UnicodeError) as error:
        reason = " ".join(str(error).split())
        for secret in {server.password, quote(server.password, safe=""), server.options} - {""}:
            reason = reason.replace(secret, "***")
        raise ServerError(
            f"the PostgreSQL server of postgres_url does not let us in: {reason}; mend IOM_POSTGRES_URL"
        ) from None
    if connection.server_version < OLDEST_VERSION * 10000:
        connection.close()
        found = connection.server_version // 10000
        raise ServerError(f"the server at {server.location} is PostgreSQL {found}; {OLDEST_VERSION} or newer is needed")
    return server, connection


def _ensure_external(url: str) -> Server:
    """Create the databases that are missing and permitted."""
    server, connection = open_external(url)
    with contextlib.closing(connection):
        connection.autocommit = True
        with connection.cursor() as cursor:
            try:
                _create_databases(cursor, server.user)
            except psycopg2.errors.InsufficientPrivilege:
                names = ", ".join(DATABASES)
                raise ServerError(
                    f"role {server.user!r} may not create the databases that are missing at {server.location}; "
                    f"have an administrator create {names}, owned by it"
                ) from None
    return server
