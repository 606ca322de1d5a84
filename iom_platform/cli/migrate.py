"""`iom migrate`: at which revision the record is, and the way to another one.

What a revision changes, and what it refuses, does not belong here.
"""

from iom_platform.cli.runs import UsageError
from iom_platform.settings import load_settings
from iom_platform.storage.migrate import describe_revisions, list_revisions, read_revision
from iom_platform.storage.record import migrate_record, open_record


def show_revisions(to: str | None) -> None:
    """Print every revision and whether the record has it; nothing is changed."""
    if to is not None:
        raise UsageError("--show changes nothing, and --to goes to a revision; leave one of them away")
    with open_record(load_settings()) as conn, conn.cursor() as cursor:
        found = read_revision(cursor)
    for revision, what in describe_revisions():
        state = "applied" if found in list_revisions() and revision <= found else "to come"
        print(f"{revision}  {state}  {what}")


def migrate_to(to: str | None) -> None:
    """Take the record to a revision, by default the newest, and say so."""
    before, after = migrate_record(load_settings(), to)
    print(f"The record {'is at' if before == after else f'went from {before} to'} revision {after}.")
    newest = list_revisions()[-1]
    if after != newest:
        print(
            f"The next command of this version of the platform takes it to {newest} again: install the other one first."
        )
