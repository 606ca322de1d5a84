"""Who may do what in the database: the roles that the record needs.

Who holds a role is for an administrator to say, and not for the platform.
"""

from typing import Any

import psycopg2.errors
from psycopg2 import sql

READER = "identity_reader"
ROLES = (READER,)


class AccessError(RuntimeError):
    """The database lacks a role; the message is one sentence with what an administrator can run."""

    exit_code = 1


def make_roles(cursor: Any) -> None:
    """Make the roles that are missing, and see that the identity map can be made where it is missing.

    Raises AccessError where the session may not; its transaction is rolled back then.
    """
    cursor.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (list(ROLES),))
    present = {row[0] for row in cursor.fetchall()}
    needed = [f"CREATE ROLE {role} NOLOGIN" for role in ROLES if role not in present]
    cursor.execute("SELECT to_regclass('identity.students') IS NULL")
    if is_map_missing := cursor.fetchone()[0]:
        needed.append(grant_statement(cursor))
    if not needed:
        return
    try:
        for statement in needed[: len(ROLES) - len(present)]:
            cursor.execute(statement)
        if is_map_missing:
            cursor.execute(f"SET LOCAL ROLE {READER}")
            cursor.execute("RESET ROLE")
    except psycopg2.errors.InsufficientPrivilege:
        cursor.connection.rollback()
        raise AccessError(
            f"the record needs roles that this session may not make or take; have an administrator run: {'; '.join(needed)}; "
            f"and run again (the grant of {READER} may be revoked afterward)"
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
