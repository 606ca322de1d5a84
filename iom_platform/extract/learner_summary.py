"""Reads learner summaries, one row a learner and a few numbers of each, in blocks: CSV of any size, or Parquet.

What is made of the numbers does not belong here. A block that is exactly well-formed is parsed by polars at once; one in
which anything is wrong is read line by line, as landing reads it. Nothing is filled in: a record that breaks a rule is
rejected, and counted.
"""

import csv
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BytesIO, StringIO
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet

from iom_platform.extract.ahead import map_ahead
from iom_platform.extract.delivery import open_stream, read_chunk
from iom_platform.extract.header import HEAD_BYTES, Header, parse_header
from iom_platform.extract.lines import (
    Block,
    has_plain_quotes,
    is_utf8,
    may_hold_long_line,
    parse_block,
    read_blocks,
)
from iom_platform.extract.source import DeliveryRefused, Field, FileShape
from iom_platform.extract.values import ID_LENGTH, Problem, Values, decode, judge, mask
from iom_platform.tables import Column, Table

ID = "learner_id"
BLOCK_BYTES = 8 << 20
_BATCH_ROWS = 1 << 18
_MOST = 1e15  # its square fits float32, and no count or time of a learner comes near it
# inclusive; a share is accepted as 0-1 and as per cent
_RANGES = {
    "time_spent": (0.0, _MOST),
    "avg_score": (0.0, 100.0),
    "accuracy": (0.0, 100.0),
    "topic_progress": (0.0, 100.0),
}
_PARQUET = b"PAR1"
_SPACE, _NEWLINE, _COMMA, _QUOTE, _DELETE = b' \n,"\x7f'
_UNPRINTABLE = r"[\p{C}\p{Z}--[ ]]"
_ID_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer)
_NUMBER_TYPES = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal128)
_REPEATED = ("learner_id stands more than once", "deliver each learner once; the first record was kept")


@dataclass(frozen=True)
class Rejected:
    """A record left out: its number (1 is the first after the header), and the first rule that it broke."""

    record: int
    column: str
    rule: str
    masked_value: str
    remedy: str


@dataclass(frozen=True)
class Batch:
    """Consecutive records: ids (m,) text, values (m, n_features) float64 and numbers (m,) of the good ones; the others.

    `lines` are the good ones' lines where those hold the id and the features in this order, nothing else and no quote.
    """

    ids: pl.Series
    values: np.ndarray
    records: np.ndarray
    rejected: tuple[Rejected, ...] = ()
    lines: bytes | None = None

    def without(self, repeated: np.ndarray) -> "Batch":
        """The batch without the good records at these places in it, each of which is rejected as a repeated learner."""
        kept = np.delete(np.arange(len(self.ids)), repeated)
        more = tuple(Rejected(record, ID, _REPEATED[0], mask(learner) or "", _REPEATED[1])
                     for record, learner in zip(self.records[repeated].tolist(), self.ids.gather(repeated), strict=True))  # fmt: skip
        rejected = tuple(sorted((*self.rejected, *more), key=lambda one: one.record))
        return Batch(self.ids.gather(kept), self.values[kept], self.records[kept], rejected)


class LearnerFile:
    """An opened learner summary; `read` gives its batches, as often as it is called.

    Raises DeliveryRefused where there is no such file, it is of another kind, a column is missing, or it changed meanwhile.
    """

    def __init__(self, path: Path, features: Sequence[str]) -> None:
        if not path.is_file():
            raise DeliveryRefused(f"nothing is at {path}; name a CSV or Parquet file with a row for each learner")
        self.path, self.features = path, tuple(features)
        self._state = _state_of(path)
        columns = [Column(ID, "text", "identifier", "", nullable=False)]
        columns += [Column(name, "float", "behavior", "", nullable=False) for name in self.features]
        self._fields = tuple(_field(column) for column in columns)
        self.shape = FileShape(
            path.name, Table("raw", "learner_summary", "warehouse", (ID,), "", tuple(columns)), self._fields
        )
        with self._open() as stream:
            head = read_chunk(stream, HEAD_BYTES, path.name)
        self._head_bytes, self._head_lines = len(head), max(head.count(b"\n"), 1)
        self._header: Header | None = None
        if head.startswith(_PARQUET):
            self.notices: tuple[str, ...] = ()
            self._names = self._check_parquet()
        else:
            self._header = parse_header(head, self.shape)
            self.notices = self._header.notices

    def estimate_records(self) -> int:
        """How many records there are: of a CSV by the length of its first lines."""
        if self._header is None:
            return int(pyarrow.parquet.read_metadata(self.path).num_rows)
        return max(self._state[1] * self._head_lines // max(self._head_bytes, 1) - 1, 0)

    def read(self) -> Iterator[Batch]:
        """The batches in the order of the file; memory is bounded by a few of them."""
        record = 1
        for batch, landed in self._read_csv(self._header) if self._header else self._read_parquet():
            moved = tuple(_moved(one, record) for one in batch.rejected)
            yield Batch(batch.ids, batch.values, batch.records + record, moved, batch.lines)
            record += landed
        if _state_of(self.path) != self._state:
            raise DeliveryRefused(f"{self.path.name} changed while it was read; run again when its writer is done")

    def read_distinct(self, repeated: np.ndarray) -> Iterator[Batch]:
        """As `read`, with the good records at these places, sorted and from 0, rejected as repeated learners."""
        first = 0
        for batch in self.read():
            low, high = np.searchsorted(repeated, [first, first + len(batch.ids)])
            yield batch.without(repeated[low:high] - first) if high > low else batch
            first += len(batch.ids)

    def _open(self) -> AbstractContextManager[BinaryIO]:
        return open_stream(lambda: self.path.open("rb"), self.path.name)

    # -- CSV ---------------------------------------------------------------------------------------

    def _read_csv(self, header: Header) -> Iterator[tuple[Batch, int]]:
        def parse(block: bytes) -> tuple[Batch, int]:
            clean = self._read_clean(block, header)
            if clean is not None:
                return clean, len(clean.ids)
            parsed = parse_block(block, self.shape, header)
            return self._read_carefully(parsed), parsed.landed

        with self._open() as stream:
            yield from map_ahead(parse, read_blocks(stream, self.path.name, header, BLOCK_BYTES))

    def _read_clean(self, block: bytes, header: Header) -> Batch | None:
        """The block's records if nothing at all is wrong with them, else None."""
        data = np.frombuffer(block, dtype=np.uint8)
        lines = int(np.count_nonzero(data == _NEWLINE))
        # a blank can pad a value, and a control character is one of many faults; the two of CRLF are none
        blanks = int(np.count_nonzero(data <= _SPACE))
        is_crlf = blanks == 2 * lines and block.count(b"\r\n") == lines
        if (
            (blanks != lines and not is_crlf)
            or may_hold_long_line(block)
            or not is_utf8(block)
            or not has_plain_quotes(block)
        ):
            return None
        names = [f"c{i}" for i in range(header.column_count)]
        places = [header.positions[f.name] for f in self._fields]
        kinds = dict.fromkeys(names, pl.String) | {names[i]: pl.Float64 for i in places[1:]}
        try:
            # of all columns: a field too many is an error only behind a column that is parsed
            parsed = pl.scan_csv(
                BytesIO(block), has_header=False, schema=kinds, ignore_errors=True, glob=False
            ).collect()
        except pl.exceptions.PolarsError:
            return None
        # one too few, which becomes a null, is missed where nobody asks for its column
        if len(places) < len(names) and _count_separators(data) != lines * (len(names) - 1):
            return None
        table = parsed.select(names[i] for i in places)
        ids, values = table.to_series(0), table.select(pl.nth(range(1, len(places)))).to_numpy()
        is_whole = len(table) == lines and not any(table.null_count().row(0))
        if not is_whole or _find_bad_ids(ids, block).any() or _find_bad(values, self._fields[1:]) is not None:
            return None
        is_plain = places == list(range(len(names))) and not is_crlf and b'"' not in block
        return Batch(ids, values, np.arange(lines), lines=block if is_plain else None)

    def _read_carefully(self, block: Block) -> Batch:
        columns = [decode(f, block.table.column(f.column.name), block.table.num_rows) for f in self._fields]
        rejected = {one.offset: Rejected(one.offset, "", one.problem.rule, mask(one.text) or "", one.problem.remedy)
                    for one in block.malformed}  # fmt: skip
        is_good = np.ones(block.table.num_rows, dtype=bool)
        for column in columns:
            flags = column.flags()
            for row in [] if flags is None else np.flatnonzero(flags & is_good).tolist():
                is_good[row] = False
                offset = int(block.offsets[row])
                rejected[offset] = _rejected(offset, column, row)
        kept = np.flatnonzero(is_good)
        values = np.column_stack([c.arrow(kept).to_numpy(zero_copy_only=False) for c in columns[1:]])
        ids = pl.Series(pl.from_arrow(columns[0].arrow(kept)), dtype=pl.String)
        return Batch(ids, values.astype(np.float64), block.offsets[kept], tuple(rejected[o] for o in sorted(rejected)))

    # -- Parquet -----------------------------------------------------------------------------------

    def _check_parquet(self) -> list[str]:
        """Refuse what is no such file; returns the names, as they are written there, of the id and the features."""
        try:
            schema = pyarrow.parquet.read_schema(self.path)
        except (pa.ArrowInvalid, OSError):
            raise DeliveryRefused(f"{self.path.name} is a damaged Parquet file; deliver it again") from None
        # the same words for a missing or renamed column as for a CSV file
        line = StringIO()
        csv.writer(line, lineterminator="\n").writerow(schema.names)
        header = parse_header(line.getvalue().encode(), self.shape)
        names = [schema.names[header.positions[f.name]] for f in self._fields]
        kinds = [schema.field(name).type for name in names]
        written = kinds[0].value_type if pa.types.is_dictionary(kinds[0]) else kinds[0]
        if not any(is_so(written) for is_so in _ID_TYPES):
            # a fraction is what pandas makes of whole numbers, one of which is missing: 7 would become 7.0
            raise DeliveryRefused(
                f"{self.path.name}: column {ID} is of type {kinds[0]}; write it as text or a whole number"
            )
        for name, kind in zip(self.features, kinds[1:], strict=True):
            if not any(is_so(kind) for is_so in _NUMBER_TYPES):
                raise DeliveryRefused(f"{self.path.name}: column {name} is of type {kind}; write it as a number")
        return names

    def _read_parquet(self) -> Iterator[tuple[Batch, int]]:
        kinds = [pl.String, *[pl.Float64] * len(self.features)]
        with _told(self.path.name), pyarrow.parquet.ParquetFile(self.path) as file:
            for rows in file.iter_batches(_BATCH_ROWS, columns=self._names):
                read = pl.DataFrame(rows)
                table = read.select(
                    read[there].cast(kind).alias(field.name)
                    for there, kind, field in zip(self._names, kinds, self._fields, strict=True)
                )
                yield self._judge_rows(table), len(table)

    def _judge_rows(self, table: pl.DataFrame) -> Batch:
        values = table.select(self.features).to_numpy()
        texts = table.to_series(0)
        bad = _find_bad(values, self._fields[1:])
        is_bad = np.column_stack([_find_bad_ids(texts), np.zeros(values.shape, dtype=bool) if bad is None else bad])
        rejected = {}
        for row in np.flatnonzero(is_bad.any(axis=1)).tolist():
            at = int(np.argmax(is_bad[row]))
            value = table.to_series(at)[row]
            found = judge(self._fields[at], "" if value is None else str(value))
            # Python and polars may know the letters of different years
            if isinstance(found, Problem):
                rejected[row] = Rejected(row, self._fields[at].name, found.rule, mask(str(value)) or "", found.remedy)
        kept = np.delete(np.arange(len(table)), list(rejected))
        return Batch(texts.gather(kept), values[kept], kept, tuple(rejected.values()))


def find_repeated(file: LearnerFile, digests: np.ndarray, *, pieces: int = 2) -> np.ndarray:
    """The places, sorted and from 0 among all good records, of learners that an earlier record has.

    digests: (n,) uint64 of the ids of all good records; where two are equal the ids themselves are compared. pieces: in how
    many the digests are sorted, a few of which are in memory at a time.
    """
    starts = [(i << 64) // pieces for i in range(pieces + 1)]
    ranges = ((np.uint64(low), np.uint64(after - 1)) for low, after in pairwise(starts))
    equal = map_ahead(_find_equal, (digests[(digests >= low) & (digests <= high)] for low, high in ranges))
    doubtful = np.concatenate(list(equal))
    if not len(doubtful):
        return np.empty(0, dtype=np.int64)
    looked_at = np.concatenate([
        low + np.flatnonzero(np.isin(digests[low : low + _BATCH_ROWS], doubtful)) for low in range(0, len(digests), _BATCH_ROWS)
    ])  # fmt: skip
    seen: set[str] = set()
    repeated: list[int] = []
    first = 0
    for batch in file.read():
        low, high = np.searchsorted(looked_at, [first, first + len(batch.ids)])
        for place in looked_at[low:high].tolist():
            learner = batch.ids[place - first]
            if learner in seen:
                repeated.append(place)
            seen.add(learner)
        first += len(batch.ids)
    return np.array(repeated, dtype=np.int64)


def _find_equal(digests: np.ndarray) -> np.ndarray:
    """The values that stand in it more than once; it is sorted in place."""
    digests.sort()
    return np.unique(digests[1:][digests[1:] == digests[:-1]])


def _state_of(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _field(column: Column) -> Field:
    low, high = _RANGES.get(column.name, (-_MOST, _MOST)) if column.dtype == "float" else (None, None)
    return Field(column.name, column, minimum=low, maximum=high)


def _find_bad_ids(ids: pl.Series, block: bytes | None = None) -> np.ndarray:
    """(m,) bool: no id at all; `block` is the CSV that they stand in, whose bytes can spare a look at each."""
    sizes = ids.str.len_bytes()
    is_bad = sizes == 0
    if (sizes.max() or 0) > ID_LENGTH:  # type: ignore[operator]
        is_bad |= ids.str.len_chars() > ID_LENGTH
    if block is None or b"?" in block:
        is_bad |= ids == "?"
    if block is None or not block.isascii() or _DELETE in block:
        is_bad |= ids.str.contains(_UNPRINTABLE)
    return is_bad.fill_null(True).to_numpy()


def _count_separators(data: np.ndarray) -> int:
    """Commas that stand in no quoted field, of bytes whose quotes are plain."""
    commas, quotes = data == _COMMA, np.flatnonzero(data == _QUOTE)
    if not len(quotes):
        return int(np.count_nonzero(commas))
    return int(np.count_nonzero(np.searchsorted(quotes, np.flatnonzero(commas)) % 2 == 0))


def _find_bad(values: np.ndarray, fields: Sequence[Field]) -> np.ndarray | None:
    """(m, n_features) bool: values that are not finite or out of range; None where there is none."""
    if not len(values):
        return None
    low, high = values.min(axis=0), values.max(axis=0)
    least, most = (np.array([getattr(f, end) for f in fields], dtype=np.float64) for end in ("minimum", "maximum"))
    if (low >= least).all() and (high <= most).all():  # nan is neither
        return None
    return ~((values >= least) & (values <= most))


def _rejected(offset: int, column: Values, row: int) -> Rejected:
    problem = column.problem_at(row)
    return Rejected(offset, column.field.name, problem.rule, mask(column.text_at(row)) or "", problem.remedy)


def _moved(one: Rejected, first: int) -> Rejected:
    return Rejected(one.record + first, one.column, one.rule, one.masked_value, one.remedy)


@contextmanager
def _told(file: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError):
        raise DeliveryRefused(f"{file} is damaged and cannot be read to its end; deliver it again") from None
