"""Whose rows a role sees, by raw SQL of people with logins on a real server, and a table that would show them all.

Which tables a role may use at all is tested in test_access.py.
"""

import contextlib
import random
import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any, NamedTuple

import pandas as pd
import psycopg2
import psycopg2.errors
import pytest

from iom_platform.settings import PROJECT_ROOT, Settings
from iom_platform.storage import record
from iom_platform.storage.migrate import is_migrated, migrate
from iom_platform.storage.promotions import save_promotion
from iom_platform.tables import STUDENT_RISK
from tests.plants import promotion_row, valid_frame
from tests.scratch import Connect, Scratch, ask, empty_database

COURSES = tuple(f"{module}-2013{term}" for module in ("AAA", "BBB", "CCC", "DDD", "EEE", "FFF") for term in "BJ")
STUDENTS = tuple("abcdefgh")
DAY = date(2013, 12, 16)
# login -> the roles that it holds, and the courses that it may see
PEOPLE = {
    "scope_anna": (("iom_advisor",), COURSES[:5]),
    "scope_ben": (("iom_instructor",), COURSES[4:6]),
    "scope_cleo": (("iom_advisor",), ()),
    "scope_dora": (("iom_advisor", "iom_instructor", "iom_modeler"), COURSES[10:]),
    "scope_emil": (("iom_advisor", "iom_privacy_officer"), COURSES[7:8]),  # sees every scope, and still one course
}


class Row(NamedTuple):
    as_of_on: date
    student: str
    course: str


class Query(NamedTuple):
    course: str
    student: str


def _rows() -> list[Row]:
    """Some students of each course, on two days that differ between courses."""
    drawn = random.Random(5)
    return [
        Row(DAY - timedelta(days=back * 7 + number % 3), student, course)
        for number, course in enumerate(COURSES)
        for back in (0, 1)
        for student in drawn.sample(STUDENTS, 4)
    ]


ROWS = _rows()


@pytest.fixture(scope="module")
def scratch(settings: Settings) -> Iterator[Scratch]:
    """The record as it is migrated, with rows, and people with logins."""
    with empty_database(settings) as made:
        migrate(made.connect)
        with contextlib.closing(made.connect()) as conn:
            save_promotion(conn, promotion_row())
            for day in sorted({row.as_of_on for row in ROWS}):
                keys = [(row.student, row.course) for row in ROWS if row.as_of_on == day]
                frame = valid_frame(STUDENT_RISK.path, len(keys)).assign(as_of_on=day)
                frame[["student_pseudonym", "course_id"]] = pd.DataFrame(keys)
                record.replace_partition(conn, STUDENT_RISK, day, frame)
            conn.commit()
        try:
            for name, (roles, courses) in PEOPLE.items():
                ask(made.superuser, f"CREATE ROLE {name} LOGIN PASSWORD 'x'", f"GRANT {', '.join(roles)} TO {name}")
                for course in courses:
                    ask(
                        made.connect,
                        f"INSERT INTO access.course_scopes (member, course_id) VALUES ('{name}', '{course}')",
                    )
            yield made
        finally:
            ask(made.superuser, *(f"DROP ROLE IF EXISTS {name}" for name in PEOPLE))


@pytest.fixture
def cursor(scratch: Scratch) -> Iterator[Any]:
    """The superuser's, whose work is undone after the test."""
    with contextlib.closing(scratch.superuser()) as conn, conn.cursor() as opened:
        yield opened
        conn.rollback()


# -- whose rows a role sees ----------------------------------------------------------------------------

Wanted = Callable[[Row, set[Row], Query], bool]
CONDITIONS: tuple[tuple[str, Wanted], ...] = (
    ("course_id = %(course)s", lambda row, seen, q: row.course == q.course),
    ("student_pseudonym = %(student)s", lambda row, seen, q: row.student == q.student),
    ("course_id = %(course)s OR true", lambda row, seen, q: True),
    ("course_id <> %(course)s AND risk_level IS NOT NULL", lambda row, seen, q: row.course != q.course),
    (
        "course_id IN (SELECT o.course_id FROM risk.student_risk o WHERE o.student_pseudonym = %(student)s)",
        lambda row, seen, q: row.course in {other.course for other in seen if other.student == q.student},
    ),
    (
        "EXISTS (SELECT FROM risk.current_risk o WHERE o.course_id = %(course)s)",
        lambda row, seen, q: any(other.course == q.course for other in seen),
    ),
    (
        "as_of_on >= (SELECT max(o.as_of_on) FROM risk.student_risk o WHERE o.course_id = %(course)s)",
        lambda row, seen, q: (
            any(o.course == q.course for o in seen)
            and row.as_of_on >= max(o.as_of_on for o in seen if o.course == q.course)
        ),
    ),
    # an error would tell of a row that is not shown
    ("1 / (CASE WHEN course_id = %(hidden)s THEN 0 ELSE 1 END) = 1", lambda row, seen, q: True),
)


def _newest(rows: set[Row]) -> set[Row]:
    days = {course: max(row.as_of_on for row in rows if row.course == course) for course in {r.course for r in rows}}
    return {row for row in rows if row.as_of_on == days[row.course]}


def test_ten_thousand_random_reads_show_rows_of_ones_own_courses_alone(scratch: Scratch) -> None:
    drawn = random.Random(20131216)
    of_others = shown = 0
    with contextlib.ExitStack() as stack:
        cursors = {
            name: stack.enter_context(contextlib.closing(scratch.login(name, "x")())).cursor() for name in PEOPLE
        }
        for _ in range(10_000):
            name = drawn.choice(list(PEOPLE))
            courses = PEOPLE[name][1]
            query = Query(drawn.choice(COURSES), drawn.choice(STUDENTS))
            hidden = drawn.choice([course for course in COURSES if course not in courses])
            relation = drawn.choice(["risk.student_risk", "risk.current_risk"])
            condition, is_wanted = drawn.choice(CONDITIONS)
            cursors[name].execute(
                f"SELECT as_of_on, student_pseudonym, course_id FROM {relation} WHERE {condition}",
                {"course": query.course, "student": query.student, "hidden": hidden},
            )
            found = [Row(*row) for row in cursors[name].fetchall()]
            seen = {row for row in ROWS if row.course in courses}
            rows = _newest(seen) if relation == "risk.current_risk" else seen
            assert sorted(found) == sorted(row for row in rows if is_wanted(row, seen, query)), (
                name,
                relation,
                condition,
            )
            of_others += query.course not in courses
            shown += len(found)
    assert of_others > 5_000 and shown > 10_000


def test_without_the_policy_the_same_reads_would_show_other_courses(cursor: Any) -> None:
    """What the reads above hold against is there to be leaked."""
    assert {row.course for row in ROWS} == set(COURSES)
    cursor.execute("ALTER TABLE risk.student_risk DISABLE ROW LEVEL SECURITY")
    cursor.execute("SET LOCAL ROLE scope_ben")
    cursor.execute("SELECT DISTINCT course_id FROM risk.student_risk")
    assert {row[0] for row in cursor.fetchall()} == set(COURSES)


def _seen_courses(connect: Connect, relation: str = "risk.student_risk") -> set[str]:
    return {row[0] for row in ask(connect, f"SELECT DISTINCT course_id FROM {relation}")}


def test_a_scope_is_in_force_at_once_and_so_is_its_end(scratch: Scratch) -> None:
    cleo = scratch.login("scope_cleo", "x")
    assert _seen_courses(cleo) == set()
    ask(scratch.connect, f"INSERT INTO access.course_scopes (member, course_id) VALUES ('scope_cleo', '{COURSES[0]}')")
    assert _seen_courses(cleo) == _seen_courses(cleo, "risk.current_risk") == {COURSES[0]}
    assert ask(cleo, "SELECT member, course_id, granted_by FROM access.course_scopes") == [
        ("scope_cleo", COURSES[0], "iom")
    ]
    ask(scratch.connect, "DELETE FROM access.course_scopes WHERE member = 'scope_cleo'")
    assert _seen_courses(cleo) == set()


def test_nobody_takes_anothers_scope(scratch: Scratch) -> None:
    ben = scratch.login("scope_ben", "x")
    for statement in (
        "SET ROLE scope_anna",
        "SET SESSION AUTHORIZATION scope_anna",
        "SET ROLE iom",
        "INSERT INTO access.course_scopes (member, course_id) VALUES ('scope_ben', 'AAA-2013B')",
        "UPDATE access.course_scopes SET course_id = 'AAA-2013B'",
        "ALTER TABLE risk.student_risk DISABLE ROW LEVEL SECURITY",
        "CREATE POLICY mine ON risk.student_risk USING (true)",
        "SET row_security = off; SELECT 1 FROM risk.student_risk",
        "COPY identity.students TO STDOUT",
        "SELECT identity.save_students('s', '{1}', '{p1}')",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            ask(ben, statement)
    # the group's own name is no way around: it has no scope
    assert ask(ben, "SET ROLE iom_instructor", "SELECT count(*) FROM risk.student_risk") == [(0,)]


def test_statistics_of_the_planner_show_no_row(scratch: Scratch) -> None:
    ask(scratch.connect, "ANALYZE risk.student_risk")
    shown = "SELECT count(*) FROM pg_stats WHERE schemaname = 'risk' AND tablename = 'student_risk'"
    assert ask(scratch.login("scope_ben", "x"), shown) == [(0,)]
    assert ask(scratch.superuser, shown)[0][0] > 0


def test_fairness_sees_every_course_and_the_privacy_officer_every_scope(cursor: Any) -> None:
    def counted(role: str, table: str) -> int:
        cursor.execute(f"SET LOCAL ROLE {role}")
        cursor.execute(f"SELECT count(*) FROM {table}")
        found = int(cursor.fetchone()[0])
        cursor.execute("RESET ROLE")
        return found

    assert counted("iom_fairness", "risk.student_risk") == counted("iom", "risk.student_risk") == len(ROWS)
    assert counted("iom_fairness", "risk.current_risk") == len(_newest(set(ROWS)))
    assert counted("iom_privacy_officer", "access.course_scopes") == sum(len(courses) for _, courses in PEOPLE.values())


def test_the_page_on_access_lets_a_person_in_and_out(cursor: Any) -> None:
    blocks = re.findall(r"^```sql\n(.*?)^```", (PROJECT_ROOT / "docs" / "access.md").read_text(), flags=re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines() if not line.startswith("\\")]
    assert len(lines) == 6
    seen = []
    for line in lines:
        cursor.execute(line)
        cursor.execute("SELECT to_regrole('anna') IS NOT NULL")
        if cursor.fetchone()[0] and line != lines[0]:
            cursor.execute("SET LOCAL ROLE anna")
            cursor.execute("SELECT array_agg(DISTINCT course_id) FROM risk.student_risk")
            seen.append(cursor.fetchone()[0])
            cursor.execute("RESET ROLE")
    assert seen == [None, ["BBB-2013J"], None, None]


# -- what nobody thought of ----------------------------------------------------------------------------

_UNGUARDED = """SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
    AND (n.nspname IN ('risk', 'access')
        OR ((SELECT count(*) FROM pg_attribute WHERE attrelid = c.oid AND attname IN ('student_pseudonym', 'course_id')) = 2
            AND (has_any_column_privilege('iom_advisor', c.oid, 'SELECT')
                OR has_any_column_privilege('iom_instructor', c.oid, 'SELECT'))))
    AND NOT CASE c.relkind WHEN 'v' THEN 'security_invoker=true' = ANY(coalesce(c.reloptions, '{}'))
        ELSE c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid) END
    ORDER BY 1"""


def _unguarded(cursor: Any) -> list[str]:
    """What an advisor or instructor could read whole: no policy, or one that does not hold for everybody."""
    cursor.execute(_UNGUARDED)
    return [row[0] for row in cursor.fetchall()]


_TABLE = "CREATE TABLE risk.planted (student_pseudonym text, course_id text)"


def test_every_table_that_advisors_may_read_chooses_rows(cursor: Any) -> None:
    assert _unguarded(cursor) == []


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("risk.planted", _TABLE),
        ("risk.planted", f"{_TABLE}; ALTER TABLE risk.planted ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON risk.planted USING (true)"),
        ("risk.planted", f"{_TABLE}; ALTER TABLE risk.planted ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"),
        ("risk.planted", "CREATE VIEW risk.planted AS SELECT * FROM risk.student_risk"),
        ("risk.planted", "CREATE MATERIALIZED VIEW risk.planted AS SELECT * FROM risk.student_risk"),
        ("risk.student_risk", "ALTER TABLE risk.student_risk NO FORCE ROW LEVEL SECURITY"),
        ("risk.current_risk", "ALTER VIEW risk.current_risk RESET (security_invoker)"),
        ("clustering.assignments", "GRANT SELECT ON clustering.assignments TO iom_advisor"),
        ("clustering.assignments", "GRANT SELECT (course_id) ON clustering.assignments TO iom_instructor"),
    ],
)  # fmt: skip
def test_a_planted_table_without_policy_is_seen(cursor: Any, name: str, plant: str) -> None:
    cursor.execute(plant)
    assert _unguarded(cursor) == [name]


@pytest.mark.parametrize(
    ("relation", "undo", "redo"),
    [
        ("risk.student_risk", "ALTER TABLE risk.student_risk NO FORCE ROW LEVEL SECURITY", "ALTER TABLE risk.student_risk FORCE ROW LEVEL SECURITY"),
        ("risk.current_risk", "ALTER VIEW risk.current_risk RESET (security_invoker)", "ALTER VIEW risk.current_risk SET (security_invoker = true)"),
    ],
)  # fmt: skip
def test_what_no_longer_chooses_rows_is_shut_by_the_next_command(
    scratch: Scratch, relation: str, undo: str, redo: str
) -> None:
    anna = scratch.login("scope_anna", "x")
    ask(scratch.connect, undo)
    try:
        with contextlib.closing(scratch.connect()) as conn:
            assert not is_migrated(conn)
        migrate(scratch.connect)
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            _seen_courses(anna, relation)
    finally:
        ask(scratch.connect, redo)
        migrate(scratch.connect)
    assert _seen_courses(anna, relation) == set(PEOPLE["scope_anna"][1])
