"""The learner tables of the warehouse, which are millions of rows: moved, read and looked over without a frame of them.

Rows keep the order of their file, which is that of writing, so that a fit sees them as `iom cluster` does; no column tells
it. What a suite demands, and whether a table is published, does not belong here.
"""

from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING

from iom_platform.storage.session import Session
from iom_platform.tables import ANONYMIZED_LEARNER_SUMMARY, LEARNER_FEATURES, LEARNER_SOURCE, LEARNER_SUMMARY, Table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_SAMPLE_ROWS = 100_000
_MOST_SHAPES = 1000


def find_delivery(con: Session, delivered_on: date) -> str | None:
    """The delivery that tells of a day: of the accepted ones, that which landed last."""
    found = con.execute(
        "SELECT delivery_id FROM raw.deliveries WHERE source = ? AND delivered_on = ? AND is_accepted "
        "ORDER BY landed_at DESC, sha256 DESC LIMIT 1",
        [LEARNER_SOURCE, delivered_on],
    ).fetchone()
    return str(found[0]) if found else None


def release_learners(con: Session, delivery_id: str | None, as_of_on: date) -> None:
    """Put a delivery's learners in the place of that day's in anonymized/learner_summary; None: nobody."""
    names = ", ".join(("student_pseudonym", *LEARNER_FEATURES))
    with con.transaction():
        delete_day(con, ANONYMIZED_LEARNER_SUMMARY, as_of_on)
        con.execute(
            f"INSERT INTO {ANONYMIZED_LEARNER_SUMMARY.sql_name} (as_of_on, {names}) "
            f"SELECT CAST(? AS DATE), {names} FROM {LEARNER_SUMMARY.sql_name} WHERE delivery_id = ? ORDER BY file_row",
            [as_of_on, delivery_id],
        )


def delete_day(con: Session, table: Table, as_of_on: date) -> None:
    con.execute(f"DELETE FROM {table.sql_name} WHERE as_of_on = ?", [as_of_on])


def read_in_order(con: Session, as_of_on: date, columns: tuple[str, ...]) -> "Iterator[pa.RecordBatch]":
    """Some columns of a day of anonymized/learner_summary, in the order of the file; `con` may be used meanwhile."""
    chosen = f"SELECT {', '.join(columns)} FROM {ANONYMIZED_LEARNER_SUMMARY.sql_name} WHERE as_of_on = ?"
    return con.batches(f"{chosen} {con.insertion_order}", [as_of_on])


def count_repeated(con: Session, table: Table, where: str, value: object) -> tuple[int, int]:
    """Rows where `where = value`, and how many of them are of a learner who has another one."""
    [(rows, repeated)] = con.execute(
        f"SELECT count(*), count(*) - count(DISTINCT student_pseudonym) FROM {table.sql_name} WHERE {where} = ?",
        [value],
    ).fetchall()
    return rows, repeated


def cover_rows(con: Session, table: Table, where: str, value: object) -> "pd.DataFrame":
    """Few rows, one of which breaks a rule about a single value if any row where `where = value` does; none for none.

    They are nobody's: least values, greatest ones, for each column with nulls a null, for each text every distinct one, and
    of a pseudonym one of each shape, in which the characters that it may have are alike.
    """
    import pandas as pd

    chosen = f"FROM {table.sql_name} WHERE {where} = ?"
    # those that are there, of which the suite knows whether they should be
    names = con.columns_of(table)
    asked = [f"{ask}({name})" for ask in ("min", "max", "count") for name in names]
    (rows, *found) = con.execute(f"SELECT count(*), {', '.join(asked)} {chosen}", [value]).fetchall()[0]
    if not rows:
        return pd.DataFrame(columns=list(names))
    least, greatest, present = (
        dict(zip(names, some, strict=True))
        for some in (found[i : i + len(names)] for i in range(0, len(found), len(names)))
    )
    cover = [least, greatest, *({**least, name: None} for name in names if present[name] < rows)]
    for column in table.columns:
        if column.dtype == "text":
            shape = (
                f"regexp_replace({column.name}, '[a-z2-7]', 'a', 'g')" if column.kind == "identifier" else column.name
            )
            # good pseudonyms have one shape, so with the most that are looked at there are bad ones among them
            texts = con.execute(f"SELECT min({column.name}) {chosen} GROUP BY {shape} LIMIT {_MOST_SHAPES}", [value])
            cover += [{**least, column.name: text} for (text,) in texts.fetchall()]
    return pd.DataFrame(cover, columns=list(names)).drop_duplicates(ignore_index=True)


def sample_rows(con: Session, table: Table, where: str, value: object) -> "pd.DataFrame":
    """At most 100,000 of the rows where `where = value`, drawn at random."""
    names = ", ".join(con.columns_of(table))
    return con.frame(
        f"SELECT {names} FROM {table.sql_name} WHERE {where} = ? ORDER BY random() LIMIT {_SAMPLE_ROWS}", [value]
    )
