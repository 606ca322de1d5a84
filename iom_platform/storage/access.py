"""Who may do what in the database: the roles, and one table of their rights, which is granted, tested and shown in the docs.

Which rows of a table a role sees, its policies say: they belong to the revision that made it. Who holds a role is for an
administrator to say.
"""

from collections.abc import Mapping
from typing import Any

import psycopg2.errors
from psycopg2 import sql

READER = "identity_reader"
OWNER = "owner"  # stands for the role that the platform connects as
VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
_READ, _WRITE = VERBS[:1], VERBS[:4]
_OF_ONES_COURSES = {"risk/student_risk": _READ, "risk/current_risk": _READ, "access/course_scopes": _READ}

Rights = Mapping[str, Mapping[str, tuple[str, ...]]]
# role -> stage/table -> verbs; stage/* is every table of the stage, those too that do not exist yet
RIGHTS: Rights = {
    "iom_loader": {"raw/*": _WRITE},
    "iom_modeler": {"anonymized/*": _READ, "clustering/*": _READ},
    # the protected columns of features/student_term come here with the report that needs them, and not before
    "iom_fairness": {"anonymized/*": _READ, "risk/student_risk": _READ, "risk/current_risk": _READ},
    "iom_advisor": _OF_ONES_COURSES,
    "iom_instructor": _OF_ONES_COURSES,
    "iom_privacy_officer": {
        "anonymized/*": _READ, "raw/quarantine": _READ, "audit/exports": _READ, "access/course_scopes": _READ,
    },
    "iom_auditor": {"audit/exports": _READ},
}  # fmt: skip
# what nobody granted, for it comes with owning a table; an owner may not change what the audit says
BY_OWNING: Rights = {
    OWNER: {
        **{f"{stage}/*": VERBS for stage in ("raw", "staging", "intermediate", "features", "anonymized", "clustering", "risk", "access", "migrations")},
        "audit/exports": VERBS[:2],
    },
    READER: {"identity/students": VERBS},
}  # fmt: skip
ROLES = (READER, *RIGHTS)
_STAGES = ("raw", "staging", "intermediate", "features", "anonymized", "clustering", "risk", "audit", "access")
# a person's rows stand in these: nothing is granted there on what does not choose rows by who asks
_SECURED_STAGES = ("risk", "access")
# dbt makes the tables of the other stages anew as it likes; nobody is let into those, so their tables need no look
_GRANTED_STAGES = tuple(s for s in _STAGES if any(path.startswith(f"{s}/") for on in RIGHTS.values() for path in on))
# what is the session's own of stages (''), tables to come ('*') and tables, and what the roles and PUBLIC were granted there
_FOUND = """WITH grantee (oid, name) AS (
        SELECT oid, rolname::text FROM pg_roles WHERE rolname = ANY(%(roles)s) UNION ALL SELECT 0, 'PUBLIC'),
    stage AS (
        SELECT oid, nspname, nspacl FROM pg_namespace
        WHERE nspname = ANY(%(stages)s) AND pg_get_userbyid(nspowner) = current_user),
    relation AS (
        SELECT c.oid, nspname, relname, relacl, (relrowsecurity AND relforcerowsecurity)
            OR 'security_invoker=true' = ANY(coalesce(reloptions, '{}')) AS is_secured
        FROM stage JOIN pg_class c ON c.relnamespace = stage.oid AND c.relkind IN ('r', 'p', 'v', 'm')
        WHERE nspname = ANY(%(granted_stages)s) AND pg_get_userbyid(c.relowner) = current_user),
    thing (stage, name, is_secured, kind, acl) AS (
        SELECT nspname, '', true, '', nspacl FROM stage
        UNION ALL SELECT nspname, '*', false, '', defaclacl FROM stage
            LEFT JOIN pg_default_acl ON defaclnamespace = stage.oid AND defaclobjtype = 'r'
                AND pg_get_userbyid(defaclrole) = current_user
        UNION ALL SELECT nspname, relname, is_secured, '', relacl FROM relation
        UNION ALL SELECT nspname, relname, is_secured, 'column ', attacl FROM relation
            JOIN pg_attribute ON attrelid = relation.oid AND attacl IS NOT NULL)
    SELECT stage, thing.name, is_secured,
        coalesce(array_agg(grantee.name || ' ' || kind || privilege_type) FILTER (WHERE grantee.name IS NOT NULL), '{}')
    FROM thing LEFT JOIN LATERAL aclexplode(acl) ON true LEFT JOIN grantee ON grantee.oid = grantee
    GROUP BY 1, 2, 3 ORDER BY 1, 2"""


class AccessError(RuntimeError):
    """The database lacks a role; the message is one sentence with what an administrator can run."""

    exit_code = 1


def verbs_of(rights: Mapping[str, tuple[str, ...]], stage: str, table: str) -> tuple[str, ...]:
    """What one role may do with a table, by its rights."""
    return rights.get(f"{stage}/{table}", rights.get(f"{stage}/*", ()))


# -- rights --------------------------------------------------------------------------------------------


def is_granted(cursor: Any) -> bool:
    """Whether `grant_rights` has nothing to do; one question, for no lock."""
    return not _find_wrong(cursor)


def grant_rights(cursor: Any) -> None:
    """Let the roles do on what is there what RIGHTS says, and nothing else; repeatable, in the caller's transaction.

    Stages of the warehouse are there where it lives in this database. What others own is left alone, and so is what is right:
    another session may be at work with it.
    """
    everybody = sql.SQL(", ").join([sql.SQL("PUBLIC"), *map(sql.Identifier, RIGHTS)])
    for stage, table, wanted in _find_wrong(cursor):
        before, what = _place(stage, table)
        cursor.execute(before + sql.SQL("REVOKE ALL {} FROM {}").format(what, everybody))
        for role, verbs in wanted.items():
            names = sql.SQL(", ".join(verbs))
            cursor.execute(before + sql.SQL("GRANT {} {} TO {}").format(names, what, sql.Identifier(role)))


def _place(stage: str, table: str) -> tuple[sql.Composed, sql.Composed]:
    """What stands before GRANT or REVOKE, and what behind it."""
    schema = sql.Identifier(stage)
    if table == "*":
        return sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {} ").format(schema), sql.SQL("ON TABLES").format()
    what = sql.SQL("ON {}").format(sql.Identifier(stage, table)) if table else sql.SQL("ON SCHEMA {}").format(schema)
    return sql.SQL("").format(), what


def _find_wrong(cursor: Any) -> list[tuple[str, str, dict[str, tuple[str, ...]]]]:
    """(stage, table, role -> verbs that it should have) wherever another is found; see _FOUND."""
    asked = {"roles": list(RIGHTS), "stages": list(_STAGES), "granted_stages": list(_GRANTED_STAGES)}
    cursor.execute(_FOUND, asked)
    wrong = []
    for stage, table, is_secured, found in cursor.fetchall():
        wanted = {role: verbs for role, on in RIGHTS.items() if (verbs := _wanted(on, stage, table, is_secured))}
        if set(found) != {f"{role} {verb}" for role, verbs in wanted.items() for verb in verbs}:
            wrong.append((stage, table, wanted))
    return wrong


def _wanted(on: Mapping[str, tuple[str, ...]], stage: str, table: str, is_secured: bool) -> tuple[str, ...]:
    if not table:
        return ("USAGE",) if any(path.startswith(f"{stage}/") for path in on) else ()
    return verbs_of(on, stage, table) if is_secured or stage not in _SECURED_STAGES else ()


# -- roles ---------------------------------------------------------------------------------------------


def make_roles(cursor: Any) -> None:
    """Make the roles that are missing, and see that the identity map can be made where it is missing.

    Raises AccessError where the session may not; its transaction is rolled back then.
    """
    cursor.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (list(ROLES),))
    present = {row[0] for row in cursor.fetchall()}
    making = [f"CREATE ROLE {role} NOLOGIN" for role in ROLES if role not in present]
    cursor.execute("SELECT to_regclass('identity.students') IS NULL")
    taking = [grant_statement(cursor)] if cursor.fetchone()[0] else []
    try:
        for statement in making:
            cursor.execute(statement)
        if taking:
            cursor.execute(f"SET LOCAL ROLE {READER}")
            cursor.execute("RESET ROLE")
    except psycopg2.errors.InsufficientPrivilege:
        cursor.connection.rollback()
        raise AccessError(
            "the record needs roles that this session may not make or take; have an administrator run: "
            f"{'; '.join([*making, *taking])}; and run again (the grant of {READER} may be revoked afterward)"
        ) from None


def grant_statement(cursor: Any) -> str:
    """What lets the session read identities on purpose, but never in passing."""
    cursor.execute("SELECT session_user")
    names = {"reader": sql.Identifier(READER), "user": sql.Identifier(cursor.fetchone()[0])}
    # INHERIT is an option of the grant since PostgreSQL 16, before it was one of the role
    is_new = cursor.connection.server_version >= 160000
    text = (
        "GRANT {reader} TO {user} WITH INHERIT FALSE"
        if is_new
        else "ALTER ROLE {user} NOINHERIT; GRANT {reader} TO {user}"
    )
    return str(sql.SQL(text).format(**names).as_string(cursor))
