"""Promotions in the record: which model scores a day, which one no longer does, and what became of its clusters.

Whether a model deserves it is for `iom_platform.clustering.selection` to say, and loading it for `model_registry`.
"""

from collections.abc import Iterable
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import connection as Connection

from iom_platform.storage.record import RecordError, append_rows, read_table
from iom_platform.tables import ASSIGNMENTS, LINEAGE, PROMOTIONS, STUDENT_RISK

if TYPE_CHECKING:
    import pandas as pd

_NAMES = PROMOTIONS.column_names
_LOCK = 7002
_RANK = "ORDER BY trained_as_of DESC, model_version DESC"


def champion_for(conn: Connection, model_name: str, as_of_on: date) -> dict[str, Any] | None:
    """The promotion that scores that day: the newest trained on or before it; of one day, the highest version.

    One that was withdrawn scores none.
    """
    asked = (model_name, as_of_on)
    return _one(conn, f"model_name = %s AND trained_as_of <= %s AND withdrawn_at IS NULL {_RANK}", asked)


def find_promotion(conn: Connection, model_name: str, model_version: int) -> dict[str, Any] | None:
    """The promotion of a version, withdrawn or not; None where it was never promoted."""
    return _one(conn, "model_name = %s AND model_version = %s", (model_name, model_version))


def read_promotions(conn: Connection, model_name: str) -> list[dict[str, Any]]:
    """Every promotion of a model, in the order in which they would score: the first that stands is the champion."""
    with conn.cursor() as cursor:
        cursor.execute(_select(f"model_name = %s {_RANK}"), (model_name,))
        return [dict(zip(_NAMES, row, strict=True)) for row in cursor.fetchall()]


def _select(where: str) -> str:
    return f"SELECT {', '.join(_NAMES)} FROM {PROMOTIONS.sql_name} WHERE {where}"


def _one(conn: Connection, where: str, values: tuple[Any, ...]) -> dict[str, Any] | None:
    with conn.cursor() as cursor:
        cursor.execute(f"{_select(where)} LIMIT 1", values)
        row = cursor.fetchone()
    return None if row is None else dict(zip(_NAMES, row, strict=True))


def lock_promotions(conn: Connection) -> None:
    """Wait until no other transaction changes promotions."""
    with conn.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


def save_promotion(conn: Connection, row: dict[str, Any]) -> None:
    """Add a promotion; the same version with the same fit key again changes nothing, with another one it raises."""
    row = {"withdrawn_because": None, "withdrawn_at": None, **row}
    if set(row) != set(_NAMES):
        raise RecordError(f"a promotion has exactly the columns {', '.join(_NAMES)}; mend the row")
    with conn.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {PROMOTIONS.sql_name} ({', '.join(_NAMES)}) VALUES %s ON CONFLICT DO NOTHING",
            (tuple(row[name] for name in _NAMES),),
        )
        if cursor.rowcount == 0:
            known = find_promotion(conn, row["model_name"], row["model_version"])
            if known is None or known["fit_key"] != row["fit_key"]:
                raise RecordError(
                    f"version {row['model_version']} of {row['model_name']} is already promoted with another fit key; "
                    "register a new version"
                )


def withdraw_promotions(
    conn: Connection, model_name: str, versions: Iterable[int], *, because: str, at: datetime
) -> None:
    """Let versions score no day any more; what they scored stays until those days are scored again."""
    with conn.cursor() as cursor:
        cursor.execute(
            f"UPDATE {PROMOTIONS.sql_name} SET withdrawn_because = %s, withdrawn_at = %s "
            "WHERE model_name = %s AND model_version = ANY(%s) AND withdrawn_at IS NULL",
            (because, at, model_name, list(versions)),
        )


def reinstate_promotion(conn: Connection, model_name: str, model_version: int, *, reason: str) -> None:
    """Let a version that was withdrawn score its days again, for another reason than before."""
    with conn.cursor() as cursor:
        cursor.execute(
            f"UPDATE {PROMOTIONS.sql_name} SET withdrawn_because = NULL, withdrawn_at = NULL, reason = %s "
            "WHERE model_name = %s AND model_version = %s AND withdrawn_at IS NOT NULL",
            (reason, model_name, model_version),
        )


def days_of_others(conn: Connection, model_name: str) -> list[date]:
    """Days with published rows of another version than their champion's, oldest first.

    Observed enrollments that nothing assigned count too where there is a champion now: they are UNKNOWN without need.
    """
    published = f"""SELECT as_of_on, model_version FROM {ASSIGNMENTS.sql_name} WHERE model_name = %s
        UNION SELECT as_of_on, model_version FROM {STUDENT_RISK.sql_name} WHERE model_name = %s
        UNION SELECT as_of_on, NULL FROM {STUDENT_RISK.sql_name} WHERE is_observed
            AND as_of_on NOT IN (SELECT as_of_on FROM {ASSIGNMENTS.sql_name})"""
    with conn.cursor() as cursor:
        cursor.execute(published, (model_name, model_name))
        found = cursor.fetchall()
    champions = {day: champion_for(conn, model_name, day) for day in {day for day, _ in found}}
    return sorted({day for day, version in found if (champions[day] or {}).get("model_version") != version})


# -- lineage -------------------------------------------------------------------------------------------


def save_lineage(conn: Connection, frame: "pd.DataFrame") -> None:
    """Add the lineage of one version; one that is there is left, for published rows name its uids."""
    if not len(read_lineage(conn, frame["model_name"].iloc[0], int(frame["model_version"].iloc[0]))):
        append_rows(conn, LINEAGE, frame)


def read_lineage(conn: Connection, model_name: str, model_version: int) -> "pd.DataFrame":
    """The lineage rows of one version, sorted by uid."""
    found = read_table(conn, LINEAGE)
    is_asked = (found["model_name"] == model_name) & (found["model_version"] == model_version)
    return found[is_asked].reset_index(drop=True)
