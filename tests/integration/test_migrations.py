"""The record's revisions on a real server: forward, back, adopted, refused, and two at once."""

import contextlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from iom_platform.cli.migrate import migrate_to, show_revisions
from iom_platform.cli.runs import UsageError
from iom_platform.settings import Settings
from iom_platform.storage import migrate as revisions
from iom_platform.storage import promotions, record
from iom_platform.storage.migrate import BASE, MigrationError, is_migrated, list_revisions, migrate, read_revision
from iom_platform.storage.record import RecordError
from iom_platform.tables import ASSIGNMENTS, LINEAGE, PROFILES, STUDENT_RISK, Table
from tests.plants import promotion_row, valid_frame
from tests.scratch import Connect, ask, empty_database

DAY = date(2013, 12, 16)
NEWEST = list_revisions()[-1]
TYPES = {
    "text": "text", "int": "integer", "bigint": "bigint", "float": "double precision", "bool": "boolean", "date": "date",
    "timestamp": "timestamp with time zone", "json": "jsonb",
}  # fmt: skip


@pytest.fixture
def connect(settings: Settings) -> Iterator[Connect]:
    with empty_database(settings) as scratch:
        yield scratch.connect


def _fill(connect: Connect) -> None:
    """Rows in every table of the record but the identity map and the audit."""
    lineage = {
        "model_name": "student_clusters", "model_version": 1, "cluster_uid": "c-0a1b2c3d", "change": "born", "cluster": 0,
        "name": "steady", "from_uid": None, "into_uid": None, "former_version": None, "overlap": None,
        "center_distance": None, "share": 1.0,
    }  # fmt: skip
    with contextlib.closing(connect()) as conn:
        promotions.save_promotion(conn, promotion_row())
        promotions.save_lineage(conn, pd.DataFrame([lineage]))
        for table in (ASSIGNMENTS, PROFILES, STUDENT_RISK):
            record.replace_partition(conn, table, DAY, valid_frame(table.path, 3).assign(as_of_on=DAY))
        conn.commit()


def _hashes(connect: Connect) -> dict[str, str]:
    with contextlib.closing(connect()) as conn:
        return {table.path: record.hash_table(conn, table) for table in record.record_tables()}


def _schema(connect: Connect) -> list[tuple[Any, ...]]:
    """Every column, rule, index, policy and function, and who may do what with which table."""
    return ask(
        connect,
        """SELECT 'column', attrelid::regclass::text, attname, atttypid::regtype::text, attnotnull::text
            FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped
            AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema)')
        UNION ALL SELECT 'rule', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '' FROM pg_constraint
            WHERE conrelid <> 0
        UNION ALL SELECT 'table', oid::regclass::text, relacl::text, relrowsecurity::text, relforcerowsecurity::text
            FROM pg_class WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
        UNION ALL SELECT 'policy', polrelid::regclass::text, polname, pg_get_expr(polqual, polrelid), '' FROM pg_policy
        ORDER BY 1, 2, 3, 4""",
    )


# -- forward -------------------------------------------------------------------------------------------


def test_an_empty_database_gets_what_tables_py_says(connect: Connect) -> None:
    assert migrate(connect) == (BASE, NEWEST)
    assert migrate(connect) == (NEWEST, NEWEST)
    found: dict[str, list[tuple[str, str, bool]]] = {}
    for schema, table, *column in ask(
        connect,
        "SELECT table_schema, table_name, column_name, data_type, is_nullable = 'YES' FROM information_schema.columns "
        "ORDER BY ordinal_position",
    ):
        found.setdefault(f"{schema}/{table}", []).append(tuple(column))  # type: ignore[arg-type]
    keys = dict(
        ask(
            connect,
            "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p'",
        )
    )
    for table in record.record_tables():
        assert sorted(found[table.path]) == sorted((c.name, TYPES[c.dtype], c.nullable) for c in table.columns)
        assert keys[table.sql_name] == f"PRIMARY KEY ({', '.join(table.key)})"
    assert {path for path in found if path.startswith(("clustering/", "risk/"))} >= {
        t.path for t in record.record_tables()
    }


def test_the_revisions_are_one_line_in_the_order_of_their_names() -> None:
    from alembic.script import ScriptDirectory

    walked = list(ScriptDirectory(str(revisions._FOLDER)).walk_revisions())
    assert [script.revision for script in reversed(walked)] == list(list_revisions())
    assert [what for _, what in revisions.describe_revisions()] == [
        script.module.__doc__.partition("\n")[0] for script in reversed(walked)
    ]
    assert all(callable(script.module.downgrade) for script in walked)


def test_a_command_that_finds_the_newest_revision_imports_no_alembic(settings: Settings) -> None:
    record.prepare_record(settings)
    code = (
        "import sys; from iom_platform.settings import Settings; from iom_platform.storage.record import prepare_record\n"
        f"prepare_record(Settings(home={str(settings.home)!r}))\n"
        "print({'alembic', 'sqlalchemy'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


# -- a record of before there were revisions -----------------------------------------------------------

_BEFORE = (
    "DROP SCHEMA migrations CASCADE",
    *(f"ALTER TABLE {t} DROP COLUMN cluster_uid CASCADE" for t in ("clustering.assignments", "clustering.profiles", "risk.student_risk")),
    *(f"ALTER TABLE clustering.promotions DROP COLUMN {c} CASCADE" for c in ("withdrawn_at", "withdrawn_because")),
    "ALTER TABLE audit.exports DROP COLUMN account",
)  # fmt: skip


def test_a_record_of_before_is_adopted_with_its_rows(connect: Connect) -> None:
    migrate(connect, "0001")
    _fill(connect)
    ask(connect, "SELECT identity.save_students('s', '{1,2}', '{p1,p2}')")
    ask(connect, *_BEFORE)
    assert migrate(connect) == (BASE, NEWEST)
    with contextlib.closing(connect()) as conn:
        for table in record.record_tables():
            found = record.read_table(conn, table)
            assert tuple(found.columns) == table.column_names and len(found), table.path
        assert record.read_table(conn, ASSIGNMENTS)["cluster_uid"].isna().all()
    assert ask(connect, "SELECT identity.save_students('s', '{1,2,3}', '{p1,p2,p3}')") == [(1,)]


def test_rows_of_before_that_name_no_promotion_stay_and_new_ones_are_refused(connect: Connect) -> None:
    migrate(connect, "0002")
    _fill(connect)
    ask(connect, "UPDATE clustering.assignments SET model_version = 7")
    hashes = _hashes(connect)
    assert migrate(connect) == ("0002", NEWEST)
    assert _hashes(connect) == hashes
    with contextlib.closing(connect()) as conn, pytest.raises(RecordError, match="break assignments_model_fkey"):
        record.replace_partition(conn, ASSIGNMENTS, DAY, valid_frame(ASSIGNMENTS.path, 3).assign(model_version=8))
    assert ask(connect, "SELECT conname FROM pg_constraint WHERE NOT convalidated") == [("assignments_model_fkey",)]


@pytest.mark.parametrize(
    ("table", "changes", "key"),
    [
        (ASSIGNMENTS, {"model_version": 2}, "assignments_model_fkey"),
        (ASSIGNMENTS, {"model_name": "another"}, "assignments_model_fkey"),
        (PROFILES, {"model_version": 2}, "profiles_model_fkey"),
        (STUDENT_RISK, {"model_version": 2}, "student_risk_model_fkey"),
        (LINEAGE, {"model_version": 2}, "lineage_model_fkey"),
        (LINEAGE, {"former_version": 2}, "lineage_former_fkey"),
    ],
)
def test_what_names_a_model_version_names_a_promoted_one(
    connect: Connect, table: Table, changes: dict[str, Any], key: str
) -> None:
    migrate(connect)
    _fill(connect)
    other = {PROFILES: "feature", LINEAGE: "cluster_uid"}.get(table, "student_pseudonym")
    with contextlib.closing(connect()) as conn:
        row = record.read_table(conn, table).dropna(subset="model_version")[:1].assign(**{other: "c-ffffffff"})
        record.append_rows(conn, table, row)
        conn.rollback()
        with pytest.raises(RecordError, match=f"break {key}"):
            record.append_rows(conn, table, row.assign(**changes))


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE clustering.assignments ADD COLUMN surplus text",
        "ALTER TABLE clustering.assignments DROP COLUMN confidence",
        "ALTER TABLE clustering.assignments ALTER COLUMN cluster TYPE bigint",
        "ALTER TABLE clustering.assignments ALTER COLUMN cluster DROP NOT NULL",
    ],
)
def test_a_record_of_another_shape_is_refused_each_time(connect: Connect, change: str) -> None:
    migrate(connect, "0001")
    ask(connect, "DROP SCHEMA migrations CASCADE", change)
    for _ in range(2):
        with pytest.raises(MigrationError, match=r"clustering.assignments was made with other columns .* run again"):
            migrate(connect)


# -- back ----------------------------------------------------------------------------------------------


def test_down_and_up_keeps_every_row_and_the_schema(connect: Connect) -> None:
    migrate(connect)
    _fill(connect)
    hashes, schema = _hashes(connect), _schema(connect)
    for revision in reversed(list_revisions()[:-1]):
        assert migrate(connect, revision)[1] == revision
        assert _hashes(connect) == hashes
    assert migrate(connect)[1] == NEWEST
    assert (_hashes(connect), _schema(connect)) == (hashes, schema)


@pytest.mark.parametrize(
    ("table", "statement"),
    [
        ("audit.exports", "INSERT INTO audit.exports (table_name, rows, reason) VALUES ('t', 1, 'r')"),
        ("access.course_scopes", "INSERT INTO access.course_scopes (member, course_id) VALUES ('anna', 'AAA-2013J')"),
        ("identity.students", "SELECT identity.save_students('s', '{1}', '{p1}')"),
        ("clustering.promotions", "INSERT INTO clustering.promotions VALUES ('m', 1, 'a', '2013-12-16', 'k', 'r', NULL, 'r', now(), NULL)"),
    ],
)  # fmt: skip
def test_what_would_lose_rows_is_refused(connect: Connect, table: str, statement: str) -> None:
    migrate(connect)
    ask(connect, statement)
    schema = _schema(connect)
    with pytest.raises(MigrationError, match=f"would lose the rows of {table}, and nothing was changed"):
        migrate(connect, BASE)
    assert _schema(connect) == schema


def test_an_empty_record_goes_all_the_way_back_and_comes_again(connect: Connect) -> None:
    migrate(connect)
    schema = _schema(connect)
    assert migrate(connect, BASE) == (NEWEST, BASE)
    assert ask(connect, "SELECT to_regclass('risk.student_risk'), to_regclass('audit.exports')") == [(None, None)]
    assert migrate(connect) == (BASE, NEWEST)
    assert _schema(connect) == schema


# -- what is refused -----------------------------------------------------------------------------------


def test_a_record_of_a_later_version_is_refused(connect: Connect) -> None:
    migrate(connect)
    ask(connect, "UPDATE migrations.record SET version_num = '9999'")
    sentence = f"at revision 9999, which this version .* does not know.*iom migrate --to {NEWEST}"
    with pytest.raises(MigrationError, match=sentence):
        migrate(connect)
    with contextlib.closing(connect()) as conn, pytest.raises(MigrationError, match=sentence):
        is_migrated(conn)


def test_an_unknown_revision_is_refused(connect: Connect) -> None:
    with pytest.raises(MigrationError, match=r"there is no revision '0815'; `iom migrate --show` lists them"):
        migrate(connect, "0815")


def test_a_revision_that_fails_leaves_everything_as_it_was(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    migrate(connect)
    _fill(connect)
    before = _schema(connect), _hashes(connect)
    shutil.copytree(revisions._FOLDER, tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "migrations" / "versions" / "9998_good.py").write_text(
        f'"""Good."""\nfrom alembic import op\nrevision, down_revision = "9998", "{NEWEST}"\n'
        'def upgrade(): op.execute("CREATE TABLE risk.halfway (a int)"); op.execute("DELETE FROM clustering.profiles")\n'
    )
    (tmp_path / "migrations" / "versions" / "9999_broken.py").write_text(
        '"""Broken."""\nfrom alembic import op\nrevision, down_revision = "9999", "9998"\n'
        'def upgrade(): op.execute("INSERT INTO clustering.assignments SELECT * FROM clustering.assignments")\n'
    )
    monkeypatch.setattr(revisions, "_FOLDER", tmp_path / "migrations")
    with pytest.raises(
        MigrationError, match=rf"cannot go from revision {NEWEST} to 9999, and stays as it was"
    ) as refusal:
        migrate(connect)
    assert refusal.value.__cause__ is None and valid_frame(STUDENT_RISK.path, 1)["student_pseudonym"][0] not in str(
        refusal.value
    )
    monkeypatch.undo()
    assert (_schema(connect), _hashes(connect)) == before
    assert ask(connect, "SELECT version_num FROM migrations.record") == [(NEWEST,)]


def test_of_two_at_once_one_waits(connect: Connect) -> None:
    found: list[Any] = []

    def go() -> None:
        try:
            found.append(migrate(connect))
        except Exception as error:
            found.append(error)

    with contextlib.closing(connect()) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (revisions._LOCK,))
        threads = [threading.Thread(target=go, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        deadline = time.monotonic() + 60
        while ask(connect, waiting) != [(2,)]:
            assert time.monotonic() < deadline and not found, found
            time.sleep(0.05)
        holder.rollback()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(found) == sorted([(BASE, NEWEST), (NEWEST, NEWEST)])


# -- the command ---------------------------------------------------------------------------------------


def test_the_command_shows_goes_back_and_forward(
    stopped_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IOM_HOME", str(stopped_settings.home))
    show_revisions(None)
    assert [line.split("  ")[:2] for line in capsys.readouterr().out.splitlines()] == [
        [revision, "to come"] for revision in list_revisions()
    ]
    migrate_to("0001")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "The record went from base to revision 0001."
    assert len(said) == 1 or said[1].startswith(
        f"The next command of this version of the platform takes it to {NEWEST}"
    )
    show_revisions(None)
    assert capsys.readouterr().out.splitlines()[0].startswith("0001  applied  The record's tables")
    migrate_to(None)
    migrate_to(NEWEST)
    assert capsys.readouterr().out.splitlines()[-1] == f"The record is at revision {NEWEST}."
    with record.open_record(stopped_settings) as conn, conn.cursor() as cursor:
        assert read_revision(cursor) == NEWEST
    with pytest.raises(UsageError, match="leave one of them away"):
        show_revisions("0001")
