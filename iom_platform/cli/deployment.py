"""`iom secrets`, `iom exec` and `iom adopt`: what the services of a deployment are started with.

Which services there are, and how they are supervised, belongs to docker-compose.yml and deploy/.
"""

import os
import shutil
import sys
from pathlib import Path

from iom_platform.cli.environment import platform_variables
from iom_platform.secret_files import SecretRefused, check_htpasswd, read_secret
from iom_platform.settings import environment_with, load_settings
from iom_platform.storage.deployment import adopt_record, own_record
from iom_platform.storage.postgres_server import ensure_server

_MAKE_OR_RESTORE = "restore it from a backup, or make the first one with `openssl rand -hex 32`"
_HEXADECIMAL = set("0123456789abcdefABCDEF")


class SecretsRefused(RuntimeError):
    """Secrets are missing or weak; each finding was printed."""

    exit_code = 3


class UsageError(ValueError):
    """The command was asked for something that is not there."""

    exit_code = 2


def check_secrets(folder: Path) -> None:
    """Print one sentence for each secret of the folder that no deployment may start with; raises SecretsRefused."""
    checks = {"postgres_password": _check_password, "pseudonym_key": _check_key, "gateway_htpasswd": check_htpasswd}
    found = []
    for name, check in checks.items():
        try:
            check(folder / name)
        except SecretRefused as error:
            found.append(str(error))
    for sentence in found:
        print(f"REFUSED: {sentence}", file=sys.stderr)
    if found:
        raise SecretsRefused("nothing is started with these secrets")
    print("The secrets are there, private, and no defaults.")


def _check_password(path: Path) -> None:
    read_secret(path, "the PostgreSQL password")


def _check_key(path: Path) -> None:
    text = read_secret(path, "the pseudonym key", _MAKE_OR_RESTORE)
    if len(text) < 64 or set(text) - _HEXADECIMAL:
        raise SecretRefused(f"the pseudonym key in {path} is no line of 64 hexadecimal digits; {_MAKE_OR_RESTORE}")


def become(arguments: list[str]) -> None:
    """Become another program with the variables of `iom env`; nothing is prepared or migrated. Does not return."""
    settings = load_settings()
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    server = ensure_server(settings)
    own_record(settings)
    environment = environment_with(**platform_variables(settings, server))
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    program = shutil.which(arguments[0], path=environment["PATH"])
    if program is None:
        raise UsageError(f"no program {arguments[0]!r} is installed here; name one such as dagster-webserver")
    sys.stdout.flush()
    os.execve(program, arguments, environment)


def adopt(reason: str) -> None:
    settings = load_settings()
    if settings.postgres_url is None:
        raise UsageError(
            "the embedded record belongs to its home, so there is none to adopt; name one in IOM_POSTGRES_URL"
        )
    if not reason.strip():
        raise UsageError("a record is adopted for a reason; say why in --reason")
    adopt_record(settings, reason=reason.strip())
    print(f"The record belongs to the deployment {settings.deployment!r} of the home {settings.home} from now on.")
