"""Hands a delivery's rows to whoever writes them, together with its lines in the landing's books.

How a file is read belongs to `landing.py`; where rows go, and in which transaction, to the caller.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

import pyarrow as pa

from iom_platform.extract.landing import Landing, Tally
from iom_platform.extract.source import Delivery
from iom_platform.tables import DELIVERIES, FILES, QUARANTINE, Table

Append = Callable[[Table, "pa.Table | pa.RecordBatch"], object]

# DuckDB fills whole row groups of 122,880 rows then: a quarter less processor time and disk than batch by batch
_ROWS_AT_ONCE = 1_000_000


def load_delivery(
    delivery: Delivery,
    key: bytes,
    append: Append,
    *,
    landed_at: datetime,
    is_accepted: bool = False,
) -> list[tuple[str, str]]:
    """All rows, quarantine and books of a delivery through `append(table, rows)`; one transaction must hold the calls.

    Returns (student_id, student_pseudonym) of each student with a loaded row. Raises as `Landing.read` does.
    """
    landing = Landing(delivery, key)
    identities: list[tuple[str, str]] = []
    tallies: list[Tally] = []
    for file in delivery.files:
        waiting: list[pa.RecordBatch] = []
        for batch in landing.read(file):
            waiting.append(batch.rows)
            if sum(map(len, waiting)) >= _ROWS_AT_ONCE:
                append(file.table, pa.Table.from_batches(waiting))
                waiting.clear()
            append(QUARANTINE, batch.quarantine)
            identities += zip(
                *(batch.identities[name].to_pylist() for name in ("student_id", "student_pseudonym")), strict=True
            )
        if waiting:
            append(file.table, pa.Table.from_batches(waiting))
        tallies.append(landing.tallies[file.name])
    keep_books(delivery, tallies, append, landed_at=landed_at, is_accepted=is_accepted)
    return identities


def keep_books(
    delivery: Delivery, tallies: Sequence[Tally], append: Append, *, landed_at: datetime, is_accepted: bool
) -> None:
    """The delivery's line in raw/deliveries, and one in raw/files for each file; tallies: in the order of its files."""
    files = []
    for file, tally in zip(delivery.files, tallies, strict=True):
        book = (delivery.delivery_id, file.name, file.table.path, file.sha256, tally.landed, tally.loaded,
                tally.quarantined)  # fmt: skip
        files.append(dict(zip(FILES.column_names, book, strict=True)))
    append(FILES, pa.Table.from_pylist(files))
    line = (delivery.delivery_id, delivery.source, delivery.delivered_on, delivery.scope, delivery.sha256, is_accepted,
            landed_at)  # fmt: skip
    append(DELIVERIES, pa.Table.from_pylist([dict(zip(DELIVERIES.column_names, line, strict=True))]))
