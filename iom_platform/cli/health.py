"""`iom doctor`: which settings are in force, which are not yet, and what is wrong.

It starts nothing and mends nothing.
"""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from iom_platform.settings import Settings, SettingsError, load_settings

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# name, lowest and highest number, names, and what else Dagster understands in the five fields of a cron expression
_CRON_FIELDS: tuple[tuple[str, int, int, dict[str, int], str], ...] = (
    ("minute", 0, 59, {}, ""),
    ("hour", 0, 23, {}, ""),
    ("day of month", 1, 31, {}, r"\?|l"),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}, ""),
    ("weekday", 0, 7, {name: number for number, name in enumerate(_WEEKDAYS)}, r"\?|l?[0-7]|[0-7a-z]+#[1-5]"),
)
_CRON_ITEM = re.compile(r"(?:\*|(\w+)(?:-(\w+))?)(?:/(\d+))?")
_DUCKDB_MAGIC = b"DUCK"  # after a checksum of eight bytes


_SECRETS: dict[str, Any] = {"postgres_url": True, "pseudonym_key": True}
# what `Settings.not_in_force` speaks of
_NOT_BUILT: dict[str, Any] = {
    "privacy": {"differential_privacy", "epsilon"},
    "notifications": True,
}


class Unwell(RuntimeError):
    """Something is wrong; each finding was printed."""

    exit_code = 1


def examine() -> None:
    settings = load_settings()
    print("In force:")
    for section, value in settings.model_dump(mode="json", exclude=_SECRETS | _NOT_BUILT, exclude_none=True).items():
        pairs = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"  {section}: {pairs}")
    print(f"  postgres: {'a server of yours (IOM_POSTGRES_URL)' if settings.postgres_url else 'embedded'}")
    print(f"  pseudonym key: {'IOM_PSEUDONYM_KEY' if settings.pseudonym_key else settings.key_path}")
    wrong = find_wrong(settings)
    other = None if wrong else _show_champion(settings)
    for sentence in settings.not_in_force():
        print(f"Not in force yet: {sentence}")
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    if wrong:
        raise Unwell(f"{len(wrong)} finding{'s' if len(wrong) > 1 else ''} above")
    print("Nothing else is wrong." if other else "Nothing is wrong.")


def _show_champion(settings: Settings) -> str | None:
    """Print what the newest model is; returns in what the settings differ from it, which is printed too."""
    from iom_platform.storage.champion import read_champion, read_days_of_others
    from iom_platform.storage.postgres_server import find_server
    from iom_platform.storage.record import RecordError

    server = find_server(settings)
    if server is None:
        print("  champion: not read, for PostgreSQL does not run")
        return None
    try:
        champion = read_champion(server)
    except RecordError as error:
        print(f"  champion: not read, for {error}")
        return None
    print(f"  champion: {champion or 'none yet'}")
    for sentence in read_days_of_others(server) if champion else ():
        print(f"  {sentence}")
    other = champion.other_than(settings.clustering) if champion else None
    if other:
        print(f"WARNING: the champion scores, and {other}")
    return other


def find_wrong(settings: Settings) -> list[str]:
    """What is wrong, one sentence with its remedy each."""
    home = _wrong_home(settings.home)
    # without its home nothing can be said of the files in it
    files = [] if home else [*_wrong_key(settings), *_wrong_warehouse(settings)]
    return [
        *_wrong_installation(),
        *home,
        *files,
        *_wrong_server(settings),
        *_wrong_cron(settings.schedule.nightly_cron),
    ]


def _wrong_installation() -> list[str]:
    found = []
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        found.append(f"Python {sys.version.split()[0]} is not supported; use 3.11, 3.12 or 3.13")
    dbt = Path(sys.executable).with_name("dbt")
    if not os.access(dbt, os.X_OK):
        found.append(f"{dbt} is missing or cannot be executed; install the lock again")
    return found


def _wrong_home(home: Path) -> list[str]:
    parent = next(p for p in [home, *home.absolute().parents] if os.path.lexists(p))
    if not parent.is_dir():
        return [f"the home {home} cannot be made, for {parent} is no folder; move that away or set IOM_HOME"]
    if not os.access(parent, os.R_OK | os.W_OK | os.X_OK):
        return [f"{parent} cannot be written, and the home is {home}; give it to this user or set IOM_HOME"]
    free = shutil.disk_usage(parent).free / 2**30
    if free < 2:
        return [f"only {free:.1f} GiB are free at {parent}; the embedded default needs 2 GiB"]
    return []


def _wrong_key(settings: Settings) -> list[str]:
    path = settings.key_path
    if settings.pseudonym_key is None and not path.exists():
        if not _has_warehouse(settings):
            return []  # the first landing makes both
        return [
            f"the pseudonym key {path} is missing although a warehouse exists; restore it from a backup, "
            "for a new key gives every student another pseudonym"
        ]
    if settings.pseudonym_key is None and path.stat().st_mode & 0o077:
        return [f"{path} can be read by others; chmod 600 it"]
    from iom_platform.extract.pseudonym_key import load_key

    try:
        load_key(settings)  # it exists, so none is made
    except SettingsError as error:
        return [str(error)]
    return []


def _has_warehouse(settings: Settings) -> bool:
    if settings.engine == "duckdb":
        return settings.warehouse_path.exists()
    from iom_platform.storage.server_place import ServerError
    from iom_platform.storage.warehouse import has_warehouse
    from iom_platform.storage.warehouse_lock import WarehouseError

    try:
        return has_warehouse(settings)
    except (ServerError, WarehouseError):
        return False  # `_wrong_server` says why


def _wrong_warehouse(settings: Settings) -> list[str]:
    path = settings.warehouse_path
    if settings.engine != "duckdb" or not path.exists():
        return []
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        return [f"the warehouse {path} cannot be read ({error.strerror}); give it back to its user"]
    if start[8:] != _DUCKDB_MAGIC:
        return [f"the warehouse {path} is no DuckDB file; restore it from a backup, or move it away and land again"]
    if not os.access(path, os.W_OK):
        return [f"the warehouse {path} cannot be written; give it back to its user"]
    return []


def _wrong_server(settings: Settings) -> list[str]:
    if settings.postgres_url is None:
        return []
    from iom_platform.storage.postgres_server import server_status
    from iom_platform.storage.server_place import ServerError

    try:
        problem = server_status(settings).get("problem")
    except ServerError as error:
        problem = str(error)
    return [problem] if problem else []


def _wrong_cron(cron: str) -> list[str]:
    """Numbers that no clock or calendar has; Dagster itself takes too long to import."""
    for text, (field, lowest, highest, names, special) in zip(cron.lower().split(), _CRON_FIELDS, strict=True):
        for item in text.split(","):
            if special and re.fullmatch(special, item):
                continue
            match = _CRON_ITEM.fullmatch(item)
            ends = [str(names.get(end, end)) for end in match.groups()[:2] if end] if match else []
            good = all(end.isdecimal() and lowest <= int(end) <= highest for end in ends)
            if not match or not good or (match[3] is not None and int(match[3]) == 0):
                return [
                    f"schedule.nightly_cron {cron!r}: Dagster refuses {item!r} as {field}; "
                    f"write {lowest} to {highest}, as in '30 23 * * *'"
                ]
    _, _, day, month, _ = cron.lower().split()
    if day in ("30", "31") and month in ("2", "feb"):
        return [f"schedule.nightly_cron {cron!r}: February has no day {day}; write another day or month"]
    return []
