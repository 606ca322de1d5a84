"""Lands a delivery's files: typed rows with pseudonyms, quarantined records, and counts that add up, batch by batch.

Writing them into a database does not belong here. Import this module where it is used, for it imports pyarrow.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa

from iom_platform.extract.catalog import Catalog, Keys
from iom_platform.extract.delivery import open_stream, read_chunk
from iom_platform.extract.header import HEAD_BYTES, Header, parse_header
from iom_platform.extract.lines import BLOCK_BYTES, Block, parse_block, read_blocks
from iom_platform.extract.oulad import presentation_start
from iom_platform.extract.source import DeliveredFile, Delivery, DeliveryRefused, Entity
from iom_platform.extract.values import ARROW_TYPES, Problem, Values, decode, mask
from iom_platform.tables import QUARANTINE, Table

NO_START = Problem("no start of the presentation", "deliver presentation_starts_on, or a code like 2013B or 2013J")
UNKNOWN_COURSE = Problem("unknown course", "deliver the presentation in courses.csv, or mend its row there")
UNKNOWN_STUDENT = Problem(
    "unknown student of that course", "deliver the student in studentInfo.csv, or mend the row there"
)
UNKNOWN_ASSESSMENT = Problem("unknown assessment", "deliver the assessment in assessments.csv, or mend its row there")
SAME_RECORD = Problem("repeated record", "deliver each record once; the first is kept")
SAME_KEY = Problem("repeated key", "deliver one record per key; the first is kept")
WRONG_DAY = Problem(
    "time more than a day from the record's day", "mend the day or the time, and the presentation's start"
)
IN_THE_FUTURE = Problem("after the day of delivery", "mend the day, or the declared day of delivery")
_DAY_MICROSECONDS = 86_400_000_000
_EPOCH = date(1970, 1, 1).toordinal()


class CountMismatch(RuntimeError):
    """A file's landed records are not its loaded and quarantined ones; nothing of the delivery may be kept."""


@dataclass(frozen=True)
class Tally:
    """Counts of a file's records: landed = loaded + quarantined."""

    landed: int
    loaded: int
    quarantined: int


@dataclass(frozen=True, repr=False)
class Batch:
    """Some consecutive records of a file. It has no repr, for it holds ids.

    `rows`: columns of the file's raw table; `quarantine`: columns of raw.quarantine; `identities`: columns
    student_id and student_pseudonym, of students whose first loaded row of the delivery is here.
    """

    rows: pa.RecordBatch
    quarantine: pa.RecordBatch
    identities: pa.RecordBatch


def arrow_schema(table: Table) -> pa.Schema:
    """The Arrow schema of a table; timestamps are UTC without a zone."""
    return pa.schema([pa.field(c.name, ARROW_TYPES[c.dtype], c.nullable) for c in table.columns])


class Landing:
    """Reads the files of one delivery, in their order, and remembers what later files may refer to.

    It looks at no other delivery, so what is loaded does not depend on the order in which they land. After a file was
    read to its end, `tallies` has its counts.
    """

    def __init__(self, delivery: Delivery, key: bytes, *, block_bytes: int = BLOCK_BYTES) -> None:
        self.delivery = delivery
        self.tallies: dict[str, Tally] = {}
        self._block_bytes = block_bytes
        self._catalog = Catalog(delivery.source, key)
        self._seen = Keys()

    def read(self, file: DeliveredFile) -> Iterator[Batch]:
        """The file's batches; raises DeliveryRefused where it changed meanwhile, CountMismatch where a row got lost."""
        expected = [f.name for f in self.delivery.files][len(self.tallies) : len(self.tallies) + 1]
        if [file.name] != expected:
            raise ValueError(f"{file.name} is read out of order; read the delivery's files in theirs")
        self._seen = Keys()
        landed = loaded = quarantined = 0
        for block, header in self._blocks(file):
            parsed = parse_block(block, file.shape, header)
            batch = self._land(file, parsed, landed + 1)
            landed += parsed.landed
            loaded += batch.rows.num_rows
            quarantined += batch.quarantine.num_rows
            yield batch
        if landed != loaded + quarantined:
            raise CountMismatch(
                f"{file.name}: {landed} records landed, but {loaded} were loaded and {quarantined} quarantined"
            )
        self.tallies[file.name] = Tally(landed, loaded, quarantined)

    def _blocks(self, file: DeliveredFile) -> Iterator[tuple[bytes, Header]]:
        with open_stream(file.open, file.name) as stream:
            header = parse_header(read_chunk(stream, HEAD_BYTES, file.name), file.shape)
        digest = hashlib.sha256()
        with open_stream(file.open, file.name) as stream:
            for block in read_blocks(stream, file.name, header, self._block_bytes, digest.update):
                yield block, header
        if digest.hexdigest() != file.sha256:
            raise DeliveryRefused(f"{file.name} changed while it was read; deliver it again when it is complete")

    def _add_course(self, course: tuple[str, str], starts_on: date | None) -> None:
        start = starts_on or presentation_start(course[1])
        if start is not None:
            self._catalog.add_course(course, start.toordinal(), is_exact=starts_on is not None)

    @staticmethod
    def _find_startless(columns: dict[str, Values]) -> np.ndarray:
        """(n,) whether a course's first day is neither delivered nor in its code."""
        presentation, start = columns["code_presentation"], columns["presentation_starts_on"]
        # of type bool also where every record of the block was cut away, and there is no text at all
        texts = np.array([presentation_start(text) is None for text in presentation.texts], dtype=bool)
        is_underivable = texts[presentation.codes]
        is_undelivered = np.array([value is None for value in start.values], dtype=bool)[start.codes]
        startless: np.ndarray = is_underivable & is_undelivered
        return startless

    def _land(self, file: DeliveredFile, block: Block, first_row: int) -> Batch:
        table = block.table
        names = set(table.column_names)
        columns = {
            f.column.name: decode(f, table.column(f.name) if f.name in names else None, table.num_rows)
            for f in file.shape.fields
        }
        judgment = _Judgment(columns, table.num_rows)
        judgment.reject_bad_values()
        places = self._resolve(file, columns, judgment)
        self._reject_wrong_days(file, columns, judgment, places.get("course"))
        self._reject_repeated(file, columns, judgment, places)
        self._remember(file, columns, judgment, places)
        trace = {"source": self.delivery.source, "delivery_id": self.delivery.delivery_id, "file_name": file.name}
        kept = np.flatnonzero(judgment.is_good)
        students = places["student"][kept] if "student" in places else np.empty(0, dtype=np.int64)
        taken = None if len(kept) == table.num_rows else kept
        # the delivered id stays behind here: its column is never built
        arrays = {name: values.arrow(taken) for name, values in columns.items() if name != "student_pseudonym"}
        if "student" in places:
            arrays["student_pseudonym"] = self._catalog.pseudonyms(students)
        arrays["file_row"] = pa.array(first_row + block.offsets[kept])
        rows = build_rows(file.table, trace, arrays, len(kept))
        quarantine = _build_quarantine(trace, first_row, block, judgment)
        return Batch(
            rows,
            quarantine,
            pa.record_batch(self._catalog.introduce(students), names=["student_id", "student_pseudonym"]),
        )

    def _resolve(self, file: DeliveredFile, columns: dict[str, Values], judgment: "_Judgment") -> dict[str, np.ndarray]:
        """(n,) numbers of the course, student and assessment of each row; a full delivery's rows must refer to its own."""
        places: dict[str, np.ndarray] = {}
        is_full, refers = self.delivery.scope == "full", file.shape.refers
        if "student_pseudonym" in columns:
            places["student"] = self._catalog.find_students(columns["student_pseudonym"])
        if file.shape.provides == "course":
            judgment.reject(self._find_startless(columns), ("code_presentation",), NO_START)
        if refers in ("course", "enrollment"):
            find = self._catalog.find_courses if is_full else self._catalog.number_courses
            places["course"] = find(columns["code_module"], columns["code_presentation"])
        elif refers == "assessment":
            places["assessment"], places["course"] = self._catalog.find_assessments(columns["id_assessment"])
        if is_full and refers is not None:
            self._reject_unknown(refers, judgment, places)
        return places

    def _reject_unknown(self, refers: Entity, judgment: "_Judgment", places: dict[str, np.ndarray]) -> None:
        if refers == "assessment":
            judgment.reject(places["course"] < 0, ("id_assessment",), UNKNOWN_ASSESSMENT)
        else:
            judgment.reject(places["course"] < 0, ("code_module", "code_presentation"), UNKNOWN_COURSE)
        if refers != "course":
            is_known = self._catalog.has_enrollments(places["course"], places["student"])
            judgment.reject(~is_known, ("student_pseudonym",), UNKNOWN_STUDENT)

    def _reject_wrong_days(
        self, file: DeliveredFile, columns: dict[str, Values], judgment: "_Judgment", course: np.ndarray | None
    ) -> None:
        """Judged by the start that this delivery itself tells; the future not by a derived one, which may be weeks off."""
        if file.shape.event_day is None or course is None or not len(course):
            return
        starts, is_exact = self._catalog.starts(course)
        days = starts + columns[file.shape.event_day].numbers()
        # a day more, for the event's time zone may be ahead of the one that the day of delivery was read in
        is_future = is_exact & (days > self.delivery.delivered_on.toordinal() + 1)
        judgment.reject(is_future, (file.shape.event_day,), IN_THE_FUTURE)
        times = columns["clicked_at"].arrow(None) if "clicked_at" in columns else None
        if times is not None and times.null_count < len(times):
            is_timed = times.is_valid().to_numpy(zero_copy_only=False)
            at = times.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
            is_off = np.abs(at // _DAY_MICROSECONDS + _EPOCH - days) > 1
            judgment.reject(is_timed & is_off & (starts > 0), (file.shape.event_day,), WRONG_DAY)

    def _reject_repeated(
        self, file: DeliveredFile, columns: dict[str, Values], judgment: "_Judgment", places: dict[str, np.ndarray]
    ) -> None:
        if not file.table.key:
            return
        good = np.flatnonzero(judgment.is_good)
        keys = self._keys(file, columns, places)[good]
        is_first, is_same = self._seen.add(keys, _digest_rows(columns)[good])
        repeated = np.zeros(len(judgment.is_good), dtype=bool)
        for is_exact, problem in ((True, SAME_RECORD), (False, SAME_KEY)):
            repeated[:] = False
            repeated[good[~is_first & (is_same == is_exact)]] = True
            judgment.reject(repeated, tuple(c for c in file.table.key), problem)

    def _keys(self, file: DeliveredFile, columns: dict[str, Values], places: dict[str, np.ndarray]) -> np.ndarray:
        """(n,) int64, one number per distinct key."""
        if file.shape.provides == "course":
            return self._catalog.number_courses(columns["code_module"], columns["code_presentation"])
        if "student" not in places:
            return columns[file.table.key[0]].numbers()
        return self._catalog.pair(places.get("assessment", places["course"]), places["student"])

    def _remember(
        self, file: DeliveredFile, columns: dict[str, Values], judgment: "_Judgment", places: dict[str, np.ndarray]
    ) -> None:
        good = np.flatnonzero(judgment.is_good)
        if file.shape.provides == "course":
            names = ("code_module", "code_presentation", "presentation_starts_on")
            module, presentation, start = (columns[name].arrow(good).to_pylist() for name in names)
            for course, starts_on in zip(zip(module, presentation, strict=True), start, strict=True):
                self._add_course(course, starts_on)
        elif file.shape.provides == "assessment":
            self._catalog.note_assessments(columns["id_assessment"].numbers()[good], places["course"][good])
        elif file.shape.provides == "enrollment":
            self._catalog.note_enrollments(places["course"][good], places["student"][good])


class _Judgment:
    """Which rows of a block are good, and the first rule that each other one broke."""

    def __init__(self, columns: dict[str, Values], count: int) -> None:
        self.columns = columns
        self.is_good = np.ones(count, dtype=bool)
        self.rejected: list[tuple[int, str, Problem, str]] = []

    def reject_bad_values(self) -> None:
        for values in self.columns.values():
            flags = values.flags()
            if flags is not None:
                self._reject(flags, (values.field.column.name,), values.problem_at)

    def reject(self, is_bad: np.ndarray, names: tuple[str, ...], problem: Problem) -> None:
        """Rejects rows that are still good; `names` are the columns whose values are at fault."""
        if is_bad.any():
            self._reject(is_bad, names, lambda _: problem)

    def _reject(self, is_bad: np.ndarray, names: tuple[str, ...], problem_at: Callable[[int], Problem]) -> None:
        values = [self.columns[name] for name in names]
        shown = ", ".join(one.field.name for one in values)
        for row in np.flatnonzero(is_bad & self.is_good).tolist():
            self.rejected.append((row, shown, problem_at(row), " ".join(one.text_at(row) for one in values)))
        self.is_good &= ~is_bad


def _digest_rows(columns: dict[str, Values]) -> np.ndarray:
    """(n,) uint64 digest of each row's values, to tell a repeated record from a repeated key."""
    total: np.ndarray | None = None
    for name, values in columns.items():
        parts = [hashlib.blake2b(f"{name}={value!r}".encode(), digest_size=8).digest() for value in values.values]
        digests = np.frombuffer(b"".join(parts), dtype=np.uint64)[values.codes]
        total = digests if total is None else total + digests
    assert total is not None
    return total


def build_rows(table: Table, trace: dict[str, str], arrays: dict[str, pa.Array], count: int) -> pa.RecordBatch:
    """The loaded rows in the order of the table's columns; `trace` has the values that all of them share."""
    shared = {name: pa.repeat(value, count) for name, value in trace.items()}
    return pa.record_batch([(shared | arrays)[name] for name in table.column_names], schema=arrow_schema(table))


def _build_quarantine(trace: dict[str, str], first_row: int, block: Block, judgment: _Judgment) -> pa.RecordBatch:
    found: list[tuple[int, str | None, Problem, str]] = [(m.offset, None, m.problem, m.text) for m in block.malformed]
    found += [(int(block.offsets[row]), shown, problem, text) for row, shown, problem, text in judgment.rejected]
    found.sort(key=lambda one: one[0])
    columns: dict[str, list[object]] = {name: [value] * len(found) for name, value in trace.items()}
    columns["file_row"] = [first_row + one[0] for one in found]
    columns["column_name"] = [one[1] for one in found]
    columns["rule"] = [one[2].rule for one in found]
    columns["masked_value"] = [mask(one[3]) for one in found]
    columns["remedy"] = [one[2].remedy for one in found]
    return pa.RecordBatch.from_pydict(columns, schema=arrow_schema(QUARANTINE))
