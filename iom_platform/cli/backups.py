"""`iom backup` and `iom restore`: the whole platform as a folder, and again from it.

What is in it belongs to `storage/backup.py`.
"""

from pathlib import Path

from iom_platform.cli.environment import start_platform
from iom_platform.extract.pseudonym_key import load_key
from iom_platform.flow.clock import utc_now
from iom_platform.settings import Settings, SettingsError, load_settings
from iom_platform.storage.deployment import adopt_record, own_record


def _existing_key(settings: Settings) -> bytes:
    """The key, never made anew: that of a backup is kept apart from it."""
    if settings.pseudonym_key is None and not settings.key_path.exists():
        raise SettingsError(
            f"the pseudonym key {settings.key_path} is missing; put the one there that the backup was made beside"
        )
    return load_key(settings)


def back_up(out: Path) -> None:
    from iom_platform.storage.backup import write_backup

    settings = start_platform()
    manifest = write_backup(settings, out.resolve(), key=_existing_key(settings), made_at=utc_now())
    print(f"{len(manifest.tables)} tables, the databases of Dagster and MLflow, models and reports are in {out}.")
    print("It holds personal data, the identity map among them: keep it as you keep the platform.")
    print("The pseudonym key is not in it: keep that too, and elsewhere, for a backup cannot be restored without it.")


def restore(folder: Path, *, replace: bool) -> None:
    from iom_platform.storage.backup import restore_backup

    settings = load_settings()
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    own_record(settings)
    manifest = restore_backup(settings, folder.resolve(), key=_existing_key(settings), replace=replace)
    if settings.postgres_url is not None:  # the record of the backup belongs to the home that was lost
        adopt_record(settings, reason=f"restored from a backup of {manifest.made_at}")
    start_platform()
    print(
        f"The platform is as it was at {manifest.made_at}: {len(manifest.tables)} tables have the hashes of the backup."
    )
