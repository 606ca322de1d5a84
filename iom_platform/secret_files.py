"""Secrets that stand in files: which are refused, in one sentence that names the file and the rule and no value.

What a secret opens, and who may read it, do not belong here.
"""

import ctypes
import os
import re
from pathlib import Path

LEAST_CHARACTERS = 32
_OTHERS = 0o077
_MOST_CHARACTERS = 65_536
_MAKE = "make one with `openssl rand -hex 32`"
# words that stand in defaults and examples; who draws 32 random characters meets none of them
_WELL_KNOWN = ("admin", "changeme", "change-me", "change_me", "default", "dagster", "example", "mlflow", "password",
               "postgres", "qwerty", "secret", "123456", "abcdef012345", "0123456789abcdef")  # fmt: skip
_GUESSES = ("", "admin", "changeme", "dagster", "default", "example", "guest", "iom", "letmein", "mlflow", "password",
            "postgres", "root", "secret", "test", "user", "123456", "12345678", "123456789")  # fmt: skip
# SHA-512 of at least crypt's own 5,000 rounds, or bcrypt of a cost from 10
_STRONG_HASH = re.compile(
    r"\$6\$(rounds=([5-9]\d{3}|[1-9]\d{4,})\$)?[./0-9A-Za-z]{8,16}\$[./0-9A-Za-z]{86}|\$2[aby]\$(1\d|2\d|3[01])\$[./0-9A-Za-z]{53}"
)


class SecretRefused(ValueError):
    """A secret is missing or weak; the message is one sentence with its remedy and holds no part of the secret."""

    exit_code = 3


def read_secret(path: Path, what: str, remedy: str = _MAKE) -> str:
    """The secret that stands in a file of one line; raises SecretRefused where it is missing, open to others or weak."""
    text = _read_private(path, what, remedy).strip()
    if not text:
        raise SecretRefused(f"{what} in {path} is empty; {remedy}")
    if len(text.split()) > 1:
        raise SecretRefused(f"{what} in {path} is more than one word; {remedy}")
    if len(text) < LEAST_CHARACTERS:
        raise SecretRefused(f"{what} in {path} is shorter than {LEAST_CHARACTERS} characters; {remedy}")
    if len(set(text)) < 8 or any(word in text.lower() for word in _WELL_KNOWN):
        raise SecretRefused(f"{what} in {path} is a default or an example; {remedy}")
    return text


def check_htpasswd(path: Path) -> None:
    """Raises SecretRefused unless each line of the file is a user with a strong hash of a password that is no default."""
    what, remedy = "the gateway's list of users", "write lines NAME:HASH with a hash of `openssl passwd -6`"
    lines = _read_private(path, what, remedy).splitlines()
    users = {n: line.strip() for n, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")}
    if not users:
        raise SecretRefused(f"{what} in {path} is empty; {remedy}")
    for number, line in users.items():
        name, _, rest = line.partition(":")
        hashed = rest.partition(":")[0]
        if not name or not _STRONG_HASH.fullmatch(hashed):
            raise SecretRefused(f"line {number} of {what} in {path} holds no SHA-512 or bcrypt hash; {remedy}")
        if any(_opens(guess, hashed) for guess in {*_GUESSES, name, name.lower()}):
            raise SecretRefused(f"line {number} of {what} in {path} is of a password that everybody tries; {remedy}")


def _read_private(path: Path, what: str, remedy: str) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            # the open file, not the path: between a look at the path and its reading it could be exchanged
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_MOST_CHARACTERS)
    except FileNotFoundError:
        raise SecretRefused(f"{what} should be in {path}, which is missing; {remedy}") from None
    except OSError as error:
        raise SecretRefused(f"{what} in {path} cannot be read ({error.strerror}); give the file to this user") from None
    if mode & _OTHERS:
        raise SecretRefused(f"{what} in {path} can be read by other users; run `chmod 600 {path}`")
    return text


def _opens(password: str, hashed: str) -> bool:
    """Whether the system's own crypt, which nginx asks too, lets this password in; Python has none since 3.13."""
    for name in ("libcrypt.so.1", "libcrypt.so.2"):
        try:
            crypt = ctypes.CDLL(name).crypt
        except OSError:
            continue
        crypt.restype, crypt.argtypes = ctypes.c_char_p, (ctypes.c_char_p, ctypes.c_char_p)
        return bool(crypt(password.encode(), hashed.encode()) == hashed.encode())
    raise SecretRefused("libcrypt is not installed, so no list of users can be tried; install libcrypt1")
