"""The learner tables of the warehouse: rows keep the order of their file, and few rows stand for all before a suite."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from iom_platform.extract.landing import build_rows
from iom_platform.privacy.pseudonyms import PSEUDONYM_LENGTH
from iom_platform.storage.duckdb_session import DuckdbSession
from iom_platform.storage.expectations import load_suite, validate_frame
from iom_platform.storage.learner_rows import count_repeated, cover_rows, read_in_order, release_learners
from iom_platform.storage.session import Session
from iom_platform.storage.warehouse import append_rows, prepare_warehouse
from iom_platform.tables import ANONYMIZED_LEARNER_SUMMARY, LEARNER_FEATURES, LEARNER_SUMMARY

DAY = date(2026, 11, 2)
SUITE = load_suite("anonymized/learner_summary")


@pytest.fixture
def con() -> Iterator[Session]:
    """As `open_warehouse` configures it."""
    with duckdb.connect(config={"preserve_insertion_order": False, "threads": 4}) as connection:
        con = DuckdbSession(connection)
        prepare_warehouse(con)
        yield con


def _pseudonyms(rows: int) -> np.ndarray:
    """(rows,) distinct ones, whose order is not that of their numbers."""
    codes = (np.arange(rows)[:, None] >> 3 * np.arange(PSEUDONYM_LENGTH)) & 31
    return (
        np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", "S1")[codes].view(f"S{PSEUDONYM_LENGTH}").astype("U").ravel()
    )


def _land(con: Session, rows: int, **columns: Any) -> None:
    arrays = {
        "file_row": pa.array(np.arange(1, rows + 1)),
        "student_pseudonym": pa.array(_pseudonyms(rows)),
        **{name: pa.array(np.arange(rows) % 97 / 1.0) for name in LEARNER_FEATURES},
        **{name: pa.array(values) for name, values in columns.items()},
    }
    trace = {"source": "learner_summary", "delivery_id": "d", "file_name": "learners.csv"}
    append_rows(con, LEARNER_SUMMARY, build_rows(LEARNER_SUMMARY, trace, arrays, rows))


def test_rows_pass_the_wall_and_are_read_in_the_order_of_the_file(con: Session) -> None:
    """More rows than a row group, which several threads write and read."""
    rows = 300_000
    _land(con, rows, file_row=np.random.default_rng(3).permutation(rows) + 1, time_spent=np.arange(rows) / 1.0)
    before = con.frame("SELECT time_spent FROM raw.learner_summary ORDER BY file_row")["time_spent"].to_numpy()
    for _ in range(2):
        release_learners(con, "d", DAY)
    read = [batch.column(0).to_numpy() for batch in read_in_order(con, DAY, ("time_spent",))]
    assert len(read) > 2
    np.testing.assert_array_equal(np.concatenate(read), before)


def test_the_warehouse_can_be_written_while_it_is_read(con: Session) -> None:
    _land(con, 300_000)
    release_learners(con, "d", DAY)
    with con.transaction():
        for batch in read_in_order(con, DAY, ("student_pseudonym",)):
            con.execute("CREATE OR REPLACE TABLE seen AS SELECT ? AS n", [len(batch)])
    assert con.execute("SELECT n FROM seen").fetchall()[0][0] > 0


def test_nobody_takes_the_place_of_a_day(con: Session) -> None:
    _land(con, 7)
    release_learners(con, "d", DAY)
    release_learners(con, "d", date(2026, 11, 3))
    release_learners(con, None, DAY)
    assert count_repeated(con, ANONYMIZED_LEARNER_SUMMARY, "as_of_on", DAY) == (0, 0)
    assert count_repeated(con, ANONYMIZED_LEARNER_SUMMARY, "as_of_on", date(2026, 11, 3)) == (7, 0)
    assert cover_rows(con, ANONYMIZED_LEARNER_SUMMARY, "as_of_on", DAY).empty


def test_a_learner_with_two_rows_is_counted(con: Session) -> None:
    _land(con, 7)
    release_learners(con, "d", DAY)
    con.execute("INSERT INTO anonymized.learner_summary SELECT * FROM anonymized.learner_summary LIMIT 2")
    assert count_repeated(con, ANONYMIZED_LEARNER_SUMMARY, "as_of_on", DAY) == (9, 2)


def test_few_rows_stand_for_all_and_none_of_them_is_somebody_s(con: Session) -> None:
    _land(con, 3000)
    release_learners(con, "d", DAY)
    frame = cover_rows(con, ANONYMIZED_LEARNER_SUMMARY, "as_of_on", DAY)
    assert len(frame) == 2
    assert validate_frame(SUITE, frame).failed == ()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("time_spent = -1", "between of time_spent"),
        ("time_spent = 1.7e12", "between of time_spent"),
        ("accuracy = 100.5", "between of accuracy"),
        ("avg_score = 'nan'", "null of avg_score"),
        ("topic_progress = NULL", "null of topic_progress"),
        ("student_pseudonym = 'L00000007'", "regex of student_pseudonym"),
        ("student_pseudonym = 'aaaaaaaaaaaaaaa'", "regex of student_pseudonym"),
        ("student_pseudonym = 'l' || student_pseudonym[2:15] || '0'", "regex of student_pseudonym"),
        ("student_pseudonym = NULL", "null of student_pseudonym"),
    ],
)
def test_one_bad_row_of_many_turns_the_suite_red(con: Session, change: str, rule: str) -> None:
    _land(con, 3000)
    release_learners(con, "d", DAY)
    for name in ANONYMIZED_LEARNER_SUMMARY.column_names:
        con.execute(f"ALTER TABLE anonymized.learner_summary ALTER {name} DROP NOT NULL")
    con.execute(
        f"UPDATE anonymized.learner_summary SET {change} WHERE student_pseudonym = ?", [str(_pseudonyms(3000)[1234])]
    )
    [sentence] = validate_frame(SUITE, cover_rows(con, ANONYMIZED_LEARNER_SUMMARY, "as_of_on", DAY)).failed
    assert rule in sentence


def test_a_column_that_has_no_business_past_the_wall_is_seen(con: Session) -> None:
    _land(con, 7)
    release_learners(con, "d", DAY)
    con.execute("ALTER TABLE anonymized.learner_summary ADD COLUMN file_row BIGINT")
    [sentence] = validate_frame(SUITE, cover_rows(con, ANONYMIZED_LEARNER_SUMMARY, "as_of_on", DAY)).failed
    assert "unexpected columns file_row" in sentence


def test_ids_in_place_of_all_pseudonyms_are_seen(con: Session) -> None:
    """More shapes than are looked at, for digits that no pseudonym has differ from row to row."""
    _land(con, 3000, student_pseudonym=[f"{i:016}" for i in range(3000)])
    release_learners(con, "d", DAY)
    frame = cover_rows(con, ANONYMIZED_LEARNER_SUMMARY, "as_of_on", DAY)
    assert len(validate_frame(SUITE, frame).failed) == 1
