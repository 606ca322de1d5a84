"""One name everywhere: tables, expectations, docs, settings, commands, sources."""

import dataclasses
import re
from collections.abc import Iterable

import pytest
import yaml

from iom_platform.cli import app
from iom_platform.clustering.algorithms import ALGORITHMS
from iom_platform.extract import SOURCES
from iom_platform.settings import PROJECT_ROOT
from iom_platform.storage.access import BY_OWNING, RIGHTS
from iom_platform.storage.expectations import suites
from iom_platform.tables import (
    ANONYMIZED_STUDENT_TERM,
    LEARNER_SOURCE,
    MODEL_INPUTS,
    QUASI_IDENTIFIERS,
    STUDENT_TERM,
    TABLES,
    Column,
    Table,
)

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


def test_the_page_on_models_describes_every_input_as_the_code_does() -> None:
    docs = {c.name: c.doc for c in ANONYMIZED_STUDENT_TERM.columns}
    shown = re.findall(r"^\| `(\w+)` \| (.*) \|$", (PROJECT_ROOT / "docs" / "models.md").read_text(), flags=re.M)
    assert shown == [(name, docs[name]) for name in MODEL_INPUTS]


def test_the_page_on_models_tells_knobs_and_limit_of_every_algorithm() -> None:
    page = (PROJECT_ROOT / "docs" / "models.md").read_text()
    rows = re.findall(r"^\| [\w -]+, `(\w+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \|", page, flags=re.M)
    wanted = []
    for name, entry in ALGORITHMS.items():
        limit = f"{entry.max_rows:,} rows" if entry.max_rows else "all rows"
        wanted.append((name, {knob for knob in entry.knobs if knob != "seed"}, limit))
    assert [(name, set(re.findall(r"\w+", knobs)), limit) for name, knobs, limit in rows] == wanted


def test_the_page_on_access_tells_every_role_and_right() -> None:
    page = (PROJECT_ROOT / "docs" / "access.md").read_text()
    wanted = []
    for role, on in (RIGHTS | BY_OWNING).items():  # type: ignore[operator]
        alike: dict[tuple[str, ...], list[str]] = {}
        for path, verbs in on.items():
            alike.setdefault(verbs, []).append(f"`{path}`")
        wanted.append((role, "; ".join(f"{', '.join(paths)}: {', '.join(verbs)}" for verbs, paths in alike.items())))
    assert re.findall(r"^\| `(\w+)` \| (.*) \|$", page, flags=re.M) == wanted


def _ungeneralized(tables: Iterable[Table]) -> set[str]:
    """Columns past the wall that are quasi-identifiers somewhere, under whatever kind, and have no generalized form."""
    quasi = {c.name for t in TABLES for c in t.columns if c.kind == "quasi"} - set(QUASI_IDENTIFIERS)
    beyond = [t for t in tables if t.stage not in ("raw", "features")]
    return {f"{t.path}.{name}" for t in beyond for name in quasi & set(t.column_names)}


def test_no_quasi_identifier_passes_the_wall_but_the_generalized_ones() -> None:
    assert _ungeneralized(TABLES) == set()


@pytest.mark.parametrize(
    "fact",
    ["registration_lead_days", "num_of_prev_attempts", "studied_credits", "date_registration", "date_unregistration"],
)
def test_a_fact_of_the_registrar_past_the_wall_is_seen(fact: str) -> None:
    columns = (*ANONYMIZED_STUDENT_TERM.columns, Column(fact, "int", "behavior", "A plant."))
    planted = dataclasses.replace(ANONYMIZED_STUDENT_TERM, columns=columns)
    assert _ungeneralized([planted]) == {f"anonymized/student_term.{fact}"}


def test_every_setting_is_documented_in_iom_yaml() -> None:
    text = (PROJECT_ROOT / "iom.yaml").read_text()
    for section, values in yaml.safe_load(text).items():
        for key in values if isinstance(values, dict) else [section]:
            line = next(line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
            assert "#" in line or section in {"clustering", "validation"}, f"{section}.{key}"


def test_every_command_and_source_is_in_the_readme_and_the_other_way_round() -> None:
    commands = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    commands |= {group.name for group in app.registered_groups if group.name}
    assert set(re.findall(r"^\| `iom ([a-z]+)", README, flags=re.M)) == commands
    for source in (*SOURCES, LEARNER_SOURCE):
        assert f"`{source}`" in DATA
