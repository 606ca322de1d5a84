"""A copy of the configuration does not write to production: the record knows whose it is, and refuses every other home."""

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import psycopg2
import pytest

from iom_platform.cli.environment import start_platform
from iom_platform.settings import PROJECT_ROOT, Settings, load_settings
from iom_platform.storage import deployment
from iom_platform.storage.deployment import NotOurs, own_record
from iom_platform.storage.postgres_server import Server, ensure_server, stop_server
from tests.spine import Spine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    own = Settings(home=tmp_path_factory.mktemp("university"))
    yield ensure_server(own)
    stop_server(own)


@pytest.fixture
def production(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The configuration of production in the environment, its home, and a record that it owns."""
    with psycopg2.connect(server.url("iom")) as connection, connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA IF EXISTS platform CASCADE")
    for name, value in {
        "HOME": str(tmp_path / "production"),
        "DEPLOYMENT": "production",
        "POSTGRES_URL": server.url("iom"),
    }.items():
        monkeypatch.setenv(f"IOM_{name}", value)
    settings = load_settings()
    own_record(settings)
    return settings


def _owners(server: Server) -> list[tuple[str, str]]:
    with psycopg2.connect(server.url("iom")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT name, reason FROM platform.deployments ORDER BY number")
        return cursor.fetchall()


def test_the_first_to_come_owns_the_record_and_comes_again(server: Server, production: Settings) -> None:
    own_record(production)
    assert _owners(server) == [("production", "the first to come")]
    assert (production.home / "home.id").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("name", "said"), [("production", "and this is another home"), ("local", "and this is 'local'")]
)
def test_a_copied_configuration_is_refused_by_every_command(
    production: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    before = dict(os.environ)
    monkeypatch.setenv("IOM_HOME", str(tmp_path / "laptop"))
    monkeypatch.setenv("IOM_DEPLOYMENT", name)
    with pytest.raises(NotOurs, match=rf"belongs to the deployment 'production' since .*{said}, so nothing is done"):
        start_platform()
    assert "DAGSTER_HOME" not in set(os.environ) - set(before)
    copy = Spine(load_settings())
    for command in (["env"], ["up"], ["exec", "env"], ["migrate"], ["restore", "anything", "--replace"]):
        done = copy.iom(*command)
        assert (done.returncode, said in done.stderr) == (6, True), (command, done)
        assert done.stdout == ""


def test_the_name_alone_is_not_enough_but_the_home_and_the_name(production: Settings, tmp_path: Path) -> None:
    laptop = production.model_copy(update={"home": tmp_path / "laptop"})
    laptop.home.mkdir()
    shutil.copy(production.home / "home.id", laptop.home)
    own_record(laptop)  # production itself, moved to another folder with all its state
    with pytest.raises(NotOurs, match="and this is 'staging'"):
        own_record(laptop.model_copy(update={"deployment": "staging"}))


def test_the_schedule_skips_and_a_run_ends_before_its_first_step_on_a_copy(
    production: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iom_platform.flow.jobs import nightly

    context = dg.build_schedule_context(scheduled_execution_time=datetime(2026, 11, 10, 23, 30, tzinfo=UTC))
    request = nightly(context)
    assert isinstance(request, dg.RunRequest) and request.partition_key == "2026-11-10"
    start_platform()
    monkeypatch.setenv("IOM_HOME", str(tmp_path / "laptop"))
    skipped = nightly(context)
    assert isinstance(skipped, dg.SkipReason) and "and this is another home" in str(skipped.skip_message)
    result = Spine(load_settings()).score(date(2026, 11, 10))
    assert not result.success
    assert not [e for e in result.all_events if e.is_step_start]
    assert any("and this is another home" in str(e.event_specific_data) for e in result.all_events)


def test_a_home_may_take_the_place_of_another_for_a_reason(
    server: Server, production: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IOM_HOME", str(tmp_path / "new host"))
    copy = Spine(load_settings())
    assert copy.iom("adopt", "--reason", " ").returncode == 2
    done = copy.iom("adopt", "--reason", "the old host burned down")
    assert done.returncode == 0 and "belongs to the deployment 'production'" in done.stdout, done.stderr
    own_record(load_settings())
    assert _owners(server) == [("production", "the first to come"), ("production", "the old host burned down")]
    with pytest.raises(NotOurs, match="another home"):
        own_record(production)


def test_the_embedded_record_belongs_to_its_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "open_record", None)  # not even asked
    own_record(Settings(home=tmp_path))
    done = Spine(Settings(home=tmp_path)).iom("adopt", "--reason", "x", IOM_HOME=str(tmp_path))
    assert (done.returncode, "belongs to its home" in done.stderr) == (2, True)


def test_a_program_gets_the_variables_and_no_password(
    server: Server, production: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text(server.password)
    monkeypatch.setenv("IOM_POSTGRES_PASSWORD_FILE", str(password))
    monkeypatch.setenv("IOM_POSTGRES_URL", server.url("iom").replace(f":{server.password}@", "@"))
    here = Spine(load_settings())
    done = here.iom("exec", "env")
    assert done.returncode == 0, done.stderr
    variables = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert variables["DAGSTER_HOME"] == str(PROJECT_ROOT)
    assert server.password in Path(variables["PGPASSFILE"]).read_text()
    assert server.password not in done.stdout
    missing = here.iom("exec", "no-such-program")
    assert (missing.returncode, "no program 'no-such-program'" in missing.stderr) == (2, True)
