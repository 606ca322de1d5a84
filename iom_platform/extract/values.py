"""Judges delivered values: text to a typed value, or the rule that it breaks, once per distinct value of a block.

Rules over several columns, rows or files do not belong here (`landing.py` knows them).
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iom_platform.extract.source import Field

MASK_LENGTH = 40
TEXT_LENGTH = 1000
ID_LENGTH = 64
_MISSING = ("", "?")
_SPACES = " \t\v\f"
_WHOLE = re.compile(r"-?\d+", re.ASCII)
_DECIMAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?(nan|inf(inity)?)", re.IGNORECASE)
_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_LIMITS = {"int": (-(2**31), 2**31 - 1), "bigint": (-(2**63), 2**63 - 1)}
ARROW_TYPES: dict[str, pa.DataType] = {
    "text": pa.string(), "json": pa.string(), "int": pa.int32(), "bigint": pa.int64(), "float": pa.float64(),
    "bool": pa.bool_(), "date": pa.date32(), "timestamp": pa.timestamp("us"),
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A broken rule, and what the sender can do."""

    rule: str
    remedy: str


MISSING = Problem("missing value", "deliver the value; ? and an empty field are missing")
NOT_A_NUMBER = Problem("text in a number", "write a number with a point as decimal mark and nothing else")
NOT_WHOLE = Problem("fraction in a whole number", "write a whole number, 19 and not 19.0")
NOT_FINITE = Problem("number that is not finite", "write a finite number, or ? where it is missing")
TOO_BIG = Problem("number out of range", "write a number that fits the column")
NOT_A_DATE = Problem("not a date", "write the day as YYYY-MM-DD")
NOT_A_TIME = Problem("not a UTC time", "write the time as 2026-11-20T09:31:07Z")
NOT_AN_ID = Problem(f"not an id of at most {ID_LENGTH} printable characters", "deliver the id as the LMS writes it")
TOO_LONG_TEXT = Problem(f"text longer than {TEXT_LENGTH} characters", "shorten the text")


def mask(text: str | None) -> str | None:
    """The shape of a value, at most MASK_LENGTH characters: letters as a, digits as 9, unprintable ones as \ufffd."""
    if text is None:
        return None
    shape = "".join(
        "9" if c.isnumeric() else "a" if c.isalpha() else c if c.isascii() and c.isprintable() else "\ufffd"
        for c in text[: MASK_LENGTH + 1]
    )
    return shape if len(shape) <= MASK_LENGTH else shape[: MASK_LENGTH - 1] + "…"


class Values:
    """A column of a block: `codes` (n,) into `texts`, `values` and `problems`, which have one entry per distinct text.

    A timestamp column that holds no bad value has `array` instead, for its texts are nearly all distinct.
    """

    def __init__(self, field: Field, texts: list[str], codes: np.ndarray, array: pa.Array | None = None) -> None:
        judged: list[Any] = [judge(field, text) for text in texts]
        self.field = field
        self.texts = texts
        self.codes = codes
        self.array = array
        self.problems: list[Problem | None] = [one if isinstance(one, Problem) else None for one in judged]
        self.values: list[Any] = [None if isinstance(one, Problem) else one for one in judged]

    def flags(self) -> np.ndarray | None:
        """(n,) bool: rows whose value breaks a rule; None where there is none."""
        if not any(self.problems):
            return None
        flags: np.ndarray = np.array([problem is not None for problem in self.problems])[self.codes]
        return flags

    def text_at(self, row: int) -> str:
        return self.texts[int(self.codes[row])]

    def problem_at(self, row: int) -> Problem:
        problem = self.problems[int(self.codes[row])]
        assert problem is not None
        return problem

    def numbers(self) -> np.ndarray:
        """(n,) int64 of a whole-number column; 0 where it is null or bad."""
        numbers: np.ndarray = np.array([value or 0 for value in self.values], dtype=np.int64)[self.codes]
        return numbers

    def arrow(self, rows: np.ndarray | None) -> pa.Array:
        """The typed values of `rows` (their numbers; None: all)."""
        if self.array is not None:
            return self.array if rows is None else self.array.take(pa.array(rows))
        codes = self.codes if rows is None else self.codes[rows]
        return pa.array(self.values, ARROW_TYPES[self.field.column.dtype]).take(pa.array(codes))


def decode(field: Field, column: pa.ChunkedArray | None, count: int) -> Values:
    """The judged values of a parsed column; `column` is None where the file has no such optional column."""
    if column is None:
        return Values(field, [""], np.zeros(count, dtype=np.int64))
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if field.column.dtype == "timestamp":
        times = _cast_times(array)
        if times is not None and not (times.null_count and not field.column.nullable):
            return Values(field, [], np.zeros(0, dtype=np.int64), times)
        array = array.dictionary_encode()
    return _stripped(field, array)


def _stripped(field: Field, array: pa.DictionaryArray) -> Values:
    """Spaces around a value are not part of it, so texts that differ in them become one."""
    index: dict[str, int] = {}
    places = [index.setdefault(text.strip(_SPACES), len(index)) for text in array.dictionary.to_pylist()]
    codes = array.indices.to_numpy(zero_copy_only=False)
    if len(index) < len(places) or places != list(range(len(places))):
        codes = np.array(places, dtype=np.int64)[codes]
    return Values(field, list(index), codes)


def _cast_times(array: pa.Array) -> pa.Array | None:
    """All times of a column at once, without zone but in UTC; None where one of them is bad."""
    missing = pc.is_in(array, pa.array(_MISSING))
    try:
        times = pc.cast(pc.if_else(missing, pa.scalar(None, pa.string()), array), pa.timestamp("us", "UTC"))
    except pa.ArrowInvalid:
        return None
    return pc.cast(times, pa.timestamp("us"))


def judge(field: Field, text: str) -> Any:
    """The typed value of a stripped text, None where it is missing, or the Problem that it has."""
    if text in _MISSING:
        return None if field.column.nullable else MISSING
    value = _JUDGES[field.column.dtype](field, text)
    if isinstance(value, Problem):
        return value
    if field.allowed and value not in field.allowed:
        remedy = "write one of them, or ? where it is missing" if field.column.nullable else "write one of them"
        return Problem(f"not one of {', '.join(field.allowed)}", remedy)
    is_below = field.minimum is not None and value < field.minimum
    if is_below or (field.maximum is not None and value > field.maximum):
        return Problem(_bounds(field), "correct the value")
    if field.pattern is not None and not field.pattern.fullmatch(text):
        return Problem(f"not {field.pattern_words}", f"write {field.pattern_words}")
    return value


def _bounds(field: Field) -> str:
    if field.maximum is None:
        return f"below {field.minimum:g}"
    return f"outside {field.minimum:g} to {field.maximum:g}"


def _judge_text(field: Field, text: str) -> Any:
    if field.column.kind == "identifier":
        return text if len(text) <= ID_LENGTH and text.isprintable() else NOT_AN_ID
    return text if len(text) <= TEXT_LENGTH else TOO_LONG_TEXT


def _judge_whole(field: Field, text: str) -> Any:
    low, high = _LIMITS[field.column.dtype]
    if _WHOLE.fullmatch(text):
        # a long text of digits is not turned into a number at all, for that takes time
        number = int(text) if len(text.lstrip("-0")) < 20 and len(text) < ID_LENGTH else high + 1
        return number if low <= number <= high else TOO_BIG
    if _DECIMAL.fullmatch(text):
        number_read = float(text)
        return NOT_FINITE if math.isinf(number_read) else TOO_BIG if not low <= number_read <= high else NOT_WHOLE
    return NOT_FINITE if _NOT_FINITE.fullmatch(text) else NOT_A_NUMBER


def _judge_float(field: Field, text: str) -> Any:
    if not _DECIMAL.fullmatch(text):
        return NOT_FINITE if _NOT_FINITE.fullmatch(text) else NOT_A_NUMBER
    number = float(text)
    return number if math.isfinite(number) else NOT_FINITE


def _judge_bool(field: Field, text: str) -> Any:
    return text == "1" if text in ("0", "1") else Problem("not one of 0, 1", "write 1 for yes and 0 for no")


def _judge_date(field: Field, text: str) -> Any:
    try:
        day = date.fromisoformat(text) if _ISO_DATE.fullmatch(text) else None
    except ValueError:
        day = None
    return day if day is not None and 1900 <= day.year < 2200 else NOT_A_DATE


def _judge_time(field: Field, text: str) -> Any:
    one = _cast_times(pa.array([text]))
    if one is None:
        return NOT_A_TIME
    return one[0].as_py()


_JUDGES: dict[str, Callable[[Field, str], Any]] = {
    "text": _judge_text, "json": _judge_text, "int": _judge_whole, "bigint": _judge_whole, "float": _judge_float,
    "bool": _judge_bool, "date": _judge_date, "timestamp": _judge_time,
}  # fmt: skip
