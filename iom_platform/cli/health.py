"""`iom doctor`: which settings are in force, which are not yet, and what is wrong.

It starts nothing and mends nothing.
"""

import shutil
import sys

from iom_platform.settings import load_settings


class Unwell(RuntimeError):
    """Something is wrong; each finding was printed."""

    exit_code = 1


def examine() -> None:
    settings = load_settings()
    wrong = []
    print("In force:")
    for section, value in settings.model_dump(exclude={"postgres_url", "pseudonym_key"}).items():
        print(f"  {section}: {value}")
    print(f"  postgres: {'a server of yours (IOM_POSTGRES_URL)' if settings.postgres_url else 'embedded'}")
    print(f"  pseudonym key: {'IOM_PSEUDONYM_KEY' if settings.pseudonym_key else settings.key_path}")
    for sentence in settings.not_in_force():
        print(f"Not in force yet: {sentence}")
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        wrong.append(f"Python {sys.version.split()[0]} is not supported; use 3.11, 3.12 or 3.13")
    if settings.key_path.exists() and settings.key_path.stat().st_mode & 0o077:
        wrong.append(f"{settings.key_path} can be read by others; chmod 600 it")
    parent = next(p for p in [settings.home, *settings.home.parents] if p.exists())
    free = shutil.disk_usage(parent).free / 2**30
    if free < 2:
        wrong.append(f"only {free:.1f} GiB are free at {parent}; the embedded default needs 2 GiB")
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    if wrong:
        raise Unwell(f"{len(wrong)} finding{'s' if len(wrong) > 1 else ''} above")
    print("Nothing is wrong.")
