"""What the commands tell and leave on this machine: doctor's findings, addresses, private exports, the services' state."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psycopg2.extensions
import pytest
from dagster._utils.schedules import is_valid_cron_string
from sqlalchemy import make_url

from iom_platform.cli import services
from iom_platform.cli.environment import platform_variables
from iom_platform.cli.exports import _with_identities, _write_whole
from iom_platform.cli.health import Unwell, _wrong_cron, examine, find_wrong
from iom_platform.flow.liveness import own_mark
from iom_platform.settings import Settings
from iom_platform.storage.postgres_server import _parse_url

KEY = "0123456789abcdef" * 4


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "home").mkdir()
    return Settings(home=tmp_path / "home")


def _key(settings: Settings, text: str) -> None:
    settings.key_path.touch(mode=0o600)
    settings.key_path.write_text(text)


# -- doctor --------------------------------------------------------------------------------------------


def test_nothing_is_wrong_with_a_sound_home_and_nothing_is_made(settings: Settings) -> None:
    assert find_wrong(settings) == []
    assert list(settings.home.iterdir()) == []
    _key(settings, KEY)
    settings.warehouse_path.write_bytes(bytes(8) + b"DUCK" + bytes(100))
    assert find_wrong(settings) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [("not hex", "is not written in hexadecimal"), ("abcd", "is shorter than"), ("", "is shorter than")],
)
def test_a_malformed_key_is_found(settings: Settings, text: str, said: str) -> None:
    _key(settings, text)
    [found] = find_wrong(settings)
    assert said in found and "restore it from a backup" in found
    [found] = find_wrong(settings.model_copy(update={"pseudonym_key": "xyz"}))
    assert "IOM_PSEUDONYM_KEY is not written in hexadecimal" in found and "xyz" not in found


def test_a_key_that_is_lost_is_found_and_not_made_anew(settings: Settings) -> None:
    settings.warehouse_path.write_bytes(bytes(8) + b"DUCK" + bytes(100))
    [found] = find_wrong(settings)
    assert "is missing although a warehouse exists; restore it" in found
    assert not settings.key_path.exists()
    assert find_wrong(settings.model_copy(update={"pseudonym_key": KEY})) == []


def test_a_damaged_warehouse_is_found(settings: Settings) -> None:
    _key(settings, KEY)
    settings.warehouse_path.write_text("no database at all")
    assert ["is no DuckDB file" in found for found in find_wrong(settings)] == [True]
    settings.warehouse_path.unlink()
    settings.warehouse_path.mkdir()
    assert ["cannot be read" in found for found in find_wrong(settings)] == [True]


def test_a_home_that_cannot_be_written_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    [found] = find_wrong(Settings(home=tmp_path / "file" / "home"))
    assert "is no folder; move that away or set IOM_HOME" in found
    allowed = os.access  # root may write everywhere
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path and allowed(path, mode))
    [found] = find_wrong(Settings(home=tmp_path / "deep" / "home"))
    assert "cannot be written" in found and "set IOM_HOME" in found


def test_a_missing_dbt_is_found(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    [found] = find_wrong(settings)
    assert "dbt is missing" in found


def test_a_server_that_does_not_answer_is_found_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("IOM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IOM_POSTGRES_URL", f"postgresql://u:topsecret@127.0.0.1:{port}/db")
    with pytest.raises(Unwell, match="1 finding above") as caught:
        examine()
    said = capsys.readouterr().out
    assert "WRONG: the PostgreSQL server of postgres_url does not let us in" in said and "topsecret" not in said
    assert caught.value.exit_code == 1
    assert "names no PostgreSQL user" in find_wrong(Settings(home=tmp_path / "home", postgres_url="mysql://x"))[0]


@pytest.mark.parametrize(
    "cron",
    ["30 23 * * *", "*/5 0-6,22 * jan-mar mon,fri", "0 0 l * *", "0 0 ? * mon#1", "22-4 * * * L5", "0 0 * * 7",
     "60 1 * * *", "0 24 * * *", "0 0 0 * *", "0 0 32 * *", "0 0 * 13 *", "0 0 * * 8", "0 0 * * 1#6", "*/0 * * * *",
     "1- * * * *", "0 0 * * monday", "H 1 * * *", "? * * * *", "0 0 30 2 *", "0 0 31 feb *"],
)  # fmt: skip
def test_doctor_and_dagster_agree_on_a_cron(settings: Settings, cron: str) -> None:
    assert (_wrong_cron(cron) == []) == is_valid_cron_string(cron)


# -- addresses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "pgpass"),
    [
        ("postgresql://ann:pw@db.uni.example:6000/x?sslmode=verify-full", "db.uni.example:6000:*:ann:pw\n"),
        ("postgresql://ann:pw@[::1]/x", "\\:\\:1:5432:*:ann:pw\n"),
        ("postgresql://ann%40uni:p%3Aw@localhost/x", "localhost:5432:*:ann@uni:p\\:w\n"),
        ("postgresql://ann@localhost/x?password=pw&sslmode=require", "localhost:5432:*:ann:pw\n"),
    ],
)
def test_addresses_keep_all_but_the_password(settings: Settings, url: str, pgpass: str) -> None:
    server, _ = _parse_url(url)
    variables = platform_variables(settings, server)
    assert Path(variables["PGPASSFILE"]).read_text() == pgpass
    assert Path(variables["PGPASSFILE"]).stat().st_mode & 0o777 == 0o600
    for name, database in (("IOM_DAGSTER_POSTGRES_URL", "dagster"), ("MLFLOW_TRACKING_URI", "mlflow")):
        address = variables[name]
        libpq = psycopg2.extensions.parse_dsn(address)
        assert "password" not in libpq
        assert (libpq["host"], libpq["user"], libpq["dbname"]) == (server.host, server.user, database)
        read = make_url(address)
        assert (read.host, read.username, read.password, read.port) == (server.host, server.user, None, server.port)
        assert libpq.get("sslmode") == read.query.get("sslmode") == psycopg2.extensions.parse_dsn(url).get("sslmode")


# -- exports -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_an_identified_export_is_private(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    out.touch(mode=0o644)
    _write_whole(pd.DataFrame({"a": [1]}), out, private=True)
    assert out.stat().st_mode & 0o777 == 0o600 and list(tmp_path.iterdir()) == [out]
    _write_whole(pd.DataFrame({"a": [1]}), out, private=False)
    assert out.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_id_stands_beside_its_source() -> None:
    rows = pd.DataFrame({"student_pseudonym": ["p", "q", "lost"], "source": ["one", "two", "two"], "score": [1, 2, 3]})
    named = _with_identities(rows, {"p": ("one", "7"), "q": ("two", "7")})
    assert list(named) == ["student_id", "source", "student_pseudonym", "score"]
    assert named[["student_id", "source"]].iloc[:2].values.tolist() == [["7", "one"], ["7", "two"]]
    assert named["student_id"].isna().tolist() == [False, False, True]
    assert list(named["source"]) == list(rows["source"])
    without = _with_identities(rows.drop(columns="source"), {"p": ("one", "7"), "q": ("two", "7")})
    assert without["source"].tolist()[:2] == ["one", "two"]


# -- state of the services -----------------------------------------------------------------------------


def _state() -> dict[str, object]:
    return {"pid": os.getpid(), "mark": own_mark(), "dagster": 1, "mlflow": 2}


def test_only_a_whole_state_of_a_live_process_counts(settings: Settings) -> None:
    path = settings.home / "services.json"
    services._write_state(settings, _state())
    assert services.running(settings) == _state() and list(settings.home.iterdir()) == [path]
    broken = [json.dumps(_state())[:-5], "3", "{}", json.dumps({"pid": 2**22 + 1, "dagster": 1, "mlflow": 2})]
    broken += [json.dumps({k: v for k, v in _state().items() if k != left_out}) for left_out in _state()]
    for text in [*broken, json.dumps(_state() | {"mark": "of another start"})]:
        path.write_text(text)
        assert services.running(settings) is None, text


def test_a_second_up_sees_the_first(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[int] = []
    monkeypatch.setattr(services, "start_platform", lambda: settings)
    monkeypatch.setattr(services, "_serve", lambda *_, dagster_port, mlflow_port: served.append(dagster_port))
    with services._sole_service(settings) as is_sole:
        assert is_sole
        services.serve(dagster_port=1, mlflow_port=2)
        assert "Another `iom up` is starting" in capsys.readouterr().out
        services._write_state(settings, _state())
        services.serve(dagster_port=1, mlflow_port=2)
        assert f"It runs already (process {os.getpid()})" in capsys.readouterr().out
    assert served == []
    services.serve(dagster_port=1, mlflow_port=2)
    assert served == [1]


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A clock on which waiting takes no time."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    yield
    monkeypatch.undo()


def test_down_says_what_did_not_end(settings: Settings, monkeypatch: pytest.MonkeyPatch, ticking: None) -> None:
    services._write_state(settings, _state())
    monkeypatch.setattr(services, "load_settings", lambda: settings)
    monkeypatch.setattr("os.kill", lambda pid, signal: None)
    monkeypatch.setattr(services, "stop_server", lambda _: pytest.fail("PostgreSQL was taken from what still runs"))
    with pytest.raises(services.ServiceFailed, match="has not ended after 30 s") as caught:
        services.stop()
    assert caught.value.exit_code == 1


def test_what_outlives_a_service_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_STOP_SECONDS", 1)
    service = subprocess.Popen(
        ["bash", "-c", "(trap '' TERM; echo deaf; exec sleep 600) & wait"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert service.stdout is not None and service.stdout.readline() == b"deaf\n"
    services._end({"dagster": service})
    with pytest.raises(ProcessLookupError):
        for _ in range(300):  # the killed one is a member until the system has reaped it
            os.killpg(service.pid, 0)
            time.sleep(0.1)
