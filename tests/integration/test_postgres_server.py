"""The embedded PostgreSQL server on a real cluster: starts, shares, survives, refuses; and a server of the user's."""

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest

from iom_platform.settings import Settings
from iom_platform.storage import postgres_server, server_place
from iom_platform.storage.postgres_server import Server, ServerError, ensure_server, server_status, stop_server

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused by PostgreSQL")
ENSURE = """
import sys
from pathlib import Path
from iom_platform.settings import Settings
from iom_platform.storage.postgres_server import ensure_server
print(ensure_server(Settings(home=Path(sys.argv[1]))).port, flush=True)
"""


def _python(code: str, home: Path, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True, **options)


def _ask(server: Server, query: str, database: str = "iom", url: str | None = None) -> list[tuple[Any, ...]]:
    with contextlib.closing(psycopg2.connect(url or server.url(database))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall()) if cursor.description else []


def _superuser_url(home: Path, server: Server, database: str = "postgres") -> str:
    password = (home / "postgres" / "superuser_password").read_text()
    return f"postgresql://postgres:{password}@127.0.0.1:{server.port}/{database}"


def _postmaster(settings: Settings) -> int:
    location = Path(server_status(settings)["location"])
    return int((location / "data" / "postmaster.pid").read_text().splitlines()[0])


def test_first_start_makes_roles_and_databases(settings: Settings) -> None:
    server = ensure_server(settings)
    assert server.is_embedded
    owners = "SELECT datname, pg_get_userbyid(datdba), pg_encoding_to_char(encoding) FROM pg_database WHERE NOT datistemplate"
    found = {row[0]: row[1:] for row in _ask(server, owners)}
    assert {name: found[name] for name in ("iom", "dagster", "mlflow")} == dict.fromkeys(
        ("iom", "dagster", "mlflow"), ("iom", "UTF8")
    )
    role = "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = session_user"
    assert _ask(server, role) == [(False, True, False)]
    member = "SELECT inherit_option, set_option, admin_option FROM pg_auth_members WHERE roleid = 'identity_reader'::regrole AND member = 'iom'::regrole"
    assert _ask(server, member) == [(False, True, False)]
    admin = _superuser_url(settings.home, server)
    assert _ask(server, "SHOW unix_socket_directories", url=admin) == [("",)]
    assert _ask(server, "SHOW listen_addresses", url=admin) == [("127.0.0.1",)]


def test_passwords_stay_private(settings: Settings) -> None:
    server = ensure_server(settings)
    folder = settings.home / "postgres"
    for name in ("password", "superuser_password"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len({(folder / name).read_text() for name in ("password", "superuser_password")}) == 2
    assert len(server.password) >= 32
    shown = f"{server!r} {server} {server_status(settings)}"
    assert server.password not in shown
    assert not list(folder.glob("*.part*"))


@pytest.mark.parametrize("user", ["iom", "postgres", "identity_reader"])
@pytest.mark.parametrize("password", ["", "postgres", "iom"])
def test_a_wrong_or_no_password_is_refused(settings: Settings, user: str, password: str) -> None:
    server = ensure_server(settings)
    with pytest.raises(psycopg2.OperationalError, match=r"password|authentication"):
        psycopg2.connect(host=server.host, port=server.port, user=user, password=password, dbname="iom")


def test_no_rule_lets_anybody_in_without_scram(settings: Settings) -> None:
    server = ensure_server(settings)
    rules = _ask(
        server, "SELECT DISTINCT auth_method FROM pg_hba_file_rules", url=_superuser_url(settings.home, server)
    )
    assert rules == [("scram-sha-256",)]


def test_the_log_holds_no_row_of_a_failed_statement(settings: Settings) -> None:
    server = ensure_server(settings)
    with pytest.raises(psycopg2.errors.UniqueViolation):
        _ask(
            server, "CREATE TEMP TABLE t (a text PRIMARY KEY); INSERT INTO t VALUES ('student-4711'), ('student-4711')"
        )
    log = Path(server_status(settings)["log"]).read_text()
    assert "duplicate key" in log
    assert "student-4711" not in log


def test_commands_at_once_share_one_server(fresh_settings: Settings) -> None:
    commands = [_python(ENSURE, fresh_settings.home) for _ in range(3)]
    ports = {command.communicate()[0].strip() for command in commands}
    assert [command.returncode for command in commands] == [0, 0, 0]
    assert ports == {str(ensure_server(fresh_settings).port)}
    log = Path(server_status(fresh_settings)["log"]).read_text()
    assert log.count("starting PostgreSQL") == 1


def test_a_server_survives_the_kill_of_its_starter(stopped_settings: Settings) -> None:
    starter = _python(ENSURE + "sys.stdin.read()", stopped_settings.home, stdin=subprocess.PIPE, start_new_session=True)
    assert starter.stdout is not None
    port = int(starter.stdout.readline())
    postmaster = _postmaster(stopped_settings)
    os.killpg(starter.pid, signal.SIGKILL)
    starter.communicate()
    assert ensure_server(stopped_settings).port == port
    assert _postmaster(stopped_settings) == postmaster


def test_a_start_that_was_killed_in_any_phase_is_completed(fresh_settings: Settings) -> None:
    folder = fresh_settings.home / "postgres"
    (folder / "data.0badcafe.part").mkdir(parents=True)
    (folder / "data.0badcafe.part" / "PG_VERSION").write_text("18\n")
    (folder / "port").write_text("")
    folder.chmod(0o700)
    server = ensure_server(fresh_settings)
    assert not list(folder.glob("*.part*"))
    # killed after the start, before the set-up was whole
    _ask(server, "DROP DATABASE mlflow", database="postgres")
    (folder / "port").unlink()
    assert ensure_server(fresh_settings).port == server.port
    assert _ask(server, "SELECT 1", database="mlflow") == [(1,)]


def test_data_survive_the_kill_of_the_postmaster(stopped_settings: Settings) -> None:
    server = ensure_server(stopped_settings)
    _ask(server, "CREATE TABLE kept AS SELECT 42 AS a")
    with contextlib.closing(psycopg2.connect(server.url("iom"))):
        killed = _postmaster(stopped_settings)
        os.kill(killed, signal.SIGKILL)
        again = ensure_server(stopped_settings)
    assert _ask(again, "SELECT a FROM kept") == [(42,)]
    assert _postmaster(stopped_settings) != killed


def test_a_stale_pid_file_that_names_a_stranger_is_no_obstacle(stopped_settings: Settings) -> None:
    """After a restart of the machine the old number may be anybody's: here it is this test's parent."""
    server = ensure_server(stopped_settings)
    pid_file = stopped_settings.home / "postgres" / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    assert stop_server(stopped_settings)
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
            assert server_status(stopped_settings)["state"] == "stopped"
            assert not stop_server(stopped_settings)
            assert _ask(ensure_server(stopped_settings), "SELECT 1") == [(1,)]
            assert stranger.poll() is None
        finally:
            stranger.kill()
    assert server.is_embedded


def test_the_port_is_remembered_and_another_is_chosen_when_it_is_taken(stopped_settings: Settings) -> None:
    first = ensure_server(stopped_settings)
    assert stop_server(stopped_settings)
    assert ensure_server(stopped_settings).port == first.port
    assert stop_server(stopped_settings)
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", first.port))
        squatter.listen()
        other = ensure_server(stopped_settings)
    assert other.port != first.port
    assert _ask(other, "SELECT 1") == [(1,)]


def test_stop_is_clean_and_ends_open_sessions(fresh_settings: Settings) -> None:
    assert server_status(fresh_settings)["state"] == "not created yet"
    assert not stop_server(fresh_settings)
    server = ensure_server(fresh_settings)
    assert server_status(fresh_settings)["state"] == "running"
    with contextlib.closing(psycopg2.connect(server.url("iom"))):
        assert stop_server(fresh_settings)
    assert not stop_server(fresh_settings)
    assert server_status(fresh_settings)["state"] == "stopped"
    ensure_server(fresh_settings)
    log = Path(server_status(fresh_settings)["log"]).read_text()
    assert "database system is shut down" in log
    assert "not properly shut down" not in log


def test_a_restart_does_not_grant_again_what_was_revoked(stopped_settings: Settings) -> None:
    server = ensure_server(stopped_settings)
    _ask(server, "REVOKE identity_reader FROM iom", url=_superuser_url(stopped_settings.home, server))
    assert stop_server(stopped_settings)
    members = (
        "SELECT count(*) FROM pg_auth_members WHERE roleid = 'identity_reader'::regrole AND member = 'iom'::regrole"
    )
    assert _ask(ensure_server(stopped_settings), members) == [(0,)]


def test_a_server_that_does_not_start_says_why(stopped_settings: Settings) -> None:
    (stopped_settings.home / "postgres" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(ServerError, match=r"PostgreSQL 9 did not start .*FATAL.*see .*log"):
        ensure_server(stopped_settings)


# -- as root -------------------------------------------------------------------------------------------


@as_root
def test_as_root_it_works_under_a_folder_that_others_cannot_enter(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    settings = Settings(home=closed / "home")
    try:
        server = ensure_server(settings)
        assert server.location == str(settings.home / "postgres")
        assert {stat.S_IMODE(path.stat().st_mode) for path in (closed, settings.home, Path(server.location))} == {0o700}
        assert (Path(server.location) / "data").stat().st_uid == 0
        stopping = ENSURE.replace("ensure_server", "stop_server").replace(").port", ")")
        assert _python(stopping, settings.home).communicate()[0].strip() == "True"
        assert server_status(settings)["state"] == "stopped"
        assert _python(ENSURE, settings.home).communicate()[0].strip() == str(server.port)
        assert _ask(server, "SELECT 1") == [(1,)]
    finally:
        stop_server(settings)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A kernel that refuses user namespaces, and the parent of the private folder."""
    parent = Path(tempfile.mkdtemp())
    parent.chmod(0o711)
    monkeypatch.setattr(server_place, "_can_map_user", lambda *_: False)
    monkeypatch.setattr(server_place, "_PRIVATE_PARENTS", (parent,))
    yield parent
    shutil.rmtree(parent)


@as_root
def test_where_namespaces_are_refused_the_data_live_in_a_private_folder(
    refused: Path, fresh_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        server = ensure_server(fresh_settings)
        location = Path(server.location)
        assert location.parent == refused
        assert server_status(fresh_settings)["location"] == str(location)
        assert stat.S_IMODE(location.stat().st_mode) == 0o700
        assert location.stat().st_uid != 0
        assert os.stat(f"/proc/{_postmaster(fresh_settings)}").st_uid == location.stat().st_uid
        assert not list(location.glob("*password*"))
        os.kill(_postmaster(fresh_settings), signal.SIGKILL)
        # another command, which does not know of the refusal, finds the same server
        assert _python(ENSURE, fresh_settings.home).communicate()[0].strip() == str(server.port)
        assert _ask(server, "SELECT 1") == [(1,)]
    finally:
        stop_server(fresh_settings)
    assert server_status(fresh_settings)["state"] == "stopped"


@as_root
def test_programs_out_of_reach_are_copied_to_the_private_folder(
    refused: Path, fresh_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = server_place.find_installation()
    closed = tmp_path / "site-packages"
    closed.mkdir(mode=0o700)
    shutil.copytree(real, closed / real.parent.name / real.name, ignore=shutil.ignore_patterns("include"))
    shutil.copytree(f"{real.parent}.libs", closed / f"{real.parent.name}.libs")
    monkeypatch.setattr(server_place, "find_installation", lambda: closed / real.parent.name / real.name)
    try:
        assert _ask(ensure_server(fresh_settings), "SELECT 1") == [(1,)]
        assert stop_server(fresh_settings)
        assert _ask(ensure_server(fresh_settings), "SELECT 1") == [(1,)]
    finally:
        stop_server(fresh_settings)


@as_root
def test_a_private_folder_that_is_gone_is_said_and_not_made_anew(refused: Path, fresh_settings: Settings) -> None:
    location = Path(ensure_server(fresh_settings).location)
    stop_server(fresh_settings)
    shutil.rmtree(location)
    with pytest.raises(ServerError, match="which is gone; restore it"):
        ensure_server(fresh_settings)


# -- a server of the user's ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def users_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server that the platform did not set up, and its administrator's URL."""
    own = Settings(home=tmp_path_factory.mktemp("users"))
    server = ensure_server(own)
    admin = _superuser_url(own.home, server)
    for name in ("iom", "dagster", "mlflow"):
        _ask(server, f"DROP DATABASE {name}", url=admin)
    _ask(server, "CREATE DATABASE campus", url=admin)
    _ask(
        server,
        "CREATE ROLE maker LOGIN CREATEDB PASSWORD 'p@ss/w:rd'; CREATE ROLE guest LOGIN PASSWORD 'guest-pw'",
        url=admin,
    )
    yield server, admin
    stop_server(own)


def _external(server: Server, user: str, password: str, tail: str = "campus") -> Settings:
    return Settings(postgres_url=f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{server.port}/{tail}")


def test_a_users_server_replaces_the_embedded_one(users_server: tuple[Server, str]) -> None:
    server, admin = users_server
    with pytest.raises(ServerError, match=r"'guest' may not create .* create iom, dagster, mlflow") as refusal:
        ensure_server(_external(server, "guest", "guest-pw"))
    assert "guest-pw" not in str(refusal.value)
    settings = _external(server, "maker", "p@ss/w:rd", "campus?application_name=iom%20test")
    assert server_status(settings)["state"] == "running"
    assert _ask(server, "SELECT count(*) FROM pg_database WHERE datname = 'iom'", url=admin) == [(0,)]
    external = ensure_server(settings)
    assert not external.is_embedded
    for name in ("iom", "dagster", "mlflow"):
        query = "SELECT current_database(), session_user::text, current_setting('application_name')"
        assert _ask(external, query, database=name) == [(name, "maker", "iom test")]
    assert ensure_server(_external(server, "guest", "guest-pw")).user == "guest"
    assert not stop_server(settings)
    assert _ask(external, "SELECT 1") == [(1,)]


def test_errors_of_a_users_server_hold_no_password(users_server: tuple[Server, str]) -> None:
    server, _ = users_server
    wrong = _external(server, "maker", "not-the-secret")
    with pytest.raises(ServerError, match=r"does not let us in.*IOM_POSTGRES_URL") as refusal:
        ensure_server(wrong)
    assert "not-the-secret" not in f"{refusal.value} {wrong!r} {server_status(wrong)}"
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "mysql://a:s3cret@h/db",
        "postgresql+psycopg2://a:s3cret@h/db",
        "postgresql://h/db",
        "s3cret",
        "postgresql://a:s3cret@h:port/db",
    ],
)
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ServerError, match="write postgresql://user:password@host:5432/database") as refusal:
        ensure_server(Settings(postgres_url=url))
    assert "s3cret" not in str(refusal.value)


def test_an_old_server_is_refused(users_server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_server, "OLDEST_VERSION", 99)
    with pytest.raises(ServerError, match="is PostgreSQL 18; 99 or newer is needed"):
        ensure_server(_external(users_server[0], "maker", "p@ss/w:rd"))


def test_a_url_quotes_what_a_password_may_hold() -> None:
    url = Server("::1", 5433, "a b", "p@:/?#%", False, "x", "sslmode=require").url("iom")
    assert url == "postgresql://a%20b:p%40%3A%2F%3F%23%25@[::1]:5433/iom?sslmode=require"
    assert psycopg2.extensions.parse_dsn(url)["password"] == "p@:/?#%"
