"""Keyed pseudonyms: what stands for a student id everywhere past the door.

Where the key comes from (`extract/pseudonym_key.py`) and who may map a pseudonym back do not belong here.
"""

import hmac
from collections.abc import Sequence

import numpy as np

KEY_BYTES = 32
PSEUDONYM_LENGTH = 16
_DIGEST_BYTES = 10
# the alphabet of RFC 4648 base32, in lower case
_ALPHABET = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", dtype=np.uint8)
_BIT_WEIGHTS = np.array([16, 8, 4, 2, 1], dtype=np.uint8)
_CHUNK = 65_536


def pseudonymize(key: bytes, source: str, student_ids: Sequence[str]) -> list[str]:
    """One pseudonym per id, in order: 16 characters of lower-case base32.

    They are the first 10 bytes of HMAC-SHA-256 (RFC 2104) of `source:student_id`, so that one student has
    unrelated pseudonyms in two sources. An id is the exact text: "011391" is not "11391".
    Raises ValueError for a key under 32 bytes, or a source with a colon, which would let two pairs collide.
    """
    if len(key) < KEY_BYTES:
        raise ValueError(f"a pseudonym key has at least {KEY_BYTES} bytes; this one has {len(key)}")
    if ":" in source:
        raise ValueError("a source name has no colon")
    prefix = f"{source}:"
    pseudonyms: list[str] = []
    for start in range(0, len(student_ids), _CHUNK):
        chunk = student_ids[start : start + _CHUNK]
        digests = b"".join(hmac.digest(key, (prefix + one).encode(), "sha256")[:_DIGEST_BYTES] for one in chunk)
        pseudonyms += _base32(digests, len(chunk))
    return pseudonyms


def _base32(digests: bytes, count: int) -> list[str]:
    """Base32 of `count` digests of 10 bytes each; 80 bits are 16 characters, so nothing is padded."""
    bits = np.unpackbits(np.frombuffer(digests, dtype=np.uint8)).reshape(count, PSEUDONYM_LENGTH, 5)
    characters = _ALPHABET[bits @ _BIT_WEIGHTS]
    text = characters.tobytes().decode("ascii")
    return [text[i : i + PSEUDONYM_LENGTH] for i in range(0, len(text), PSEUDONYM_LENGTH)]
