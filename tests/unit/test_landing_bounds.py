"""Landing, the raw suites and dbt's source tests say the same of a value: what landing accepts turns no dbt test red."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from iom_platform.extract.oulad import SHAPES
from iom_platform.extract.source import Field, FileShape
from iom_platform.settings import PROJECT_ROOT
from iom_platform.storage.expectations import load_suite

SHAPE_OF = {shape.table.name: shape for shape in SHAPES}
(_SOURCE,) = yaml.safe_load((PROJECT_ROOT / "dbt_project" / "models" / "sources.yml").read_text())["sources"]
TABLES = [table for table in _SOURCE["tables"] if table["name"] in SHAPE_OF]
ACCEPTED = {"where": "delivery_id in (select delivery_id from raw.deliveries where is_accepted)"}


def _tests() -> Iterator[Any]:
    """(table, column or none, name of the test, its settings) for every source test of a delivered file."""
    for table in TABLES:
        for name, entry in [(None, table), *((column["name"], column) for column in table["columns"])]:
            for test in entry.get("data_tests", ()):
                ((kind, settings),) = test.items() if isinstance(test, dict) else [(test, {})]
                yield pytest.param(table["name"], name, kind, settings, id=f"{table['name']}.{name} {kind}")


def _field(shape: FileShape, column: str) -> Field:
    (field,) = (f for f in shape.fields if f.column.name == column)
    return field


def is_within(field: Field, lowest: float | None, highest: float | None) -> bool:
    """Whether every value that landing lets into the field lies in [lowest, highest]."""
    is_above = lowest is None or (field.minimum is not None and field.minimum >= lowest)
    is_below = highest is None or (field.maximum is not None and field.maximum <= highest)
    return is_above and is_below


def test_every_delivered_file_is_a_source() -> None:
    assert [table["name"] for table in TABLES] == list(SHAPE_OF)


@pytest.mark.parametrize(("table", "column", "kind", "settings"), [*_tests()])
def test_what_landing_accepts_passes_the_source_test(
    table: str, column: str | None, kind: str, settings: dict[str, Any]
) -> None:
    shape, arguments = SHAPE_OF[table], settings.get("arguments", {})
    if column is None:
        assert kind == "is_unique_together", f"say here how landing ensures {kind}"
        assert arguments["columns"] == ["delivery_id", *shape.table.key]
        return
    field = _field(shape, column)
    if kind == "not_null":
        assert not field.column.nullable
    elif kind == "accepted_values":
        assert field.allowed and set(field.allowed) <= set(arguments["values"])
    else:
        assert kind == "is_between", f"say here how landing ensures {kind}"
        assert is_within(field, arguments.get("lowest"), arguments.get("highest"))


@pytest.mark.parametrize(("table", "column", "kind", "settings"), [*_tests()])
def test_a_source_test_reads_accepted_deliveries_alone(
    table: str, column: str | None, kind: str, settings: dict[str, Any]
) -> None:
    assert settings.get("config") == ACCEPTED


@pytest.mark.parametrize("table", SHAPE_OF)
def test_no_suite_is_wider_than_landing(table: str) -> None:
    """A rule of a suite that allows what landing quarantines could never fail."""
    for expectation in load_suite(f"raw/{table}")["expectations"]:
        kwargs = expectation["kwargs"]
        if expectation["type"] == "expect_column_values_to_be_between":
            field = _field(SHAPE_OF[table], kwargs["column"])
            assert field.minimum is None or kwargs["min_value"] >= field.minimum, field.name
            assert field.maximum is None or kwargs["max_value"] <= field.maximum, field.name
        elif expectation["type"] == "expect_column_values_to_be_in_set":
            assert set(kwargs["value_set"]) == set(_field(SHAPE_OF[table], kwargs["column"]).allowed)


def test_a_looser_landing_is_seen() -> None:
    clicks = _field(SHAPE_OF["oulad_student_vle"], "sum_click")
    assert is_within(clicks, 1, None)
    assert not is_within(clicks, 2, None) and not is_within(clicks, 1, 10)
