"""The door to Great Expectations: what a broken rule says and never says, and the suites on what really is delivered."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from iom_platform.settings import PROJECT_ROOT
from iom_platform.storage.expectations import SuiteError, SuiteResult, load_suite, suite_columns, suites, validate_frame
from tests.plants import PLANTS, pseudonym, valid_frame

OULAD = Path(os.environ.get("IOM_TEST_DATA", PROJECT_ROOT.parent / "shared" / "data")) / "oulad"
FILES = {
    "courses": "courses", "assessments": "assessments", "vle": "vle", "student_info": "studentInfo",
    "student_registration": "studentRegistration", "student_assessment": "studentAssessment", "student_vle": "studentVle",
}  # fmt: skip


def _suite(*expectations: dict[str, Any]) -> dict[str, Any]:
    return {"name": "raw/anything", "expectations": [{"meta": {"why": "we test it."}, **e} for e in expectations]}


def _rule(kind: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs}


SECRETS = [pseudonym(99_991 * (i + 1) ** 3) for i in range(40)]
FRAME = pd.DataFrame({"student_pseudonym": SECRETS, "score": [876543.21] * 40, "text": ["Zyxwvu Personal"] * 40})
BROKEN = _suite(
    _rule("column_values_to_match_regex", column="student_pseudonym", regex="^x$"),
    _rule("column_values_to_be_unique", column="text"),
    _rule("column_values_to_be_between", column="score", min_value=0, max_value=100),
    _rule("column_values_to_be_between", column="text", min_value=0),
    _rule("column_values_to_not_be_null", column="absent"),
    _rule("column_unique_value_count_to_be_between", column="student_pseudonym", max_value=1),
    _rule("column_sum_to_be_between", column="score", max_value=1),
    _rule("table_row_count_to_be_between", max_value=1),
    _rule("table_columns_to_match_set", column_set=["student_pseudonym", "score", "grade"]),
)


def test_a_broken_rule_is_told_in_a_sentence_in_the_suites_order() -> None:
    result = validate_frame(BROKEN, FRAME)
    assert result == SuiteResult(
        success=False,
        evaluated=9,
        failed=(
            "expect_column_values_to_match_regex of student_pseudonym (regex ^x$): "
            "40 of 40 rows break it (100 %); why: we test it.",
            "expect_column_values_to_be_unique of text: 40 of 40 rows break it (100 %); why: we test it.",
            "expect_column_values_to_be_between of score (min_value 0, max_value 100): "
            "40 of 40 rows break it (100 %); why: we test it.",
            "expect_column_values_to_be_between of text (min_value 0): it could not be evaluated on 40 rows, "
            "so the column's type does not fit the rule; why: we test it.",
            "expect_column_values_to_not_be_null of absent: the frame has no column absent; why: we test it.",
            "expect_column_unique_value_count_to_be_between of student_pseudonym (max_value 1): "
            "the column as a whole breaks it over 40 rows; why: we test it.",
            "expect_column_sum_to_be_between of score (max_value 1): "
            "the column as a whole breaks it over 40 rows; why: we test it.",
            "expect_table_row_count_to_be_between (max_value 1): found 40 rows; why: we test it.",
            "expect_table_columns_to_match_set: missing columns grade, unexpected columns text; why: we test it.",
        ),
    )


def test_no_value_is_told_or_printed(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(0):
        said = " ".join(validate_frame(BROKEN, FRAME).failed)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")
    for value in (*SECRETS, "876543", "Zyxwvu"):
        assert value not in said + caplog.text


def test_the_same_frame_gives_the_same_result_and_stays_as_it_was() -> None:
    before = FRAME.copy()
    assert validate_frame(BROKEN, FRAME) == validate_frame(BROKEN, FRAME)
    pd.testing.assert_frame_equal(FRAME, before)


def test_one_frames_result_does_not_leak_into_the_next() -> None:
    suite = _suite(_rule("column_values_to_be_unique", column="n"))
    results = [validate_frame(suite, pd.DataFrame({"n": n})).success for n in ([1, 1], [1, 2], [1, 1])]
    assert results == [False, True, False]


def test_counts_and_shares_are_those_of_the_rows_that_the_rule_is_about() -> None:
    frame = pd.DataFrame({"level": ["UNKNOWN", "UNKNOWN", "LOW", "LOW"], "score": [0.1, None, 0.5, 0.6]})
    condition = {"type": "comparison", "column": {"name": "level"}, "operator": "==", "parameter": "UNKNOWN"}
    suite = _suite(_rule("column_values_to_be_null", column="score", row_condition=condition))
    (sentence,) = validate_frame(suite, frame).failed
    assert "of score where level == UNKNOWN: 1 of 2 rows break it (50 %)" in sentence
    assert suite_columns(suite) == ("score", "level")


def test_a_suite_with_a_set_of_columns_needs_the_whole_table() -> None:
    assert suite_columns(BROKEN) is None
    assert suite_columns(load_suite("raw/oulad_courses")) == (
        "code_module", "code_presentation", "module_presentation_length",
    )  # fmt: skip


def test_the_types_of_duckdb_and_of_psycopg_are_both_judged() -> None:
    import duckdb

    for path in suites():
        valid = valid_frame(path)
        with duckdb.connect() as con:
            con.register("valid", valid.convert_dtypes())
            fetched = con.execute("select * from valid").df()
        as_objects = valid.astype(object).where(valid.notna(), None)
        for frame in (fetched, as_objects):
            assert validate_frame(load_suite(path), frame).failed == (), path
            assert not validate_frame(load_suite(path), PLANTS[path](frame)).success, path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("[]", "no name or no expectations"),
        ('{"name": "x", "expectations": []}', "no name or no expectations"),
        ('{"name": "x", "expectations": [{"type": "t", "kwargs": {}, "meta": {}}]}', "expectation 1 lacks type, kwargs or meta.why"),
        (
            '{"name": "x", "expectations": [{"type": "t", "kwargs": {"row_condition": "a == 1"}, "meta": {"why": "w"}}]}',
            "row_condition that is no comparison",
        ),
    ],
)  # fmt: skip
def test_a_wrong_suite_file_names_its_place(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "table.json"
    file.write_text(text)
    with pytest.raises(SuiteError, match=message) as raised:
        load_suite(file)
    assert str(file) in str(raised.value)


def test_a_table_without_a_suite_is_told_the_ones_that_exist() -> None:
    with pytest.raises(SuiteError, match=r"raw/absent\.json does not exist.*raw/oulad_courses"):
        load_suite("raw/absent")


@pytest.mark.parametrize(
    "rule",
    [
        _rule("column_to_be_lucky", column="n"),
        _rule("column_values_to_be_between", column="n", min_valeu=0),
        _rule("column_values_to_be_between", column="n", mostly=7),
    ],
)
def test_a_rule_that_the_library_would_drop_in_silence_is_an_error(rule: dict[str, Any]) -> None:
    good = _rule("column_values_to_not_be_null", column="n")
    with pytest.raises(SuiteError, match=f"suite raw/anything expectation 2, {rule['type']}"):
        validate_frame(_suite(good, rule), pd.DataFrame({"n": [1]}))


def test_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert not validate_frame(BROKEN, FRAME).success


def test_the_library_is_not_imported_before_a_suite_runs() -> None:
    code = (
        "import sys; from iom_platform.storage.expectations import load_suite, suites; [load_suite(p) for p in suites()]; "
        "print([m for m in ('great_expectations', 'pandas') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.skipif(
    not OULAD.is_dir(), reason=f"no OULAD in {OULAD}; set IOM_TEST_DATA to the folder that holds oulad/"
)
@pytest.mark.parametrize("name", FILES)
def test_a_suite_accepts_what_oulad_really_delivers(name: str) -> None:
    frame = pd.read_csv(OULAD / f"{FILES[name]}.csv", na_values=["?"], keep_default_na=False)
    if "id_student" in frame:
        frame["student_pseudonym"] = frame["id_student"].map(pseudonym)
    suite = load_suite(f"raw/oulad_{name}")
    columns = suite_columns(suite)
    assert columns is not None
    assert validate_frame(suite, frame[list(columns)].drop_duplicates()).failed == ()
