"""Who may do what with which table, by raw SQL as each role on a real server, and who has the roles.

Whose rows a role sees is tested in test_course_scopes.py.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg2
import psycopg2.errors
import pytest

from iom_platform.settings import Settings
from iom_platform.storage.access import BY_OWNING, OWNER, READER, RIGHTS, ROLES, VERBS, AccessError, verbs_of
from iom_platform.storage.migrate import is_migrated, migrate
from iom_platform.storage.postgres_server import ensure_server, stop_server
from iom_platform.storage.record import RecordError, prepare_record
from iom_platform.tables import TABLES
from tests.scratch import Scratch, ask, empty_database

TYPES = {"text": "text", "int": "integer", "bigint": "bigint", "float": "double precision", "bool": "boolean",
         "date": "date", "timestamp": "timestamp"}  # fmt: skip
VIEWS = {"risk/current_risk"}
PATHS = (*(t.path for t in TABLES), "risk/current_risk", "access/course_scopes", "audit/exports", "identity/students",
         "migrations/record")  # fmt: skip
# each needs its own privilege alone, and changes nothing
STATEMENTS = {
    "SELECT": "SELECT 1 FROM {table} LIMIT 0",
    "INSERT": "INSERT INTO {table} ({column}) SELECT NULL WHERE false",
    "UPDATE": "UPDATE {table} SET {column} = NULL WHERE false",
    "DELETE": "DELETE FROM {table} WHERE false",
    "TRUNCATE": "TRUNCATE {table}",
}


@pytest.fixture(scope="module")
def scratch(settings: Settings) -> Iterator[Scratch]:
    """The record as it is migrated, and the warehouse's tables as they are where it is in PostgreSQL; no row."""
    with empty_database(settings) as made:
        migrate(made.connect)
        for table in TABLES:
            if table.home == "warehouse":
                columns = ", ".join(f"{c.name} {TYPES[c.dtype]}" for c in table.columns)
                ask(
                    made.connect,
                    f"CREATE SCHEMA IF NOT EXISTS {table.stage}",
                    f"CREATE TABLE {table.sql_name} ({columns})",
                )
        ask(made.connect, "CREATE SCHEMA staging", "CREATE SCHEMA intermediate")
        with contextlib.closing(made.connect()) as conn:
            assert not is_migrated(conn)
        migrate(made.connect)
        with contextlib.closing(made.connect()) as conn:
            assert is_migrated(conn)
        ask(made.superuser, "CREATE ROLE stranger")
        try:
            yield made
        finally:
            ask(made.superuser, "DROP ROLE stranger")


@pytest.fixture
def cursor(scratch: Scratch) -> Iterator[Any]:
    """The superuser's, whose work is undone after the test."""
    with contextlib.closing(scratch.superuser()) as conn, conn.cursor() as opened:
        yield opened
        conn.rollback()


def _tried(cursor: Any, role: str, statement: str) -> psycopg2.Error | None:
    """What PostgreSQL says to a role that runs a statement; nothing stays of it."""
    cursor.execute("SAVEPOINT before")
    try:
        cursor.execute(f"SET LOCAL ROLE {role}")
        cursor.execute(statement)
        return None
    except psycopg2.Error as error:
        return error
    finally:
        cursor.execute("ROLLBACK TO SAVEPOINT before")


# -- what a role may do with a table -------------------------------------------------------------------


def _first_column(cursor: Any, name: str) -> str:
    cursor.execute("SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 1", (name,))
    return str(cursor.fetchone()[0])


def _allowed(cursor: Any, role: str) -> dict[str, tuple[str, ...]]:
    """path -> the verbs that PostgreSQL lets a role use there."""
    found = {}
    for path in PATHS:
        name = path.replace("/", ".")
        column = _first_column(cursor, name)
        refusals = {
            verb: _tried(cursor, role, statement.format(table=name, column=column))
            for verb, statement in STATEMENTS.items()
            if path not in VIEWS or verb == "SELECT"
        }
        denied = psycopg2.errors.InsufficientPrivilege
        found[path] = tuple(verb for verb, refusal in refusals.items() if not isinstance(refusal, denied))
    return found


def _wanted(role: str) -> dict[str, tuple[str, ...]]:
    rights = (RIGHTS | BY_OWNING).get(role, {})  # type: ignore[operator]
    verbs = {path: verbs_of(rights, *path.split("/")) for path in PATHS}
    return {path: found[:1] if path in VIEWS else found for path, found in verbs.items()}


@pytest.mark.parametrize("role", [OWNER, *ROLES, "stranger"])
def test_each_role_may_do_with_each_table_what_the_table_of_rights_says(cursor: Any, role: str) -> None:
    assert tuple(STATEMENTS) == VERBS
    assert _allowed(cursor, "iom" if role == OWNER else role) == _wanted(role)


def test_the_wall_is_real() -> None:
    """In words of its own, so that a slip in the table of rights does not go by."""
    for role in RIGHTS:
        seen = {path for path in PATHS if verbs_of(RIGHTS[role], *path.split("/"))}
        before = {path for path in seen if path.split("/")[0] in ("raw", "staging", "intermediate", "features")}
        assert not any(path.startswith("identity/") for path in seen), role
        assert not before or role == "iom_loader" or (role, before) == ("iom_privacy_officer", {"raw/quarantine"}), role
        changed = {path for path in PATHS if set(verbs_of(RIGHTS[role], *path.split("/"))) - {"SELECT"}}
        assert not changed or role == "iom_loader", role
    assert {path.split("/")[0] for path in RIGHTS["iom_modeler"]} == {"anonymized", "clustering"}
    assert set(RIGHTS["iom_auditor"]) == {"audit/exports"}


@pytest.mark.parametrize(
    ("role", "given", "asked"),
    [
        ("iom_modeler", "GRANT SELECT ON raw.oulad_student_info TO iom_modeler; GRANT USAGE ON SCHEMA raw TO iom_modeler", "raw.oulad_student_info"),
        # the schema is shut, so that a grant of its tables, which dbt makes anew anyway, opens nothing
        ("iom_modeler", "GRANT SELECT ON features.student_term TO iom_modeler; GRANT USAGE ON SCHEMA features TO iom_modeler", "features.student_term"),
        ("iom_loader", "GRANT SELECT (student_pseudonym) ON clustering.assignments TO iom_loader; GRANT USAGE ON SCHEMA clustering TO PUBLIC", "clustering.assignments"),
        ("iom_privacy_officer", "GRANT SELECT (student_pseudonym) ON raw.oulad_student_info TO iom_privacy_officer", "raw.oulad_student_info"),
        ("iom_privacy_officer", "GRANT SELECT ON raw.oulad_student_info TO PUBLIC", "raw.oulad_student_info"),
        ("iom_privacy_officer", "ALTER DEFAULT PRIVILEGES IN SCHEMA raw GRANT SELECT ON TABLES TO iom_privacy_officer", "raw.later"),
    ],
)  # fmt: skip
def test_what_was_granted_by_hand_is_seen_and_taken_back(
    scratch: Scratch, cursor: Any, role: str, given: str, asked: str
) -> None:
    ask(scratch.connect, given)
    with contextlib.closing(scratch.connect()) as conn:
        assert not is_migrated(conn)
    migrate(scratch.connect)
    with contextlib.closing(scratch.connect()) as conn:
        assert is_migrated(conn)
    cursor.execute("SET LOCAL ROLE iom; CREATE TABLE IF NOT EXISTS raw.later (student_pseudonym text); RESET ROLE")
    refusal = _tried(cursor, role, f"SELECT student_pseudonym FROM {asked}")
    assert isinstance(refusal, psycopg2.errors.InsufficientPrivilege)


@pytest.mark.parametrize(
    ("stage", "readers"),
    [
        ("raw", {"iom_loader"}),
        ("features", set()),
        ("anonymized", {"iom_modeler", "iom_fairness", "iom_privacy_officer"}),
        ("clustering", {"iom_modeler"}),
        ("risk", set()),
        ("access", set()),
        ("audit", set()),
    ],
)
def test_a_table_that_is_made_later_is_read_by_those_of_its_whole_stage(
    scratch: Scratch, cursor: Any, stage: str, readers: set[str]
) -> None:
    ask(scratch.connect, f"CREATE TABLE {stage}.later (student_pseudonym text, course_id text)")
    try:
        found = {role for role in RIGHTS if _tried(cursor, role, f"SELECT 1 FROM {stage}.later") is None}
        assert found == readers
        migrate(scratch.connect)
        found = {role for role in RIGHTS if _tried(cursor, role, f"SELECT 1 FROM {stage}.later") is None}
        assert found == readers
    finally:
        ask(scratch.connect, f"DROP TABLE {stage}.later")


def test_before_the_scopes_nobody_but_the_platform_reads_levels(settings: Settings) -> None:
    with empty_database(settings) as own:
        migrate(own.connect)
        migrate(own.connect, "0001")
        with contextlib.closing(own.superuser()) as conn, conn.cursor() as cursor:
            for role in (*RIGHTS, READER):
                refusal = _tried(cursor, role, "SELECT 1 FROM risk.student_risk")
                assert isinstance(refusal, psycopg2.errors.InsufficientPrivilege), role
        migrate(own.connect)


# -- the roles themselves ------------------------------------------------------------------------------


def test_the_embedded_server_has_the_roles_and_nobody_logs_in_as_one(settings: Settings) -> None:
    with empty_database(settings) as own:
        found = ask(
            own.connect,
            "SELECT rolname, rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls FROM pg_roles "
            f"WHERE rolname IN ({', '.join(repr(role) for role in ROLES)})",
        )
    assert sorted(found) == sorted((role, *[False] * 5) for role in ROLES)


def test_a_server_that_runs_since_before_the_roles_is_said(stopped_settings: Settings) -> None:
    server = ensure_server(stopped_settings)
    password = (stopped_settings.home / "postgres" / "superuser_password").read_text()
    with (
        contextlib.closing(
            psycopg2.connect(host=server.host, port=server.port, user="postgres", password=password, dbname="iom")
        ) as conn,
        conn.cursor() as cursor,
    ):
        cursor.execute("DROP ROLE iom_auditor")
        conn.commit()
    with pytest.raises(RecordError, match="lacks its roles; stop it with `iom down`, and run again"):
        prepare_record(stopped_settings)
    stop_server(stopped_settings)
    prepare_record(stopped_settings)


def test_on_a_users_server_the_roles_are_made_or_an_administrator_is_told(stopped_settings: Settings) -> None:
    ensure_server(stopped_settings)
    with empty_database(stopped_settings) as own:
        database = ask(own.connect, "SELECT current_database()")[0][0]
        ask(
            own.superuser,
            "DROP ROLE iom_auditor",
            "DROP ROLE iom_loader",
            "CREATE ROLE maker LOGIN PASSWORD 'x'",
            f"ALTER DATABASE {database} OWNER TO maker",
        )
        try:
            maker = own.login("maker", "x")
            with pytest.raises(AccessError) as refusal:
                migrate(maker)
            remedy = str(refusal.value).partition("have an administrator run: ")[2].partition("; and run again")[0]
            assert remedy == (
                'CREATE ROLE iom_loader NOLOGIN; CREATE ROLE iom_auditor NOLOGIN; GRANT "identity_reader" TO "maker" WITH INHERIT FALSE'
            )
            ask(own.superuser, "ALTER ROLE maker CREATEROLE", remedy.rpartition("; ")[2])
            migrate(maker)
            assert ask(maker, "SELECT count(*) FROM pg_roles WHERE rolname IN ('iom_loader', 'iom_auditor')") == [(2,)]
        finally:
            ask(own.superuser, f"ALTER DATABASE {database} OWNER TO iom")
