"""`iom up`, `iom down` and `iom status`: the services of the embedded default, on loopback only.

They are started from here and nowhere else; a university's deployment does not belong here.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iom_platform.cli.environment import platform_variables, start_platform
from iom_platform.cli.ports import HOST, free_port, is_served_by
from iom_platform.flow.liveness import own_mark, process_mark
from iom_platform.settings import PROJECT_ROOT, Settings, environment_with, environment_without_secrets, load_settings
from iom_platform.storage.model_registry import Registry
from iom_platform.storage.postgres_server import ensure_server, server_status, stop_server
from iom_platform.tables import MODEL_NAME

_STOP_SECONDS = 15


class ServiceFailed(RuntimeError):
    """A service did not start or ended by itself; the message names its log."""

    exit_code = 1


def _state_path(settings: Settings) -> Path:
    return settings.home / "services.json"


def running(settings: Settings) -> dict[str, Any] | None:
    """What `iom up` wrote of itself, if that process still lives; a cut file, or an older version's, tells nothing."""
    try:
        state = json.loads(_state_path(settings).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(state, dict) or not isinstance(state.get("mark"), str):
        return None
    if not all(isinstance(state.get(name), int) for name in ("pid", "dagster", "mlflow")):
        return None
    return state if process_mark(state["pid"]) == state["mark"] else None


def _write_state(settings: Settings, state: dict[str, Any]) -> None:
    path = _state_path(settings)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(state))
    part.replace(path)


@contextlib.contextmanager
def _sole_service(settings: Settings) -> Iterator[bool]:
    """Whether no other `iom up` serves this home; the kernel frees the lock with the process that holds it."""
    descriptor = os.open(settings.home / "services.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _commands(settings: Settings, ports: dict[str, int], variables: dict[str, str]) -> dict[str, list[str]]:
    bin_folder = Path(sys.executable).parent
    workspace = str(PROJECT_ROOT / "workspace.yaml")
    return {
        "dagster": [str(bin_folder / "dagster-webserver"), "-h", HOST, "-p", str(ports["dagster"]), "-w", workspace],
        "daemon": [str(bin_folder / "dagster-daemon"), "run", "-w", workspace],
        "mlflow": [str(bin_folder / "mlflow"), "server", "--host", HOST, "--port", str(ports["mlflow"]), "--workers", "1",
                   "--backend-store-uri", variables["MLFLOW_TRACKING_URI"],
                   "--default-artifact-root", settings.artifact_path.resolve().as_uri()],
    }  # fmt: skip


def _log_path(settings: Settings, name: str) -> Path:
    return settings.home / "logs" / f"{name}.log"


def _launch(
    name: str, settings: Settings, ports: dict[str, int], variables: dict[str, str]
) -> "subprocess.Popen[bytes]":
    with open(_log_path(settings, name), "ab") as log:
        return subprocess.Popen(
            _commands(settings, ports, variables)[name],
            # Dagster's runs make pseudonyms and open the record; MLflow's server needs neither secret
            env=(environment_without_secrets if name == "mlflow" else environment_with)(**variables),
            cwd=settings.home,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _comes_up(name: str, port: int, path: str, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    """Wait until the process itself answers; False where it ended and another program holds its port."""
    for _ in range(180):
        if process.poll() is not None:
            if free_port(port) != port:
                return False
            raise ServiceFailed(f"{name} ended with {process.returncode}; read {log}")
        with contextlib.suppress(OSError):
            if is_served_by(port, process.pid):
                urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=2).close()
                return True
        time.sleep(1)
    raise ServiceFailed(f"{name} did not answer on port {port}; read {log}")


def _bring_up(
    settings: Settings,
    processes: dict[str, "subprocess.Popen[bytes]"],
    ports: dict[str, int],
    variables: dict[str, str],
) -> None:
    """Wait for the services; whose port was taken between its choice and its use starts once more on another."""
    for name, path in (("dagster", "/server_info"), ("mlflow", "/health")):
        log = _log_path(settings, name)
        if _comes_up(name, ports[name], path, processes[name], log):
            continue
        taken, ports[name] = ports[name], free_port(0)
        print(f"Port {taken} was taken meanwhile; {name} starts once more, on {ports[name]}.", flush=True)
        processes[name] = _launch(name, settings, ports, variables)
        if not _comes_up(name, ports[name], path, processes[name], log):
            raise ServiceFailed(f"{name} found its port taken twice; read {log}, and run `iom up` again")


def _check_code_location(port: int) -> None:
    """Dagster's UI comes up empty where the definitions do not load; say so here, not there."""
    query = "{workspaceOrError{... on Workspace{locationEntries{locationOrLoadError{... on PythonError{message}}}}}}"
    request = urllib.request.Request(
        f"http://{HOST}:{port}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        entries = json.load(answer)["data"]["workspaceOrError"].get("locationEntries", [])
    problems = [(e["locationOrLoadError"] or {}).get("message") for e in entries]
    if not entries or any(problems):
        raise ServiceFailed(
            f"Dagster could not load iom_platform: {next(filter(None, problems), 'no code location').splitlines()[0]}"
        )


def _signal(group: int, number: int) -> bool:
    """Whether the process group had a member to be signaled; 0 only asks."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _end(processes: dict[str, "subprocess.Popen[bytes]"]) -> None:
    """End the services and what they started: Dagster's code server may outlive the process that it serves."""
    groups = [process.pid for process in processes.values()]
    groups = [group for group in groups if _signal(group, signal.SIGTERM)]
    deadline = time.monotonic() + _STOP_SECONDS  # of all together: `iom down` waits for twice as long
    while groups and time.monotonic() < deadline:
        time.sleep(0.1)
        for process in processes.values():
            process.poll()  # who has ended counts as a member until it is reaped
        groups = [group for group in groups if _signal(group, 0)]
    for group in groups:
        _signal(group, signal.SIGKILL)
    for process in processes.values():
        process.wait()


def _links(state: dict[str, Any]) -> str:
    dagster, mlflow = (f"http://{HOST}:{state[name]}" for name in ("dagster", "mlflow"))
    # by another order than its own MLflow folds the fits of a selection, and shows none of their measures
    newest_first = "orderByKey=tags.%60trained_as_of%60&orderByAsc=false&compareRunsMode=CHART"
    experiment = f"/{state['experiment']}/runs?{newest_first}" if state.get("experiment") else ""
    return (
        f"asset graph:  {dagster}/asset-groups\n"
        "              (a click opens a group; an asset's page lists its checks)\n"
        f"student risk: {dagster}/assets/risk/student_risk\n"
        f"model runs:   {mlflow}/#/experiments{experiment}"
    )


def serve(*, dagster_port: int, mlflow_port: int) -> None:
    """Run the services until Ctrl-C, `iom down`, or the end of one of them."""
    settings = start_platform()
    with _sole_service(settings) as is_sole:
        if is_sole:
            _serve(settings, dagster_port=dagster_port, mlflow_port=mlflow_port)
            return
        already = running(settings)
        if already:
            print(f"It runs already (process {already['pid']}).\n{_links(already)}")
        else:
            print("Another `iom up` is starting or ending; `iom status` shows its links once it runs.")


def _serve(settings: Settings, *, dagster_port: int, mlflow_port: int) -> None:
    ports = {"dagster": free_port(dagster_port), "mlflow": free_port(mlflow_port)}
    for name, wanted in (("dagster", dagster_port), ("mlflow", mlflow_port)):
        if ports[name] != wanted:
            print(f"Port {wanted} is taken; {name} uses {ports[name]}.")
    variables = platform_variables(settings, ensure_server(settings))
    registry = Registry.of(settings)
    registry.prepare()  # MLflow's own server would migrate without a lock
    (settings.home / "logs").mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    processes: dict[str, subprocess.Popen[bytes]] = {}
    state = {"pid": os.getpid(), "mark": own_mark(), "experiment": registry.experiment_id(MODEL_NAME), **ports}
    try:
        _write_state(settings, state)
        for name in ("dagster", "daemon", "mlflow"):
            processes[name] = _launch(name, settings, ports, variables)
        print("Starting Dagster and MLflow ...", flush=True)
        _bring_up(settings, processes, ports, variables)
        state |= ports
        _write_state(settings, state)
        _check_code_location(ports["dagster"])
        nightly = "on" if settings.is_automatic else "off, for IOM_DEPLOYMENT does not say whose server this is"
        print(f"{_links(state)}\nThe nightly schedule is {nightly}. Ctrl-C ends all.", flush=True)
        while all(p.poll() is None for p in processes.values()):
            time.sleep(1)
        ended = next(n for n, p in processes.items() if p.poll() is not None)
        raise ServiceFailed(f"{ended} ended by itself; read {_log_path(settings, ended)}")
    except KeyboardInterrupt:
        print("\nStopping ...")
    finally:
        _end(processes)
        _state_path(settings).unlink(missing_ok=True)


def stop() -> None:
    """End `iom up`, then the embedded server."""
    settings = load_settings()
    state = running(settings)
    if state:
        with contextlib.suppress(ProcessLookupError):
            os.kill(state["pid"], signal.SIGTERM)
        deadline = time.monotonic() + 2 * _STOP_SECONDS
        while running(settings) is not None:
            if time.monotonic() > deadline:
                raise ServiceFailed(
                    f"`iom up` (process {state['pid']}) has not ended after {2 * _STOP_SECONDS} s, so PostgreSQL was left "
                    "running; look at its terminal and run `iom down` again"
                )
            time.sleep(0.1)
        print("Dagster and MLflow are stopped.")
    stop_server(settings)
    print("PostgreSQL is stopped." if not settings.postgres_url else "Your PostgreSQL server was left alone.")


def print_status() -> None:
    settings = load_settings()
    print(f"home: {settings.home}")
    for name, value in server_status(settings).items():
        print(f"{name}: {value}")
    state = running(settings)
    print(_links(state) if state else "Dagster and MLflow: not running; `iom up` starts them")
