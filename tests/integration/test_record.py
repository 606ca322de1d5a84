"""The record on a real server: tables as declared, partitions, the identity map and its audit."""

import contextlib
import dataclasses
import getpass
import threading
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psycopg2
import pyarrow as pa
import pytest

from iom_platform.settings import Settings
from iom_platform.storage import record
from iom_platform.storage.access import AccessError
from iom_platform.storage.champion import read_champion
from iom_platform.storage.postgres_server import Server, ensure_server
from iom_platform.storage.promotions import save_promotion
from iom_platform.storage.record import NotAllowed, RecordError, open_record, prepare_record
from iom_platform.storage.rows import RowsError, hash_rows, shape_rows
from iom_platform.tables import ASSIGNMENTS, PROMOTIONS, STUDENT_RISK
from tests.plants import promotion_row, valid_frame

DAY = date(2013, 12, 16)
EARLIER = date(2013, 5, 15)
UID = "c-0a1b2c3d"
MODEL = "of_test_record"


@pytest.fixture(scope="module")
def prepared(settings: Settings) -> Settings:
    prepare_record(settings)
    _promote(settings)
    return settings


def _promote(settings: Settings) -> None:
    """The model version that the rows of this file name."""
    with open_record(settings) as connection:
        save_promotion(connection, promotion_row(model_name=MODEL))


@pytest.fixture
def conn(prepared: Settings) -> Iterator[record.Connection]:
    """A connection whose work is undone after the test."""
    with contextlib.closing(psycopg2.connect(ensure_server(prepared).url("iom"))) as connection:
        yield connection
        connection.rollback()


def _superuser(settings: Settings) -> record.Connection:
    password = (settings.home / "postgres" / "superuser_password").read_text()
    server = ensure_server(settings)
    connection = psycopg2.connect(dataclasses.replace(server, user="postgres", password=password).url("iom"))
    connection.autocommit = True
    return connection


def _rows(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(_superuser(settings)) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall()) if cursor.description else []


def assignments(day: date = DAY, students: tuple[str, ...] = ("aa", "bb", "cc")) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "as_of_on": day, "student_pseudonym": students, "course_id": "BBB-2013J", "model_name": MODEL,
            "model_version": 1, "cluster": range(len(students)), "cluster_uid": UID, "confidence": 1 / 3,
        }
    )  # fmt: skip


def risk_row(**changes: Any) -> pd.DataFrame:
    row: dict[str, Any] = {
        "as_of_on": DAY, "student_pseudonym": "aa", "course_id": "BBB-2013J", "source": "oulad", "course_week": 11,
        "is_observed": True, "risk_level": "HIGH", "risk_score": 0.9, "reason_1": "missed 2 of 3", "reason_2": None,
        "reason_3": None, "cluster": 1, "cluster_uid": UID, "submissions_due": 3, "submissions_made": 1, "submissions_missed": 2,
        "model_name": MODEL, "model_version": 1, "delivery_set": "d",
    }  # fmt: skip
    return pd.DataFrame([row | changes])


UNKNOWN = {
    "risk_level": "UNKNOWN", "risk_score": None, "cluster": None, "cluster_uid": None, "model_name": None,
    "model_version": None,
}  # fmt: skip


# -- tables --------------------------------------------------------------------------------------------


def test_prepare_is_repeatable_and_makes_every_table(prepared: Settings, conn: record.Connection) -> None:
    prepare_record(prepared)
    for table in record.record_tables():
        assert record.count_rows(conn, table) is not None
    assert record.count_rows(conn, dataclasses.replace(ASSIGNMENTS, name="not_there")) is None


def test_a_record_of_an_earlier_version_gets_its_columns_and_keeps_its_rows(stopped_settings: Settings) -> None:
    record.migrate_record(stopped_settings, "0001")
    with open_record(stopped_settings) as conn, conn.cursor() as cursor:
        record.replace_partition(conn, ASSIGNMENTS, DAY, assignments())
        for name in ("clustering.assignments", "clustering.profiles", "risk.student_risk"):
            cursor.execute(f"ALTER TABLE {name} DROP COLUMN cluster_uid CASCADE")
        for name in ("withdrawn_at", "withdrawn_because"):
            cursor.execute(f"ALTER TABLE clustering.promotions DROP COLUMN {name} CASCADE")
        cursor.execute("DROP SCHEMA migrations CASCADE")
    with pytest.raises(RecordError, match="the record is of an earlier version of the platform; `iom tables` brings"):
        read_champion(ensure_server(stopped_settings))
    prepare_record(stopped_settings)
    assert read_champion(ensure_server(stopped_settings)) is None
    _promote(stopped_settings)
    with open_record(stopped_settings) as conn:
        found = record.read_table(conn, ASSIGNMENTS)
        assert tuple(found.columns) == ASSIGNMENTS.column_names
        assert found["student_pseudonym"].tolist() == ["aa", "bb", "cc"] and found["cluster_uid"].isna().all()
        record.replace_partition(conn, STUDENT_RISK, DAY, risk_row())
        assert record.read_table(conn, STUDENT_RISK)["cluster_uid"].tolist() == [UID]


def test_preparing_what_is_there_waits_for_no_reader(prepared: Settings, conn: record.Connection) -> None:
    """Each command prepares the record; while somebody reads or copies a table it must not stand in a queue before others."""
    with conn.cursor() as cursor:
        for table in record.record_tables():
            cursor.execute(f"lock table {table.sql_name} in share mode")
        thread = threading.Thread(target=prepare_record, args=(prepared,), daemon=True)
        thread.start()
        thread.join(timeout=30)
        conn.rollback()
        assert not thread.is_alive(), "it waits"


def test_replace_partition_replaces_its_day_alone(conn: record.Connection) -> None:
    assert record.replace_partition(conn, ASSIGNMENTS, EARLIER, assignments(EARLIER)) == 3
    assert record.replace_partition(conn, ASSIGNMENTS, DAY, assignments()) == 3
    assert record.replace_partition(conn, ASSIGNMENTS, DAY, assignments(students=("zz",))) == 1
    assert list(record.read_table(conn, ASSIGNMENTS, DAY)["student_pseudonym"]) == ["zz"]
    assert len(record.read_table(conn, ASSIGNMENTS)) == 4
    assert record.has_partition(conn, ASSIGNMENTS, DAY)
    assert not record.has_partition(conn, ASSIGNMENTS, date(2001, 1, 1))
    assert record.replace_partition(conn, ASSIGNMENTS, DAY, assignments(students=())) == 0
    assert not record.has_partition(conn, ASSIGNMENTS, DAY)
    assert record.count_rows(conn, ASSIGNMENTS) == (3, EARLIER)


def test_open_record_commits_on_success_alone(prepared: Settings) -> None:
    day = date(1999, 1, 1)
    with pytest.raises(ZeroDivisionError), open_record(prepared) as connection:
        record.replace_partition(connection, ASSIGNMENTS, day, assignments(day))
        raise ZeroDivisionError
    with open_record(prepared) as connection:
        assert not record.has_partition(connection, ASSIGNMENTS, day)
        record.replace_partition(connection, ASSIGNMENTS, day, assignments(day))
    with open_record(prepared) as connection:
        assert record.has_partition(connection, ASSIGNMENTS, day)


def test_values_come_back_as_they_went(conn: record.Connection) -> None:
    students = ("", " ", '"', ",", "\n", "\\N", "\\.", "NULL", "é", "a\tb")
    frame = assignments(students=students)
    frame["confidence"] = [0.1, 1e-300, 1.0, 0.0, 1 / 3, 0.1 + 0.2 - 0.2, 5e-324, 0.5, 2 / 3, 1 - 1e-16]
    record.replace_partition(conn, ASSIGNMENTS, DAY, frame)
    found = record.read_table(conn, ASSIGNMENTS, DAY).set_index("student_pseudonym")["confidence"]
    assert found.to_dict() == frame.set_index("student_pseudonym")["confidence"].to_dict()


def test_nan_and_nat_are_null_and_types_are_kept(conn: record.Connection) -> None:
    frame = pd.concat([risk_row(), risk_row(student_pseudonym="bb", **UNKNOWN)], ignore_index=True)
    frame["risk_score"] = [0.9, np.nan]
    frame["cluster"] = [1.0, np.nan]
    record.replace_partition(conn, STUDENT_RISK, DAY, frame)
    found = record.read_table(conn, STUDENT_RISK, DAY)
    assert tuple(found.columns) == STUDENT_RISK.column_names
    assert found.loc[1, ["risk_score", "cluster", "model_name", "reason_2"]].isna().all()
    assert found["as_of_on"].tolist() == [pd.Timestamp(DAY)] * 2
    kinds = {
        name: str(found[name].dtype) for name in ("as_of_on", "course_week", "cluster", "risk_score", "is_observed")
    }
    assert kinds == {
        "as_of_on": "datetime64[us]", "course_week": "int64", "cluster": "Int64", "risk_score": "float64", "is_observed": "bool",
    }  # fmt: skip
    assert record.read_table(conn, STUDENT_RISK, EARLIER).empty


@pytest.mark.parametrize(
    "changes",
    [
        {"risk_level": "SEVERE"},
        {"risk_score": 1.01},
        {"risk_score": -0.01},
        {"risk_score": None},
        UNKNOWN | {"risk_score": 0.5},
        UNKNOWN | {"cluster": 1},
        UNKNOWN | {"cluster_uid": UID},
        UNKNOWN | {"model_version": 1},
    ],
)
def test_rows_that_break_a_rule_are_refused_without_their_values(
    conn: record.Connection, changes: dict[str, Any]
) -> None:
    with pytest.raises(RecordError, match=r"risk/student_risk refuses rows that break student_risk_.*check") as refusal:
        record.replace_partition(conn, STUDENT_RISK, DAY, risk_row(student_pseudonym="person4711", **changes))
    assert "person4711" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="cluster"), "lack cluster"),
        (lambda f: f.assign(surplus=1), "have the unknown surplus"),
        (lambda f: f.assign(cluster="person4711"), "column cluster: a value is no int"),
        (lambda f: f.assign(cluster=1.5), "column cluster: a value is no int"),
        (lambda f: f.assign(model_name=None), "column model_name: 3 rows are null"),
        (lambda f: f.assign(confidence=np.nan), "column confidence: 3 rows are null"),
        (lambda f: f.assign(as_of_on=EARLIER), "outside the partition 2013-12-16"),
        (lambda f: f.assign(student_pseudonym="aa"), "2 rows repeat the key"),
        (lambda f: pd.concat([f, f[["cluster"]]], axis=1), "repeat a column"),
    ],
)
def test_rows_of_another_shape_are_refused(conn: record.Connection, change: Any, message: str) -> None:
    with pytest.raises(RowsError, match=message) as refusal:
        record.replace_partition(conn, ASSIGNMENTS, DAY, change(assignments()))
    assert "person4711" not in str(refusal.value)


def test_a_table_without_a_day_has_no_partition(conn: record.Connection) -> None:
    with pytest.raises(RowsError, match="clustering/promotions has no as-of day"):
        record.replace_partition(
            conn, PROMOTIONS, DAY, valid_frame(PROMOTIONS.path, 1).assign(promoted_at=datetime(2014, 1, 1))
        )


# -- the table hash ------------------------------------------------------------------------------------


def test_the_hash_depends_on_stable_values_alone(conn: record.Connection) -> None:
    rows = pd.concat([risk_row(), risk_row(student_pseudonym="bb", **UNKNOWN)], ignore_index=True)
    record.replace_partition(conn, STUDENT_RISK, DAY, rows)
    first = record.hash_table(conn, STUDENT_RISK, DAY)
    assert first == hash_rows(STUDENT_RISK, shape_rows(STUDENT_RISK, rows))
    record.replace_partition(conn, STUDENT_RISK, DAY, rows[::-1].assign(delivery_set="another"))
    assert record.hash_table(conn, STUDENT_RISK, DAY) == first
    for change in ({"risk_score": np.nextafter(0.9, 1)}, {"reason_2": ""}, {"cluster": 0}, {"is_observed": False}):
        other = pd.concat([risk_row(**change), rows[1:]], ignore_index=True)
        record.replace_partition(conn, STUDENT_RISK, DAY, other)
        assert record.hash_table(conn, STUDENT_RISK, DAY) != first, change


def test_the_hash_keeps_values_and_columns_apart() -> None:
    def digest(**columns: Any) -> str:
        return hash_rows(ASSIGNMENTS, shape_rows(ASSIGNMENTS, assignments(students=("aa", "bb")).assign(**columns)))

    assert digest(course_id=["ab", "c"]) != digest(course_id=["a", "bc"])
    assert digest(course_id="x", model_name="y") != digest(course_id="y", model_name="x")
    assert digest(confidence=[0.0, 1.0]) == digest(confidence=[-0.0, 1.0])
    chunked = pa.concat_tables(
        [shape_rows(ASSIGNMENTS, assignments(students=(s,)).assign(cluster=0)) for s in ("aa", "bb")]
    )
    assert hash_rows(ASSIGNMENTS, chunked) == digest(cluster=0)


# -- identities ----------------------------------------------------------------------------------------

EXPORT: dict[str, Any] = {"table_name": "risk/student_risk", "as_of_on": DAY}


def _refused(conn: record.Connection, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), conn.cursor() as cursor:
        cursor.execute(statement)
    conn.rollback()


def test_the_connection_role_cannot_read_the_identity_map(conn: record.Connection) -> None:
    for statement in (
        "SELECT * FROM identity.students",
        "SELECT student_id FROM identity.students LIMIT 0",
        "COPY identity.students TO STDOUT",
        "UPDATE identity.students SET student_id = 'x'",
        "DELETE FROM identity.students",
        "GRANT SELECT ON identity.students TO iom",
        "ALTER TABLE identity.students OWNER TO iom",
        "DROP TABLE identity.students",
    ):
        _refused(conn, statement)


def test_a_member_reads_what_was_saved_and_leaves_a_trace(prepared: Settings) -> None:
    assert record.save_identities(prepared, "first", [("1", "p1"), ("2", "p2")]) == 2
    assert record.save_identities(prepared, "first", [("2", "p2"), ("3", "p3"), ("3", "p3")]) == 1
    assert record.save_identities(prepared, "second", [("1", "q1")]) == 1
    before = _rows(prepared, "SELECT count(*) FROM audit.exports")[0][0]
    found = record.read_identities(prepared, reason=" a call ", pseudonyms=["p1", "p3", "q1", "nobody"], **EXPORT)
    assert found == {"p1": ("first", "1"), "p3": ("first", "3"), "q1": ("second", "1")}
    trace = _rows(
        prepared, "SELECT account, actor, table_name, as_of_on, rows, reason FROM audit.exports ORDER BY exported_at"
    )
    assert trace[before:] == [(getpass.getuser(), "iom", "risk/student_risk", DAY, 4, "a call")]


def test_no_pair_is_lost_silently(prepared: Settings) -> None:
    record.save_identities(prepared, "clash", [("10", "c10")])
    for pair in (("11", "c10"), ("10", "c11")):
        with pytest.raises(RecordError, match="use the pseudonym key that the map was made with") as refusal:
            record.save_identities(prepared, "clash", [("12", "c12"), pair])
        assert "c1" not in str(refusal.value)
        assert refusal.value.__cause__ is None
    with pytest.raises(RecordError):
        record.save_identities(prepared, "elsewhere", [("10", "c10")])
    assert _rows(prepared, "SELECT student_id FROM identity.students WHERE source IN ('clash', 'elsewhere')") == [
        ("10",)
    ]


def test_many_pairs_are_saved_all_or_none(prepared: Settings) -> None:
    pairs = [(str(i), f"many{i}") for i in range(45_000)]
    with pytest.raises(RecordError):
        record.save_identities(prepared, "many", [*pairs, ("x", "many1")])
    assert _rows(prepared, "SELECT count(*) FROM identity.students WHERE source = 'many'") == [(0,)]
    assert record.save_identities(prepared, "many", iter(pairs)) == 45_000


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_a_reason_is_demanded(prepared: Settings, reason: str) -> None:
    with pytest.raises(RecordError, match="needs a reason"):
        record.read_identities(prepared, reason=reason, pseudonyms=["p1"], **EXPORT)


def test_a_revoked_member_is_refused_and_leaves_no_export(prepared: Settings) -> None:
    record.save_identities(prepared, "revoked", [("1", "r1")])
    before = _rows(prepared, "SELECT count(*) FROM audit.exports")
    _rows(prepared, "REVOKE identity_reader FROM iom")
    try:
        with pytest.raises(NotAllowed, match=r"no member of identity_reader.*GRANT"):
            record.read_identities(prepared, reason="a call", pseudonyms=["r1"], **EXPORT)
        assert _rows(prepared, "SELECT count(*) FROM audit.exports") == before
        # what needs no reading goes on
        prepare_record(prepared)
        assert record.save_identities(prepared, "revoked", [("2", "r2")]) == 1
    finally:
        _rows(prepared, "GRANT identity_reader TO iom WITH INHERIT FALSE, SET TRUE")


def test_a_superuser_is_no_member_by_that_alone(prepared: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    password = (prepared.home / "postgres" / "superuser_password").read_text()
    as_superuser = dataclasses.replace(ensure_server(prepared), user="postgres", password=password)
    monkeypatch.setattr(record, "ensure_server", lambda _: as_superuser)
    with pytest.raises(NotAllowed):
        record.read_identities(prepared, reason="a call", pseudonyms=["p1"], **EXPORT)


def test_an_export_that_cannot_be_audited_is_none(prepared: Settings) -> None:
    record.save_identities(prepared, "audit", [("1", "a1")])
    _rows(prepared, "ALTER TABLE audit.exports RENAME TO gone")
    try:
        with pytest.raises(psycopg2.errors.UndefinedTable):
            record.read_identities(prepared, reason="a call", pseudonyms=["a1"], **EXPORT)
    finally:
        _rows(prepared, "ALTER TABLE audit.gone RENAME TO exports")


def test_the_audit_can_only_grow(conn: record.Connection) -> None:
    with conn.cursor() as cursor:
        cursor.execute("INSERT INTO audit.exports (table_name, rows, reason) VALUES ('t', 1, 'r')")
    conn.rollback()
    for statement in ("UPDATE audit.exports SET rows = 0", "DELETE FROM audit.exports", "TRUNCATE audit.exports"):
        _refused(conn, statement)


@pytest.fixture
def outsider(stopped_settings: Settings) -> Server:
    """A role of a server of the user's that is no member of anything, on an empty database of its own."""
    ensure_server(stopped_settings)
    _rows(stopped_settings, "CREATE ROLE outsider LOGIN PASSWORD 'x'")
    _rows(stopped_settings, "ALTER DATABASE iom OWNER TO outsider")
    return dataclasses.replace(ensure_server(stopped_settings), user="outsider", password="x", is_embedded=False)


def test_without_membership_the_map_is_not_made_and_the_remedy_works(
    outsider: Server, stopped_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "ensure_server", lambda _: outsider)
    with pytest.raises(AccessError, match="have an administrator run: GRANT") as refusal:
        prepare_record(stopped_settings)
    remedy = str(refusal.value).partition("run: ")[2].partition("; and run again")[0]
    monkeypatch.undo()
    _rows(stopped_settings, remedy)
    monkeypatch.setattr(record, "ensure_server", lambda _: outsider)
    prepare_record(stopped_settings)
    assert record.save_identities(stopped_settings, "s", [("1", "p1")]) == 1
    assert record.read_identities(stopped_settings, reason="r", pseudonyms=["p1"], **EXPORT) == {"p1": ("s", "1")}
