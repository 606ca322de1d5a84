"""Adds fields to the lines of a CSV as they were delivered: a number that is not read again is not written otherwise.

Parsing does not belong here.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

_NEWLINE, _COMMA, _POINT, _ZERO, _ONE, _MINUS = b"\n,.01-"
_MILLION = 1_000_000


@njit(nogil=True, cache=True)
def _append(text, labels, millionths, out):  # type: ignore[no-untyped-def] # numba has no types
    row = at = 0
    for one in text:
        if one != _NEWLINE:
            out[at] = one
            at += 1
            continue
        for label in labels[row]:
            out[at] = _COMMA
            at += 1
            if label < 0:
                out[at] = _MINUS
                at += 1
            digits = abs(label)
            if digits > 9:
                out[at] = _ZERO + digits // 10
                at += 1
            out[at] = _ZERO + digits % 10
            at += 1
        if len(millionths):
            rest = millionths[row]
            out[at], out[at + 1], out[at + 2] = _COMMA, _ONE if rest == _MILLION else _ZERO, _POINT
            at += 3
            rest %= _MILLION
            power = _MILLION // 10
            while True:  # at least one digit, and no zeros at the end
                out[at] = _ZERO + rest // power
                at += 1
                rest %= power
                if rest == 0:
                    break
                power //= 10
        out[at] = _NEWLINE
        at += 1
        row += 1
    return at


def append_fields(lines: bytes, labels: Sequence[np.ndarray], shares: np.ndarray | None) -> bytes:
    """The lines with labels (n,) of -9 to 99 and at last a share (n,) of 0 to 1, to 6 digits, behind each.

    lines: n of them, each ended by one newline, none within quotes.
    """
    text = np.frombuffer(lines, dtype=np.uint8)
    table = np.column_stack(labels).astype(np.int64)
    millionths = np.empty(0, np.int64) if shares is None else np.rint(shares * _MILLION).astype(np.int64)
    out = np.empty(len(text) + len(table) * (3 * table.shape[1] + 9), dtype=np.uint8)
    return out[: _append(text, table, millionths, out)].tobytes()
