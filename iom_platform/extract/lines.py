"""Reads delivered CSV as lines: a record is one line, so a stray quote costs one record and not the rest of the file.

What a value means does not belong here (`values.py` knows). Well-formed stretches are parsed by pyarrow at once; a
stretch that is not exactly well-formed is looked at line by line, which also finds each bad record's number.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv

from iom_platform.extract.delivery import read_chunk
from iom_platform.extract.header import Header
from iom_platform.extract.source import FileShape
from iom_platform.extract.values import Problem

BLOCK_BYTES = 16 << 20
MAX_LINE_BYTES = 1 << 20
_STRETCH_BYTES = 32 << 10
_FIELD = rb'(?:"[^"\r]*(?:""[^"\r]*)*"|[^",\r]*)'
_ANY_FIELDS = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*")
_QUOTE, _COMMA, _NEWLINE, _RETURN = b'",\n\r'
_BLANK = b" \t\r\v\f"
_IS_BLANK = np.isin(np.arange(256), list(_BLANK + b"\n"))

TOO_LONG = Problem("record longer than 1 MiB", "write a record per line, and close every quote")
NUL_BYTE = Problem("NUL byte", "remove the byte; the file may be damaged")
NOT_UTF8 = Problem("not UTF-8", "save the file as UTF-8")
LINE_BREAK = Problem(
    "carriage return inside a record", "end lines in CRLF or LF, and write no line break inside a value"
)
OPEN_QUOTE = Problem("quote that does not close", "close the quote on the same line; a value holds no line break")
STRAY_QUOTE = Problem("quote inside a value", "write a quote inside a quoted value twice")
FIELD_COUNT = Problem("wrong number of fields", "write as many fields as the header, and quote a value with a comma")


@dataclass(frozen=True)
class Malformed:
    """A line that is no record of the file's shape: its offset in the block, from 0, and its text."""

    offset: int
    problem: Problem
    text: str


@dataclass(frozen=True)
class Block:
    """Some consecutive records: `table` has the readable ones, `offsets` their places among all `landed` ones."""

    table: pa.Table
    offsets: np.ndarray
    malformed: tuple[Malformed, ...]
    landed: int


def read_blocks(
    stream: BinaryIO,
    file: str,
    header: Header,
    block_bytes: int = BLOCK_BYTES,
    on_chunk: Callable[[bytes], object] = len,
) -> Iterator[bytes]:
    """The file after its header in blocks of whole lines, each ended by a newline; memory is bounded.

    `on_chunk` gets all bytes as they are read.

    A line over MAX_LINE_BYTES is cut there, and gets a NUL byte so that it cannot be taken for a whole record.
    """
    skip, carry, is_cutting = header.body_offset, b"", False
    while chunk := read_chunk(stream, block_bytes, file):
        on_chunk(chunk)
        if skip:
            skip, chunk = max(0, skip - len(chunk)), chunk[skip:]
        if is_cutting:
            end = chunk.find(b"\n")
            if end < 0:
                continue
            chunk, is_cutting = chunk[end:], False
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield carry + chunk[:cut]
            carry = b""
        carry += chunk[cut:]
        if len(carry) > MAX_LINE_BYTES:
            carry, is_cutting = carry[:MAX_LINE_BYTES] + b"\0", True
    if carry:
        yield carry + b"\n"


def count_records(block: bytes) -> int:
    """Lines of a block that are not blank, counted apart from the parsing that it checks."""
    data = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(data == _NEWLINE)
    starts = np.concatenate([[0], ends[:-1] + 1])
    # only a line that begins with a blank can be blank
    may_be_blank = _IS_BLANK[data[starts]]
    if not may_be_blank.any():
        return len(ends)
    spans = zip(starts[may_be_blank].tolist(), ends[may_be_blank].tolist(), strict=True)
    return len(ends) - sum(not block[start:end].strip(_BLANK) for start, end in spans)


def parse_block(block: bytes, shape: FileShape, header: Header) -> Block:
    """The records of a block: text columns named as in the header's positions, dictionary-encoded except timestamps."""
    landed = count_records(block)
    table = _parse_well_formed(block, shape, header)
    if table is not None:
        return Block(table, np.arange(landed, dtype=np.int64), (), landed)
    pattern = _line_pattern(header.column_count)
    good: list[bytes] = []
    offsets: list[np.ndarray] = []
    malformed: list[Malformed] = []
    start = 0
    for stretch in _stretches(block):
        parsed = _parse_well_formed(stretch, shape, header)
        if parsed is not None:
            good.append(stretch)
            offsets.append(np.arange(start, start + parsed.num_rows, dtype=np.int64))
            start += parsed.num_rows
            continue
        kept = []
        for line in stretch.split(b"\n"):
            if not line.strip(_BLANK):
                continue
            problem = _judge_line(line, pattern)
            if problem is None:
                good.append(line.rstrip(b"\r") + b"\n")
                kept.append(start)
            else:
                malformed.append(Malformed(start, problem, line[:200].rstrip(b"\r").decode("latin-1")))
            start += 1
        offsets.append(np.array(kept, dtype=np.int64))
    table = _parse(b"".join(good), shape, header)
    places = np.concatenate(offsets) if offsets else np.empty(0, dtype=np.int64)
    if table.num_rows != len(places):
        raise RuntimeError(f"{shape.name}: {len(places)} well-formed lines were parsed as {table.num_rows} records")
    return Block(table, places, tuple(malformed), landed)


def _parse(block: bytes, shape: FileShape, header: Header) -> pa.Table:
    names = [f"c{i}" for i in range(header.column_count)]
    kinds = {
        f"c{header.positions[field.name]}": _text_type(field.column.dtype)
        for field in shape.fields if field.name in header.positions
    }  # fmt: skip
    if not block:
        table = pa.table({name: pa.array([], kind) for name, kind in kinds.items()})
    else:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(block),
            read_options=pyarrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=len(block) + 16),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=False),
            convert_options=pyarrow.csv.ConvertOptions(column_types=kinds, include_columns=list(kinds), null_values=[]),
        )
    back = {f"c{i}": name for name, i in header.positions.items()}
    return table.rename_columns([back[name] for name in table.column_names]).combine_chunks()


def _text_type(dtype: str) -> pa.DataType:
    """Few distinct values are worth a dictionary: each is then judged once; timestamps are nearly all distinct."""
    return pa.string() if dtype == "timestamp" else pa.dictionary(pa.int32(), pa.string())


def _parse_well_formed(block: bytes, shape: FileShape, header: Header) -> pa.Table | None:
    """The parsed block if every line of it is exactly one well-formed record, else None."""
    if b"\0" in block or block.count(b"\r") != block.count(b"\r\n") or may_hold_long_line(block):
        return None
    if not is_utf8(block) or not has_plain_quotes(block):
        return None
    try:
        table = _parse(block, shape, header)
    except pa.ArrowInvalid:
        return None
    return table if table.num_rows == block.count(b"\n") else None


def may_hold_long_line(block: bytes) -> bool:
    """Whether a line can be over MAX_LINE_BYTES: it would fill one of these steps without a newline."""
    step = MAX_LINE_BYTES // 2
    return any(block.find(b"\n", start, start + step) < 0 for start in range(0, len(block) - step, step))


def is_utf8(block: bytes) -> bool:
    try:
        return block.isascii() or bool(block.decode())
    except UnicodeDecodeError:
        return False


def has_plain_quotes(block: bytes) -> bool:
    """Whether quotes only open a field right after a delimiter and close it right before one."""
    if b'"' not in block:
        return True
    data = np.frombuffer(block, dtype=np.uint8)
    at = np.flatnonzero(data == _QUOTE)
    if len(at) % 2 or at[-1] == len(data) - 1:
        return False
    opening, closing = at[0::2], at[1::2]
    before = data[opening - 1]
    if opening[0] == 0:
        before[0] = _NEWLINE
    after = data[closing + 1]
    return bool(
        ((before == _COMMA) | (before == _NEWLINE)).all()
        and ((after == _COMMA) | (after == _NEWLINE) | (after == _RETURN)).all()
    )


def _stretches(block: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(block):
        cut = block.find(b"\n", min(start + _STRETCH_BYTES, len(block) - 1)) + 1
        yield block[start:cut]
        start = cut


def _line_pattern(column_count: int) -> re.Pattern[bytes]:
    return re.compile(_FIELD + rb"(?:," + _FIELD + rb"){%d}" % (column_count - 1))


def _judge_line(line: bytes, pattern: re.Pattern[bytes]) -> Problem | None:
    """What is wrong with a line as a record, if anything; `line` has no newline."""
    line = line.rstrip(b"\r")
    unreadable = (
        (len(line) > MAX_LINE_BYTES, TOO_LONG), (b"\0" in line, NUL_BYTE),
        (not is_utf8(line), NOT_UTF8), (b"\r" in line, LINE_BREAK),
    )  # fmt: skip
    for is_broken, problem in unreadable:
        if is_broken:
            return problem
    if pattern.fullmatch(line):
        return None
    if line.count(b'"') % 2:
        return OPEN_QUOTE
    return FIELD_COUNT if _ANY_FIELDS.fullmatch(line) else STRAY_QUOTE
