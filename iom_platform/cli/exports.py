"""`iom tables`, `iom export` and `iom audit`: what the tables hold, one of them in a file, and who asked for names.

Who may see an identity is decided by PostgreSQL, not here.
"""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from iom_platform.cli.environment import start_platform
from iom_platform.cli.runs import UsageError
from iom_platform.settings import Settings
from iom_platform.tables import STUDENT_RISK, Table, find_table

if TYPE_CHECKING:
    import pandas as pd


class NothingThere(LookupError):
    """The table or the day has no rows yet."""

    exit_code = 7


def print_tables() -> None:
    from iom_platform.storage.warehouse import count_tables

    settings = start_platform()
    print(f"{'table':<32} {'rows':>12}  {'newest as-of':<12}  home")
    for row in count_tables(settings):
        rows = "absent" if row.rows is None else f"{row.rows:,}"
        print(f"{row.path:<32} {rows:>12}  {row.newest_as_of or ''!s:<12}  {row.home}")


def _read(
    settings: Settings, table: Table, as_of_on: date | None, *, all_days: bool
) -> "tuple[pd.DataFrame, date | None]":
    """The rows, and the day that they are of: the one asked for, else the newest; None for all of them."""
    is_dated = "as_of_on" in table.column_names and not all_days
    if table.home == "record":
        from iom_platform.storage import record

        with record.open_record(settings) as conn:
            if is_dated and as_of_on is None:
                as_of_on = (record.count_rows(conn, table) or (0, None))[1]
            return record.read_table(conn, table, as_of_on), as_of_on
    from iom_platform.storage import warehouse

    with warehouse.open_warehouse(settings, purpose=f"export {table.path}", write=False) as con:
        counted = warehouse.count_rows(con, table)
        if counted is None:
            raise NothingThere(f"{table.path} is not there yet; `iom tables` shows what there is")
        if is_dated and as_of_on is None:
            as_of_on = counted[1]
        return warehouse.read_table(con, table, as_of_on), as_of_on


def _write_whole(frame: "pd.DataFrame", out: Path, *, private: bool) -> None:
    part = out.with_name(f".{out.name}.part")
    try:
        part.unlink(missing_ok=True)
        part.touch(mode=0o600 if private else 0o666, exist_ok=False)
        frame.to_csv(part, index=False) if out.suffix == ".csv" else frame.to_parquet(part, index=False)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _with_identities(frame: "pd.DataFrame", names: dict[str, tuple[str, str]]) -> "pd.DataFrame":
    """The rows with student_id and source in front: two sources may know one id, each for another student."""
    known = [names.get(pseudonym, (None, None)) for pseudonym in frame["student_pseudonym"]]
    rest = frame.drop(columns="source", errors="ignore")
    rest.insert(0, "student_id", [student for _, student in known])
    rest.insert(1, "source", frame["source"] if "source" in frame else [source for source, _ in known])
    return rest


def export_table(path: str, out: Path, *, as_of_on: date | None, all_days: bool, identified: bool, reason: str) -> None:
    """Write one day of a table, by default the newest, or all of it, to a .csv or .parquet file, whole or not at all."""
    try:
        table = find_table(path)
    except KeyError as error:
        raise UsageError(str(error.args[0])) from None
    if out.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--out {out.name}: the name must end in .csv or .parquet")
    if not out.resolve().parent.is_dir():
        raise UsageError(f"--out {out}: its folder does not exist; create it first")
    if as_of_on and "as_of_on" not in table.column_names:
        raise UsageError(f"{path} has no as-of day; leave --as-of away")
    if as_of_on and all_days:
        raise UsageError("--as-of asks for one day and --all-days for every one; leave one of them away")
    if identified and "student_pseudonym" not in table.column_names:
        raise UsageError(f"{path} has no student; leave --identified away")
    if identified and not reason.strip():
        raise UsageError("--identified needs --reason: it is kept in the audit")
    if reason and not identified:
        raise UsageError("--reason is kept for --identified alone; add that, or leave --reason away")
    settings = start_platform()
    frame, day = _read(settings, table, as_of_on, all_days=all_days)
    if frame.empty:
        raise NothingThere(
            f"{path} has no rows{f' for {as_of_on}' if as_of_on else ''}; `iom tables` shows what there is"
        )
    if identified:
        from iom_platform.storage.record import read_identities

        names = read_identities(
            settings,
            reason=reason,
            table_name=path,
            as_of_on=day,
            pseudonyms=list(frame["student_pseudonym"]),
        )
        frame = _with_identities(frame, names)
    if table is STUDENT_RISK:  # as it is read: course by course, those to talk to first
        frame = frame.sort_values(["as_of_on", "course_id", "risk_score"], ascending=[True, True, False])
    _write_whole(frame, out, private=identified)
    newest = ", the newest day," if day != as_of_on else ""
    print(f"{len(frame):,} rows of {path}{f' for {day}' if day else ''}{newest} written to {out}")
    for sentence in _cautions(table, identified=identified):
        print(sentence)


def _cautions(table: Table, *, identified: bool) -> Iterator[str]:
    if identified:
        yield "It holds student ids; this use is noted in the audit (`iom audit`). Delete the file when it has served."
    elif table.is_about_persons:
        yield (
            "Students are under pseudonyms, which is not anonymous: who knows a student may recognize the row. "
            "Treat the file as personal data."
        )
    if table.is_about_persons and table.stage in ("raw", "features"):
        yield "This table lies before the wall: demographics are as delivered."


def print_audit() -> None:
    """Every identified export as CSV on standard output."""
    from iom_platform.storage.record import read_audit

    print(read_audit(start_platform()).to_csv(index=False), end="")
