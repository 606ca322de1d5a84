"""What other commands of the stack need to find the platform: variables, and no secret among them.

A password never stands in a variable or an address: libpq reads it from a 0600 file.
"""

import os
import shlex
import sys
from pathlib import Path
from urllib.parse import parse_qsl

from iom_platform.flow.clock import today
from iom_platform.settings import PROJECT_ROOT, Settings, apply_environment, load_settings
from iom_platform.storage.deployment import own_record
from iom_platform.storage.postgres_server import Server, ensure_server
from iom_platform.storage.record import DATABASE, count_rows, open_record, prepare_record
from iom_platform.tables import STUDENT_RISK

# of sessions whose address names no options of its own: room for millions of groups, and no seconds of compiling
_PLANNING = "-c work_mem=128MB -c hash_mem_multiplier=4 -c jit=off"


def _write_passfile(settings: Settings, server: Server) -> Path:
    path = settings.home / "pgpass"
    # libpq looks up the host as the address names it: an IPv6 one without brackets, its colons escaped here
    host, user, password = (
        text.replace("\\", "\\\\").replace(":", "\\:") for text in (server.host, server.user, server.password)
    )
    line = f"{host}:{server.port}:*:{user}:{password}\n"
    if not path.exists() or path.read_text() != line:
        fresh = path.with_name(f"pgpass.{os.getpid()}")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(line)
        fresh.replace(path)
    return path


def platform_variables(settings: Settings, server: Server) -> dict[str, str]:
    """Variables for dagster, dg, dbt and mlflow; the home and its folders exist afterwards."""
    for folder in (settings.dagster_path, settings.artifact_path, settings.dbt_path):
        folder.mkdir(parents=True, exist_ok=True)
    open_server = server.without_password()
    variables = {
        "IOM_HOME": str(settings.home.resolve()),
        "IOM_ENGINE": settings.engine,
        "IOM_WAREHOUSE_PATH": str(settings.warehouse_path.resolve()),
        "IOM_DAGSTER_DIR": str(settings.dagster_path.resolve()),
        "IOM_DAGSTER_POSTGRES_URL": open_server.url("dagster"),
        "DAGSTER_HOME": str(PROJECT_ROOT),
        "MLFLOW_TRACKING_URI": open_server.url("mlflow"),
        "PGPASSFILE": str(_write_passfile(settings, server).resolve()),
        "DBT_PROJECT_DIR": str(PROJECT_ROOT / "dbt_project"),
        "DBT_TARGET_PATH": str(settings.dbt_path.resolve()),
        "DBT_LOG_PATH": str(settings.dbt_path.resolve()),
        "DBT_PROFILES_DIR": str(PROJECT_ROOT / "dbt_project"),
        "DO_NOT_TRACK": "true",  # dbt and MLflow would call home
        "IOM_INSTITUTION__TIMEZONE": settings.institution.timezone,
        "IOM_WAREHOUSE__MEMORY_LIMIT": settings.warehouse.memory_limit,
    }
    if settings.engine == "postgres":
        variables |= _dbt_variables(server)
    if settings.as_of_on:
        variables["IOM_AS_OF_ON"] = settings.as_of_on.isoformat()
    return variables


def _dbt_variables(server: Server) -> dict[str, str]:
    """Where dbt finds PostgreSQL; libpq itself reads what a `postgres_url` adds, such as PGSSLMODE for sslmode."""
    options = {f"PG{name.upper()}": value for name, value in parse_qsl(server.options)}
    options["PGOPTIONS"] = f"{options.get('PGOPTIONS', '')} {_PLANNING}".strip()
    place = {"HOST": server.host, "PORT": str(server.port), "USER": server.user, "DATABASE": DATABASE}
    return options | {f"IOM_PG{name}": value for name, value in place.items()}


def start_platform() -> Settings:
    """Settings of a platform whose server runs, whose record is prepared and whose variables are set."""
    settings = load_settings()
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if settings.home.stat().st_mode & 0o077 and settings.home.stat().st_uid == os.getuid():
        settings.home.chmod(
            0o700
        )  # DuckDB's and Dagster's files are made under any umask, so the folder keeps others out
    server = ensure_server(settings)
    own_record(settings)
    prepare_record(settings)
    apply_environment(platform_variables(settings, server))
    return settings


def print_environment() -> None:
    settings = start_platform()
    variables = platform_variables(settings, ensure_server(settings))
    if not settings.as_of_on:
        with open_record(settings) as conn:
            _, newest = count_rows(conn, STUDENT_RISK) or (0, None)
        variables["IOM_AS_OF_ON"] = (newest or today(settings)).isoformat()
    for name, value in sorted(variables.items()):
        print(f"export {name}={shlex.quote(value)}")
    if sys.prefix != sys.base_prefix:
        print(f"export VIRTUAL_ENV={shlex.quote(sys.prefix)}")  # else each `dg` command warns that none is active
    print(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')
