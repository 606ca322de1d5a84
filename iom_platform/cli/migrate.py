"""`iom migrate`: at which revision the record is, and the way to another one.

What a revision changes, and what it refuses, does not belong here.
"""

from iom_platform.cli.runs import UsageError
from iom_platform.settings import Settings, load_settings
from iom_platform.storage.deployment import own_record
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


def _make_room(settings: Settings) -> None:
    """What the services of a deployment expect to find: MLflow's server would migrate without a lock, and rights want tables."""
    from iom_platform.storage.model_registry import Registry
    from iom_platform.storage.warehouse import open_warehouse, prepare_warehouse

    Registry.of(settings).prepare()
    if settings.engine == "postgres":
        with open_warehouse(settings, purpose="iom migrate", write=True) as con:
            prepare_warehouse(con)


def migrate_to(to: str | None) -> None:
    """Take the record to a revision, and say so; to the newest by default, with all else that the services need."""
    settings = load_settings()
    own_record(settings)
    if to is None:
        _make_room(settings)
    before, after = migrate_record(settings, to)
    print(f"The record {'is at' if before == after else f'went from {before} to'} revision {after}.")
    newest = list_revisions()[-1]
    if after != newest:
        print(
            f"The next command of this version of the platform takes it to {newest} again: install the other one first."
        )
