"""The template and the docs describe exactly what landing reads, and an extract filled in from them lands."""

import csv
import json
import re
from datetime import date
from pathlib import Path

import pytest

from iom_platform.extract import SOURCES
from iom_platform.extract.landing import Landing
from iom_platform.extract.oulad import SHAPES
from iom_platform.extract.source import Field
from iom_platform.extract.template import EXAMPLES, TemplateError, describe_shapes, write_files
from iom_platform.extract.values import Problem, judge
from iom_platform.settings import PROJECT_ROOT

DAY = date(2026, 5, 1)
DATA = (PROJECT_ROOT / "docs" / "data.md").read_text()
FIELDS = [pytest.param(f, id=f"{s.name} {f.name}") for s in SHAPES for f in s.fields]


def _listed(text: str) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(file, Required or Optional, [(column, required or optional)]) in the order of a text."""
    parts = re.findall(r"^### (\w+\.csv)\n\n(Required|Optional)\.(.*?)(?=^##|\Z)", text, flags=re.M | re.S)
    return [(name, needed, re.findall(r"^\| `(\w+)` \| (\w+) \|", body, flags=re.M)) for name, needed, body in parts]


def _expected() -> list[tuple[str, str, list[tuple[str, str]]]]:
    return [
        (s.name, "Required" if s.is_required else "Optional", [(f.name, "optional" if f.is_optional else "required") for f in s.fields])
        for s in SHAPES
    ]  # fmt: skip


def test_the_docs_list_every_file_and_column_as_the_code_has_them() -> None:
    assert _listed(DATA) == _expected()
    assert describe_shapes(SHAPES) in DATA, "docs/data.md: make its files and columns anew from describe_shapes"


@pytest.mark.parametrize("field", FIELDS)
def test_a_domain_in_words_names_the_bounds_and_the_words(field: Field) -> None:
    line = next(line for line in describe_shapes(SHAPES).splitlines() if line.startswith(f"| `{field.name}` |"))
    for word in field.allowed:
        assert word in line
    if field.minimum is not None:
        assert f"{field.minimum:g}" in line
    assert line.rstrip("| ").count(" | ") == 5


@pytest.mark.parametrize("field", FIELDS)
def test_an_example_is_what_landing_accepts(field: Field) -> None:
    value = judge(field, EXAMPLES[field.name])
    assert value is not None and not isinstance(value, Problem)


def test_no_example_is_left_over() -> None:
    assert set(EXAMPLES) == {field.name for shape in SHAPES for field in shape.fields}


@pytest.mark.parametrize("source", SOURCES)
def test_the_template_has_a_header_per_file_and_its_readme(tmp_path: Path, source: str) -> None:
    names = write_files(tmp_path / "new", SOURCES[source], delivered_on=DAY)
    assert set(names) == {p.name for p in (tmp_path / "new").iterdir()}
    for shape in SHAPES:
        [header] = csv.reader((tmp_path / "new" / shape.name).read_text().splitlines())
        assert header == [field.name for field in shape.fields]
    assert json.loads((tmp_path / "new" / "delivery.json").read_text()) == {
        "delivered_on": "2026-05-01",
        "scope": "full",
    }
    assert _listed((tmp_path / "new" / "README.md").read_text()) == _expected()
    assert SOURCES[source].open_delivery(tmp_path / "new").notices == ()


def test_the_filled_template_lands_whole(tmp_path: Path) -> None:
    write_files(tmp_path, SOURCES["oulad"], delivered_on=DAY)
    for shape in SHAPES:
        with (tmp_path / shape.name).open("a", newline="") as stream:
            for student in ("s-11391", "s-28400") if "id_student" in {f.name for f in shape.fields} else ("",):
                record = EXAMPLES | ({"id_student": student} if student else {})
                csv.writer(stream).writerow([record[field.name] for field in shape.fields])
    delivery = SOURCES["oulad"].open_delivery(tmp_path)
    landing = Landing(delivery, bytes(range(32)))
    rows = {f.name: [row for batch in landing.read(f) for row in batch.rows.to_pylist()] for f in delivery.files}
    assert {name: (t.loaded, t.quarantined) for name, t in landing.tallies.items()} == {
        shape.name: (2 if "student" in shape.name else 1, 0) for shape in SHAPES
    }
    assert rows["courses.csv"][0]["presentation_starts_on"] == date(2025, 10, 6)
    assert len({row["student_pseudonym"] for row in rows["studentVle.csv"]}) == 2


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TemplateError, match="is not empty, and nothing is overwritten; name another one"):
        write_files(tmp_path, SOURCES["oulad"], delivered_on=DAY)
    with pytest.raises(TemplateError, match="is a file or a link"):
        write_files(tmp_path / "notes.txt", SOURCES["oulad"], delivered_on=DAY)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
