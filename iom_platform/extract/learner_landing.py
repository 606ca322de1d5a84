"""Lands a learner summary: one file, whose good records get pseudonyms and whose others go to quarantine.

What a good record is belongs to `learner_summary.py`, and in which transaction rows are written to the caller.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from iom_platform.extract.delivery import open_file
from iom_platform.extract.landing import CountMismatch, Tally, arrow_schema, build_rows
from iom_platform.extract.learner_summary import LearnerFile, Rejected, find_repeated
from iom_platform.extract.loading import Append, keep_books
from iom_platform.extract.source import Delivery
from iom_platform.privacy.pseudonyms import pseudonymize
from iom_platform.tables import LEARNER_FEATURES, LEARNER_SOURCE, LEARNER_SUMMARY, QUARANTINE


def open_learners(path: Path, *, delivered_on: date | None) -> tuple[Delivery, LearnerFile]:
    """The delivery at `path` and its file, opened but not read; raises DeliveryRefused."""
    file = LearnerFile(path, LEARNER_FEATURES)
    delivery = open_file(path, source=LEARNER_SOURCE, shape=file.shape, notices=file.notices, delivered_on=delivered_on)
    return delivery, file


def load_learners(
    delivery: Delivery, file: LearnerFile, key: bytes, append: Append, *, landed_at: datetime
) -> Iterator[tuple[str, str]]:
    """All rows, quarantine and books through `append(table, rows)`; yields (learner_id, pseudonym) as rows are loaded.

    The file is read twice, three times where a learner is repeated; besides a few batches 8 bytes a learner are held.
    One transaction must hold the calls, and end only after the last pair. Raises DeliveryRefused and CountMismatch.
    """
    landed, repeated = _look_ahead(file)
    trace = {"source": delivery.source, "delivery_id": delivery.delivery_id, "file_name": file.path.name}
    loaded = quarantined = 0
    for batch in file.read_distinct(repeated):
        ids = batch.ids.to_list()
        pseudonyms = pseudonymize(key, delivery.source, ids)
        arrays = {"file_row": pa.array(batch.records), "student_pseudonym": pa.array(pseudonyms, pa.string())}
        arrays |= {name: pa.array(some) for name, some in zip(file.features, batch.values.T, strict=True)}
        append(LEARNER_SUMMARY, build_rows(LEARNER_SUMMARY, trace, arrays, len(ids)))
        append(QUARANTINE, _as_quarantine(trace, batch.rejected))
        loaded, quarantined = loaded + len(ids), quarantined + len(batch.rejected)
        yield from zip(ids, pseudonyms, strict=True)
    if landed != loaded + quarantined:
        raise CountMismatch(
            f"{file.path.name}: {landed} records landed, but {loaded} were loaded and {quarantined} quarantined"
        )
    keep_books(delivery, [Tally(landed, loaded, quarantined)], append, landed_at=landed_at, is_accepted=False)


def _look_ahead(file: LearnerFile) -> tuple[int, np.ndarray]:
    """How many records there are, and the places of repeated learners."""
    landed, digests = 0, [np.empty(0, dtype=np.uint64)]
    for batch in file.read():
        landed += len(batch.ids) + len(batch.rejected)
        digests.append(batch.ids.hash().to_numpy())
    joined = np.concatenate(digests)
    digests.clear()
    return landed, find_repeated(file, joined)


def _as_quarantine(trace: dict[str, str], rejected: Sequence[Rejected]) -> pa.RecordBatch:
    columns: dict[str, list[object]] = {name: [value] * len(rejected) for name, value in trace.items()}
    columns["file_row"] = [one.record for one in rejected]
    columns["column_name"] = [one.column or None for one in rejected]
    columns["rule"] = [one.rule for one in rejected]
    columns["masked_value"] = [one.masked_value for one in rejected]
    columns["remedy"] = [one.remedy for one in rejected]
    return pa.RecordBatch.from_pydict(columns, schema=arrow_schema(QUARANTINE))
