"""`iom tables` and `iom export`: what the tables hold, and one of them in a file.

Who may see an identity is decided by PostgreSQL, not here.
"""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from iom_platform.cli.environment import start_platform
from iom_platform.cli.runs import UsageError
from iom_platform.settings import Settings
from iom_platform.tables import Table, find_table

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


def _read(settings: Settings, table: Table, as_of_on: date | None) -> "pd.DataFrame":
    if table.home == "record":
        from iom_platform.storage.record import open_record
        from iom_platform.storage.record import read_table as read_record

        with open_record(settings) as conn:
            return read_record(conn, table, as_of_on)
    from iom_platform.storage.warehouse import open_warehouse
    from iom_platform.storage.warehouse import read_table as read_warehouse

    with open_warehouse(settings, purpose=f"export {table.path}", write=False) as con:
        return read_warehouse(con, table, as_of_on)


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


def export_table(path: str, out: Path, *, as_of_on: date | None, identified: bool, reason: str) -> None:
    """Write a table, or one day of it, to a .csv or .parquet file, whole or not at all."""
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
    if identified and "student_pseudonym" not in table.column_names:
        raise UsageError(f"{path} has no student; leave --identified away")
    if identified and not reason.strip():
        raise UsageError("--identified needs --reason: it is kept in the audit")
    settings = start_platform()
    frame = _read(settings, table, as_of_on)
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
            as_of_on=as_of_on,
            pseudonyms=sorted(set(frame["student_pseudonym"])),
        )
        frame = _with_identities(frame, names)
    _write_whole(frame, out, private=identified)
    days = f" for {as_of_on}" if as_of_on else ""
    print(f"{len(frame):,} rows of {path}{days} written to {out}")
    if table.stage in ("raw", "features"):
        print("This table lies before the wall: demographics are as delivered. Treat the file as personal data.")
    if identified:
        print("It holds student ids; this use is noted in audit.exports. Delete the file when it has served.")
