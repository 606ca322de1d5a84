"""Every command of docs/operating.md parses as its program parses it, and names jobs, tables and models that exist.

The backfill is launched for real in tests/integration/test_services.py.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from iom_platform.cli import app
from iom_platform.definitions import defs
from iom_platform.flow.extract import DeliveryConfig
from iom_platform.settings import PROJECT_ROOT
from iom_platform.tables import find_table

PAGE = (PROJECT_ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
BLOCKS = "".join(re.findall(r"^```(?:sh)?\n(.*?)^```", PAGE, flags=re.M | re.S))
COMMANDS = [
    line.partition("&& ")[2].partition(" >>")[0] if line.startswith("0 ") else line for line in BLOCKS.splitlines()
]
VARIABLES = {
    "DBT_PROFILES_DIR": "dbt_project",
    "DBT_PROJECT_DIR": "dbt_project",
}  # two of those that the first line exports
START = 'eval "$(.venv/bin/iom env)"'


def _program(name: str) -> click.Command:
    if name == "iom":
        return typer.main.get_command(app)
    if name == "dagster":
        from dagster._cli import create_dagster_cli

        return create_dagster_cli()
    if name == "dg":
        from dagster_dg_cli.cli import create_dg_cli

        return create_dg_cli()
    if name == "dbt":
        from dbt.cli.main import cli as dbt

        return dbt
    if name == "mlflow":
        from mlflow.cli import cli as mlflow

        return mlflow
    raise AssertionError(f"{name} is no program of the platform")


def _parse(line: str) -> dict[str, Any]:
    """What the program makes of its arguments; nothing is run."""
    name, *words = shlex.split(line.replace("DAY", "2026-11-10"))
    command = _program(Path(name).name)
    context = command.make_context(name, words)
    while hasattr(command, "resolve_command"):  # not isinstance, since typer brings a click of its own
        _, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None, line
        command, context = found, found.make_context(found.name, list(rest), parent=context)
    return context.params


def test_the_page_has_an_example_of_each_program() -> None:
    assert COMMANDS[0] == START
    assert {Path(line.split()[0]).name for line in COMMANDS[1:]} == {"iom", "dagster", "dg", "dbt", "mlflow"}


@pytest.mark.parametrize("line", COMMANDS[1:])
def test_a_command_parses_and_what_it_names_exists(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, folder in VARIABLES.items():
        monkeypatch.setenv(name, str(PROJECT_ROOT / folder))
    said = _parse(line)
    if job := said.get("job") or said.get("job_name"):
        assert defs.resolve_job_def(job).partitions_def is not None
    if config := said.get("config_json"):
        [(step, given)] = json.loads(config)["ops"].items()
        assert step == "load_delivery" and set(given["config"]) == set(DeliveryConfig.model_fields)
    if module := said.get("module_name"):
        assert module in ("iom_platform.definitions", ("iom_platform.definitions",))
    if table := said.get("table"):
        assert find_table(table).path == table
    for model in said.get("select") or ():
        assert list((PROJECT_ROOT / "dbt_project" / "models").rglob(f"{model.strip('+')}.sql")), said["select"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("dagster job backfill --no-prompt", "[Nn]o such option"),
        ("dg launch --jobs score_day", "[Nn]o such option"),
        ("iom export raw/quarantine", "[Mm]issing option '--out'"),
    ],
)
def test_a_wrong_command_is_found(line: str, sentence: str) -> None:
    with pytest.raises(Exception) as raised:
        _parse(line)
    assert re.search(sentence, raised.value.format_message())
