"""Loads the pseudonym key, or makes it at first use.

What the key is used for does not belong here.
"""

import binascii
import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from iom_platform.privacy.pseudonyms import KEY_BYTES
from iom_platform.secret_files import read_secret
from iom_platform.settings import Settings, SettingsError

_OTHERS = 0o077
_RESTORE = "restore it from a backup, for a new key gives every student another pseudonym"


def load_key(settings: Settings) -> bytes:
    """The key of IOM_PSEUDONYM_KEY where set, else of the 0600 file `settings.key_path`, made when absent.

    Of IOM_PSEUDONYM_KEY_FILE none is made. Raises SettingsError where the key is malformed or its file can be read by
    others, SecretRefused where a named file is missing or holds a default.
    """
    if settings.pseudonym_key is not None:
        return _decode(settings.pseudonym_key, "IOM_PSEUDONYM_KEY", "make one with `openssl rand -hex 32`")
    path = settings.key_path
    if settings.pseudonym_key_file is not None:
        return _decode(read_secret(path, "the pseudonym key", _RESTORE), str(path), _RESTORE)
    if not path.exists():
        _create(path)
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            # the open file, not the path: between a look at the path and its reading it could be exchanged
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(4096)
    except OSError as error:
        raise SettingsError(
            f"the pseudonym key {path} cannot be read ({error.strerror}); give it back to its user"
        ) from None
    if mode & _OTHERS:
        raise SettingsError(f"the pseudonym key {path} can be read by other users; run `chmod 600 {path}`")
    return _decode(text, str(path), _RESTORE)


def _decode(text: str, where: str, remedy: str) -> bytes:
    try:
        key = binascii.unhexlify(text.strip())
    except ValueError:
        raise SettingsError(f"the pseudonym key of {where} is not written in hexadecimal; {remedy}") from None
    if len(key) < KEY_BYTES:
        raise SettingsError(f"the pseudonym key of {where} is shorter than {KEY_BYTES} bytes; {remedy}")
    return key


def _create(path: Path) -> None:
    """A new key; when two processes come at once, the one that links first wins and both read the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp makes the file 0600, and a link appears whole or not at all
    handle, temporary = tempfile.mkstemp(prefix=".pseudonym.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
