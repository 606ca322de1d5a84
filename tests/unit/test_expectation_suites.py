"""The suites under `expectations/`: each is of a known table, says why, lets a valid frame pass, and can fail in every rule."""

from pathlib import Path
from typing import Any

import pytest

from iom_platform.privacy.kanonymity import GENERALIZED, HIERARCHIES, SUPPRESSED, UNKNOWN
from iom_platform.storage.expectations import (
    describe_expectation,
    expectation_columns,
    load_suite,
    suite_columns,
    suites,
    validate_frame,
)
from iom_platform.tables import OULAD_TABLES, find_table
from tests.plants import PLANTS, break_expectation, valid_frame

SUITES = suites()
LOADED = {path: load_suite(path) for path in SUITES}
EXPECTATIONS = [
    pytest.param(path, e, id=f"{path}: {describe_expectation(e)}")
    for path, s in LOADED.items()
    for e in s["expectations"]
]
OF_LEARNERS = (
    "raw/learner_summary", "anonymized/learner_summary", "clustering/learner_clusters", "clustering/learner_profiles",
)  # fmt: skip
GUARDED = {t.path for t in OULAD_TABLES} | {
    "features/student_term", "anonymized/student_term", "anonymized/student_outcome",
    "anonymized/student_week", "clustering/assignments", "risk/student_risk", *OF_LEARNERS,
}  # fmt: skip


def test_every_guarded_table_has_a_suite() -> None:
    assert set(SUITES) == GUARDED


def test_every_suite_has_a_plant() -> None:
    assert set(PLANTS) == set(SUITES)


@pytest.mark.parametrize("path", SUITES)
def test_a_suite_is_named_by_its_path_and_its_table(path: str) -> None:
    assert LOADED[path]["name"] == path == find_table(path).path
    assert SUITES[path] == Path(SUITES[path].parents[1], *path.split("/")).with_suffix(".json")


@pytest.mark.parametrize(("path", "expectation"), EXPECTATIONS)
def test_an_expectation_reads_columns_of_its_table(path: str, expectation: dict[str, Any]) -> None:
    assert set(expectation_columns(expectation)) <= set(find_table(path).column_names)


@pytest.mark.parametrize("path", SUITES)
def test_no_expectation_stands_twice(path: str) -> None:
    described = [describe_expectation(e) for e in LOADED[path]["expectations"]]
    assert len(described) == len(set(described))


@pytest.mark.parametrize("path", SUITES)
def test_a_valid_frame_passes(path: str) -> None:
    result = validate_frame(LOADED[path], valid_frame(path))
    assert result.failed == ()
    assert result.success
    assert result.evaluated == len(LOADED[path]["expectations"])


@pytest.mark.parametrize("path", SUITES)
def test_the_plant_turns_its_suite_red(path: str) -> None:
    assert not validate_frame(LOADED[path], PLANTS[path](valid_frame(path))).success


@pytest.mark.parametrize(("path", "expectation"), EXPECTATIONS)
def test_every_expectation_can_fail(path: str, expectation: dict[str, Any]) -> None:
    alone = {"name": path, "expectations": [expectation]}
    frame = valid_frame(path)
    plants = list(break_expectation(expectation, frame))
    assert plants
    for done, planted in plants:
        (sentence,) = validate_frame(alone, planted).failed or ("",)
        assert sentence.startswith(describe_expectation(expectation)), f"{done} was not seen"
        assert "could not be evaluated" not in sentence, f"{done} broke the engine, not the rule"


@pytest.mark.parametrize("value", [None, "25"], ids=["missing", "not British"])
def test_no_delivery_is_refused_for_its_demographics(value: str | None) -> None:
    frame = valid_frame("raw/oulad_student_info").assign(**dict.fromkeys(GENERALIZED, value), disability=None)
    assert validate_frame(LOADED["raw/oulad_student_info"], frame).failed == ()


@pytest.mark.parametrize("path", [t.path for t in OULAD_TABLES])
def test_optional_files_may_be_absent_and_required_ones_not(path: str) -> None:
    required = path.removeprefix("raw/oulad_") in ("courses", "student_info", "student_registration")
    assert validate_frame(LOADED[path], valid_frame(path).iloc[:0]).success is not required


def test_a_summary_of_nobody_is_refused() -> None:
    assert not validate_frame(LOADED["raw/learner_summary"], valid_frame("raw/learner_summary").iloc[:0]).success


@pytest.mark.parametrize("path", sorted(path for path in GUARDED if not path.startswith("raw/")))
def test_a_day_without_rows_passes(path: str) -> None:
    assert validate_frame(LOADED[path], valid_frame(path).iloc[:0]).success


def test_the_click_suite_holds_on_distinct_tuples() -> None:
    """The caller passes distinct tuples of few columns, since the table is big: a rule that counts rows would lie."""
    suite = LOADED["raw/oulad_student_vle"]
    columns = suite_columns(suite)
    assert columns is not None
    assert not {"student_pseudonym", "id_site", "file_row"} & set(columns)
    assert all(e["type"].startswith("expect_column_values_to_") for e in suite["expectations"])
    assert not any("mostly" in e["kwargs"] or e["type"].endswith("_unique") for e in suite["expectations"])


@pytest.mark.parametrize("path", OF_LEARNERS[:3])
def test_a_suite_of_learners_holds_on_rows_that_stand_for_all(path: str) -> None:
    """Of millions of rows the suite is given least and greatest values, nulls and shapes: a rule that counts would lie."""
    types = {e["type"] for e in LOADED[path]["expectations"] if not e["type"].startswith("expect_table_")}
    assert types <= {
        "expect_column_values_to_not_be_null", "expect_column_values_to_be_between", "expect_column_values_to_match_regex",
        "expect_column_unique_value_count_to_be_between",  # of the day, whose least and greatest are among them
    }  # fmt: skip
    assert not any("mostly" in e["kwargs"] for e in LOADED[path]["expectations"])


def test_the_wall_lists_its_columns_and_disability_is_none_of_them() -> None:
    (columns,) = [
        e["kwargs"]["column_set"]
        for e in LOADED["anonymized/student_term"]["expectations"]
        if "column_set" in e["kwargs"]
    ]
    assert set(columns) == set(find_table("anonymized/student_term").column_names)
    assert "disability" not in columns


@pytest.mark.parametrize("name", GENERALIZED)
def test_the_wall_lets_only_the_hierarchies_words_pass(name: str) -> None:
    words = {word for names in HIERARCHIES[name].values() for word in names} | {SUPPRESSED, UNKNOWN}
    allowed = [
        set(e["kwargs"]["value_set"])
        for e in LOADED["anonymized/student_term"]["expectations"]
        if e["kwargs"].get("column") == name and "value_set" in e["kwargs"] and "row_condition" not in e["kwargs"]
    ]
    assert allowed == [words]
