"""One name everywhere: tables, expectations, docs, settings, commands, sources."""

import re

import yaml

from iom_platform.cli import app
from iom_platform.extract import SOURCES
from iom_platform.settings import PROJECT_ROOT
from iom_platform.storage.expectations import suites
from iom_platform.tables import MODEL_INPUTS, QUASI_IDENTIFIERS, STUDENT_TERM, TABLES

DATA = (PROJECT_ROOT / "docs" / "data.md").read_text()
README = (PROJECT_ROOT / "README.md").read_text()


def test_every_table_has_its_heading_and_no_heading_is_left_over() -> None:
    headings = re.findall(r"^### `([a-z]+/[a-z_]+)`$", DATA, flags=re.M)
    assert headings == [t.path for t in TABLES]


def test_every_table_is_described_in_the_docs_as_in_the_code() -> None:
    for table in TABLES:
        assert table.doc in DATA, table.path


def test_every_suite_names_a_table() -> None:
    assert set(suites()) <= {t.path for t in TABLES}


def test_columns_are_unique_and_keys_are_columns() -> None:
    for table in TABLES:
        assert len(set(table.column_names)) == len(table.column_names), table.path
        assert set(table.key) <= set(table.column_names), table.path


def test_model_inputs_are_behavior_and_no_protected_column() -> None:
    kinds = {c.name: c.kind for c in STUDENT_TERM.columns}
    assert {kinds[name] for name in MODEL_INPUTS} == {"behavior"}
    assert not set(MODEL_INPUTS) & set(QUASI_IDENTIFIERS)


def test_every_setting_is_documented_in_iom_yaml() -> None:
    text = (PROJECT_ROOT / "iom.yaml").read_text()
    for section, values in yaml.safe_load(text).items():
        for key in values:
            line = next(line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
            assert "#" in line or section in {"clustering", "validation"}, f"{section}.{key}"


def test_every_command_and_source_is_in_the_readme_and_the_other_way_round() -> None:
    commands = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    assert set(re.findall(r"^\| `iom ([a-z]+)", README, flags=re.M)) == commands
    for source in SOURCES:
        assert f"`{source}`" in DATA
