"""Promotions and lineage in the record, on a real server: which version scores a day, and which does no longer."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pandas as pd
import psycopg2
import pytest

from iom_platform.settings import Settings
from iom_platform.storage import promotions, record
from iom_platform.storage.postgres_server import ensure_server
from iom_platform.storage.record import RecordError, prepare_record
from iom_platform.storage.rows import shape_rows
from iom_platform.tables import ASSIGNMENTS, LINEAGE, PROMOTIONS, STUDENT_RISK
from tests.plants import valid_frame

DAY = date(2013, 12, 16)
EARLIER = date(2013, 5, 15)
AT = datetime(2014, 1, 1, tzinfo=UTC)
UID = "c-0a1b2c3d"


@pytest.fixture
def conn(settings: Settings) -> Iterator[record.Connection]:
    """A connection to empty tables, whose work is undone after the test."""
    prepare_record(settings)
    with contextlib.closing(psycopg2.connect(ensure_server(settings).url("iom"))) as connection:
        with connection.cursor() as cursor:
            for table in (STUDENT_RISK, ASSIGNMENTS, LINEAGE, PROMOTIONS):
                cursor.execute(f"DELETE FROM {table.sql_name}")
        yield connection
        connection.rollback()


def promotion(version: int, trained: date, **changes: Any) -> dict[str, Any]:
    row = {
        "model_name": "m", "model_version": version, "algorithm": "kmeans", "trained_as_of": trained,
        "fit_key": f"key {version}", "reason": "first", "mlflow_run_id": "r", "promoted_at": AT,
    }  # fmt: skip
    return row | changes


def champion(conn: record.Connection, day: date) -> int | None:
    return (promotions.champion_for(conn, "m", day) or {}).get("model_version")


def test_the_champion_of_a_day_was_trained_by_then(conn: record.Connection) -> None:
    for version, trained in ((1, EARLIER), (2, DAY), (3, DAY), (4, date(2014, 2, 1))):
        promotions.save_promotion(conn, promotion(version, trained))
    promotions.save_promotion(conn, promotion(9, EARLIER, model_name="other"))
    assert champion(conn, date(2013, 5, 14)) is None
    assert {day: champion(conn, day) for day in (EARLIER, DAY)} == {EARLIER: 1, DAY: 3}
    assert [row["model_version"] for row in promotions.read_promotions(conn, "m")] == [4, 3, 2, 1]


def test_a_promotion_is_saved_once(conn: record.Connection) -> None:
    promotions.save_promotion(conn, promotion(1, DAY))
    promotions.save_promotion(conn, promotion(1, DAY, mlflow_run_id="again"))
    found = promotions.find_promotion(conn, "m", 1)
    assert found is not None and found["mlflow_run_id"] == "r"
    assert promotions.find_promotion(conn, "m", 2) is None
    with pytest.raises(RecordError, match="version 1 of m is already promoted with another fit key"):
        promotions.save_promotion(conn, promotion(1, DAY, fit_key="other"))
    with pytest.raises(RecordError, match="exactly the columns"):
        promotions.save_promotion(conn, {"model_name": "m"})


def test_what_is_withdrawn_scores_nothing_until_it_is_reinstated(conn: record.Connection) -> None:
    for version, trained in ((1, EARLIER), (2, DAY), (3, DAY)):
        promotions.save_promotion(conn, promotion(version, trained))
    promotions.save_promotion(conn, promotion(3, DAY, model_name="other"))
    promotions.withdraw_promotions(conn, "m", [3, 2], because="too many flags", at=AT)
    assert promotions.champion_for(conn, "other", DAY) is not None
    promotions.withdraw_promotions(conn, "m", [3], because="again", at=AT)
    assert champion(conn, DAY) == 1
    found = promotions.find_promotion(conn, "m", 3)
    assert found is not None and (found["withdrawn_because"], found["reason"]) == ("too many flags", "first")
    promotions.reinstate_promotion(conn, "m", 2, reason="it was right")
    promotions.reinstate_promotion(conn, "m", 1, reason="not withdrawn")
    assert champion(conn, DAY) == 2
    assert [row["reason"] for row in promotions.read_promotions(conn, "m")] == ["first", "it was right", "first"]


def test_days_of_another_version_than_the_champion_are_found(conn: record.Connection) -> None:
    for version, trained in ((1, EARLIER), (2, DAY)):
        promotions.save_promotion(conn, promotion(version, trained, model_name="n"))
    assigned = valid_frame(ASSIGNMENTS.path, 3).assign(model_name="n")
    for day, version in ((EARLIER, 1), (DAY, 2)):
        record.replace_partition(conn, ASSIGNMENTS, day, assigned.assign(as_of_on=day, model_version=version))
    assert promotions.days_of_others(conn, "n") == []
    promotions.withdraw_promotions(conn, "n", [2], because="x", at=AT)
    assert promotions.days_of_others(conn, "n") == [DAY]


def test_a_day_is_found_by_its_levels_alone_and_one_that_nothing_assigned_too(conn: record.Connection) -> None:
    for version in (1, 2):
        promotions.save_promotion(conn, promotion(version, EARLIER, model_name="o"))
    promotions.withdraw_promotions(conn, "o", [2], because="x", at=AT)
    risk = valid_frame(STUDENT_RISK.path, 5)
    scored = risk["risk_level"] != "UNKNOWN"
    for day, rows in ((EARLIER, risk[scored].assign(model_name="o", model_version=2)), (DAY, risk[~scored])):
        record.replace_partition(conn, STUDENT_RISK, day, rows.assign(as_of_on=day, is_observed=True))
    assert promotions.days_of_others(conn, "o") == [EARLIER, DAY]


def test_one_transaction_changes_promotions_at_a_time(conn: record.Connection, settings: Settings) -> None:
    promotions.lock_promotions(conn)
    with contextlib.closing(psycopg2.connect(ensure_server(settings).url("iom"))) as other, other.cursor() as cursor:
        cursor.execute("SET lock_timeout = '200ms'")
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            promotions.lock_promotions(other)


def lineage(version: int = 2, **changes: Any) -> pd.DataFrame:
    row = {
        "model_name": "m", "model_version": version, "cluster_uid": UID, "change": "same", "cluster": 3, "name": "steady",
        "from_uid": UID, "into_uid": None, "former_version": version - 1, "overlap": 0.9, "center_distance": 0.1, "share": 0.2,
    }  # fmt: skip
    return pd.DataFrame([row | changes])


def test_a_lineage_is_saved_once_and_read_by_version(conn: record.Connection) -> None:
    for number in (1, 2, 3):
        promotions.save_promotion(conn, promotion(number, DAY))
    for number in (2, 3):
        promotions.save_lineage(conn, lineage(number))
    promotions.save_lineage(conn, lineage(2, name="another"))
    assert shape_rows(LINEAGE, promotions.read_lineage(conn, "m", 2)).equals(shape_rows(LINEAGE, lineage(2)))
    assert promotions.read_lineage(conn, "m", 3)["former_version"].tolist() == [2]
    assert promotions.read_lineage(conn, "m", 4).empty and promotions.read_lineage(conn, "other", 2).empty


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster_uid": "2", "from_uid": "2"},
        {"change": "moved"},
        {"cluster": None},
        {"change": "died", "from_uid": None},
        {"from_uid": None},
        {"from_uid": "c-4e5f6071"},
        {"change": "split"},
        {"change": "merged", "cluster": None, "from_uid": None},
        {"into_uid": "c-4e5f6071"},
        {"overlap": 1.1},
        {"center_distance": -0.1},
        {"share": 2},
    ],
)
def test_a_lineage_that_contradicts_itself_is_refused(conn: record.Connection, changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match=r"clustering/lineage refuses rows that break lineage_.*check"):
        promotions.save_lineage(conn, lineage(**changes))
