"""Every model and column of the dbt project is documented beside its SQL, and the features are the contract of tables.py.

Reads files only; what the models compute is tested in tests/integration/test_feature_models.py.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from iom_platform import tables
from iom_platform.settings import PROJECT_ROOT

PROJECT = PROJECT_ROOT / "dbt_project"
MODELS = PROJECT / "models"
MANIFEST = PROJECT / "target" / "manifest.json"
TYPES = {"text": "text", "int": "integer", "bigint": "bigint", "float": "double precision", "bool": "boolean",
         "date": "date", "timestamp": "timestamp"}  # fmt: skip
FEATURES = [t for t in tables.TABLES if t.stage == "features"]


def read_model(sql: Path) -> dict[str, Any]:
    """The entry of the yml beside a model; an empty one where the yml or its entry is missing."""
    yml = sql.with_suffix(".yml")
    entries = yaml.safe_load(yml.read_text()).get("models", []) if yml.exists() else []
    return next((entry for entry in entries if entry["name"] == sql.stem), {})


def find_gaps(model: dict[str, Any]) -> list[str]:
    """What is undocumented in a model's or a source table's entry."""
    gaps = [] if str(model.get("description") or "").strip() else ["the table itself"]
    columns = model.get("columns") or []
    gaps += [] if columns else ["every column"]
    return gaps + [c["name"] for c in columns if not str(c.get("description") or "").strip()]


def find_models() -> list[Path]:
    return sorted(MODELS.rglob("*.sql"))


@pytest.mark.parametrize("sql", find_models(), ids=lambda sql: sql.stem)
def test_every_model_and_column_is_documented_beside_its_sql(sql: Path) -> None:
    model = read_model(sql)
    assert model, f"{sql.stem} has no entry in {sql.stem}.yml beside it"
    assert find_gaps(model) == []
    assert sql.stem.startswith(
        {"staging": "stg_", "intermediate": "int_", "features": "student_"}[sql.relative_to(MODELS).parts[0]]
    )


def test_the_gate_sees_a_gap() -> None:
    assert find_gaps({"description": "", "columns": [{"name": "a", "description": "A."}, {"name": "b"}]}) == [
        "the table itself",
        "b",
    ]
    assert find_gaps({"description": "A."}) == ["every column"]
    assert read_model(MODELS / "features" / "student_unwritten.sql") == {}


def test_no_yml_describes_a_model_that_is_gone() -> None:
    models = {sql.stem for sql in find_models()}
    for yml in MODELS.rglob("*.yml"):
        for entry in yaml.safe_load(yml.read_text()).get("models", []):
            assert entry["name"] in models and entry["name"] == yml.stem, f"{yml.name} describes {entry['name']}"


@pytest.mark.parametrize("table", FEATURES, ids=lambda table: table.name)
def test_the_contract_of_a_feature_model_is_that_of_tables_py(table: tables.Table) -> None:
    columns = read_model(MODELS / "features" / f"{table.name}.sql")["columns"]
    contract = [(c["name"], c["data_type"], {"type": "not_null"} in c.get("constraints", [])) for c in columns]
    assert contract == [(c.name, TYPES[c.dtype], not c.nullable) for c in table.columns]


def test_feature_contracts_are_enforced() -> None:
    project = yaml.safe_load((PROJECT / "dbt_project.yml").read_text())
    assert project["models"]["iom_platform"]["features"]["+contract"] == {"enforced": True}
    assert project["flags"]["send_anonymous_usage_stats"] is False


def test_sources_are_the_raw_tables_that_models_read_and_each_has_a_test() -> None:
    (source,) = yaml.safe_load((MODELS / "sources.yml").read_text())["sources"]
    unread = (tables.FILES, tables.QUARANTINE, tables.LEARNER_SUMMARY)
    raw = {t.name: t for t in tables.TABLES if t.stage == "raw" and t not in unread}
    assert [t["name"] for t in source["tables"]] == list(raw)
    for entry in source["tables"]:
        assert find_gaps(entry) == [], entry["name"]
        assert [c["name"] for c in entry["columns"]] == list(raw[entry["name"]].column_names)
        assert entry.get("data_tests") or any(c.get("data_tests") for c in entry["columns"]), (
            f"{entry['name']} has no test"
        )


def test_words_of_activity_are_those_of_tables_py() -> None:
    macros = (PROJECT / "macros" / "activity.sql").read_text()
    groups = [macros.index(f"'{word}': ") for word in tables.ACTIVITY_GROUPS]
    periods = [macros.index(f"'{word}': ") for word in tables.DAY_PERIODS]
    assert groups == sorted(groups) and periods == sorted(periods)
    assert macros.count("': [") == len(groups) and macros.count("': (") == len(periods)


def test_a_built_manifest_documents_the_columns_of_every_model() -> None:
    if not MANIFEST.exists():
        pytest.skip("dbt_project/target/manifest.json is not there; `dbt parse` in dbt_project/ makes it")
    nodes = json.loads(MANIFEST.read_text())["nodes"].values()
    models = [n for n in nodes if n["resource_type"] == "model"]
    assert models
    assert {n["name"]: find_gaps({**n, "columns": list(n["columns"].values())}) for n in models} == {
        n["name"]: [] for n in models
    }
