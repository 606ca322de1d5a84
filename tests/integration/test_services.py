"""`iom up` for real: the UI loads the definitions, the daemon fires the schedule, a past day is backfilled."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from iom_platform.cli.ports import free_port
from iom_platform.cli.services import _links
from iom_platform.extract.synthetic import write_twin
from iom_platform.settings import PROJECT_ROOT
from iom_platform.storage.record import open_record, read_table
from iom_platform.tables import STUDENT_RISK
from tests.spine import IOM, Spine, spine_at

TODAY = datetime.now(UTC).date()
PAST = TODAY - timedelta(days=9)
RUNS = """{ runsOrError(limit: 20) { ... on Runs { results { status jobName tags { key value } } } } }"""


def _wait(what: str, done: Callable[[], Any], seconds: int = 420) -> Any:
    for _ in range(seconds):
        found = done()
        if found:
            return found
        time.sleep(1)
    pytest.fail(f"{what} did not happen in {seconds} s")


@pytest.fixture(scope="module")
def spine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spine]:
    folder = tmp_path_factory.mktemp("services")
    write_twin(folder / "twin", students=150, seed=5, through=TODAY)
    with spine_at(folder / "home") as spine:
        assert spine.land(folder / "twin", TODAY).success
        yield spine


class _Stranger(BaseHTTPRequestHandler):
    """Answers whatever is asked, as another program on the port may."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def up(spine: Spine) -> Iterator[dict[str, Any]]:
    with socket.socket() as taken, contextlib.ExitStack() as strangers:
        taken.bind(("127.0.0.1", 0))  # a port that somebody else holds is replaced
        taken.listen()
        wanted, lost = taken.getsockname()[1], free_port(0)
        # every third minute: soon, and not again while its run is still going
        process = subprocess.Popen(
            [str(IOM), "up", "--dagster-port", str(wanted), "--mlflow-port", str(lost)],
            env={**os.environ, "IOM_SCHEDULE__NIGHTLY_CRON": "*/3 * * * *"}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        lines: list[str] = []
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Starting"):  # so is one that somebody takes before MLflow does
                stranger = strangers.enter_context(ThreadingHTTPServer(("127.0.0.1", lost), _Stranger))
                threading.Thread(target=stranger.serve_forever, daemon=True).start()
                strangers.callback(stranger.shutdown)
            if "Ctrl-C" in line:
                break
        state = json.loads((spine.settings.home / "services.json").read_text())
        yield {"said": "".join(lines), "process": process, "wanted": wanted, "lost": lost, **state}
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def _graphql(up: dict[str, Any], query: str, **variables: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{up['dagster']}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(), {"Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=60) as answer:
        result: dict[str, Any] = json.load(answer)
    assert "errors" not in result, result
    return dict(result["data"])


def _risk_of(spine: Spine, day: date) -> int:
    with open_record(spine.settings) as conn:
        return len(read_table(conn, STUDENT_RISK, day))


def test_up_prints_links_and_replaces_taken_ports(up: dict[str, Any]) -> None:
    assert f"Port {up['wanted']} is taken; dagster uses {up['dagster']}." in up["said"]
    assert f"Port {up['lost']} was taken meanwhile; mlflow starts once more, on {up['mlflow']}." in up["said"]
    for link in ("/asset-groups", "/assets/risk/student_risk"):
        assert f"http://127.0.0.1:{up['dagster']}{link}\n" in up["said"]
    assert f"http://127.0.0.1:{up['mlflow']}/#/experiments" in up["said"]


def test_the_model_runs_open_as_charts_and_the_graph_says_how_to_open_a_group() -> None:
    said = _links({"dagster": 3000, "mlflow": 5000, "experiment": "7"})
    assert "http://127.0.0.1:5000/#/experiments/7/runs?orderByKey=tags.%60trained_as_of%60&" in said.splitlines()[-1]
    assert "a click opens a group" in said.splitlines()[1]


def test_a_second_up_says_that_it_runs_already(spine: Spine, up: dict[str, Any]) -> None:
    again = spine.iom("up")
    assert again.returncode == 0
    assert f"It runs already (process {up['process'].pid})" in again.stdout


def test_services_listen_on_loopback_only(up: dict[str, Any]) -> None:
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    for port in (up["dagster"], up["mlflow"]):
        addresses = {
            line.split()[1].split(":")[0]
            for line in listening.splitlines()
            if f":{port:04X} " in line and " 0A " in line
        }
        assert addresses == {"0100007F"}, addresses


def test_the_schedule_fires_in_the_daemon_and_writes_risk(spine: Spine, up: dict[str, Any]) -> None:
    assert _wait("the nightly run", lambda: _risk_of(spine, TODAY)) > 0
    runs = _graphql(up, RUNS)["runsOrError"]["results"]
    assert any(t["value"] == "nightly" for r in runs for t in r["tags"] if t["key"] == "dagster/schedule_name")


def test_a_past_day_is_backfilled_from_the_shell(spine: Spine, up: dict[str, Any]) -> None:
    assert _risk_of(spine, PAST) == 0
    variables = subprocess.run([str(IOM), "env"], capture_output=True, text=True, check=True).stdout
    page = (PROJECT_ROOT / "docs" / "operating.md").read_text()
    [command] = re.findall(r"^dagster job backfill .*$", page.replace("DAY", PAST.isoformat()), flags=re.M)
    done = subprocess.run(
        ["bash", "-c", f"{variables}\n{command}"], capture_output=True, text=True, timeout=240, check=False
    )
    assert "Launched backfill job" in done.stdout, f"{done.stdout}\n{done.stderr}"

    backfill = {"key": "dagster/backfill", "value": done.stdout.split("`")[1]}

    def is_over() -> bool:
        runs = _graphql(up, RUNS)["runsOrError"]["results"]
        statuses = [r["status"] for r in runs if backfill in r["tags"]]
        assert "FAILURE" not in statuses, statuses
        return "SUCCESS" in statuses

    _wait("the backfill", is_over)
    assert _risk_of(spine, PAST) > 0


def test_down_ends_all(spine: Spine, up: dict[str, Any]) -> None:
    assert spine.iom("down").returncode == 0
    assert up["process"].wait(timeout=60) == 0
    for port in (up["dagster"], up["mlflow"]):
        with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
            probe.connect(("127.0.0.1", port))
