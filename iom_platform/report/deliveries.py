"""The data behind a day: each delivery with its counts, how old the newest is, and what was quarantined.

Values of rejected rows, masked or not, do not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from iom_platform.tables import STALE_AFTER_DAYS

if TYPE_CHECKING:
    import pandas as pd

_COUNTS = ["landed_rows", "loaded_rows", "quarantined_rows"]


@dataclass(frozen=True)
class Delivery:
    """One delivery in the day's scope; counts are sums over its files."""

    source: str
    delivered_on: date
    scope: str
    landed: int
    loaded: int
    quarantined: int


@dataclass(frozen=True)
class Rejection:
    """Rejected records of a file that broke one rule."""

    file_name: str
    rule: str
    remedy: str
    records: int


def list_deliveries(deliveries: pd.DataFrame, files: pd.DataFrame) -> tuple[Delivery, ...]:
    """deliveries: rows of raw/deliveries in the day's scope; files: of raw/files. Newest first."""
    sums = files.groupby("delivery_id")[_COUNTS].sum().reset_index()
    joined = deliveries.merge(sums, on="delivery_id", how="left").fillna(dict.fromkeys(_COUNTS, 0))
    found = [
        Delivery(str(r["source"]), r["delivered_on"].date(), str(r["scope"]), *(int(r[c]) for c in _COUNTS))
        for r in joined.to_dict("records")
    ]
    return tuple(sorted(found, key=lambda d: (-d.delivered_on.toordinal(), d.source)))


def find_stale(deliveries: tuple[Delivery, ...], as_of_on: date) -> tuple[tuple[str, int], ...]:
    """(source, days) of each source whose newest delivery is more than STALE_AFTER_DAYS older than the day."""
    newest = {d.source: d.delivered_on for d in sorted(deliveries, key=lambda d: d.delivered_on)}
    ages = ((source, (as_of_on - newest[source]).days) for source in sorted(newest))
    return tuple((source, days) for source, days in ages if days > STALE_AFTER_DAYS)


def list_rejections(quarantine: pd.DataFrame) -> tuple[Rejection, ...]:
    """Rejected records per file and rule, the most frequent first; quarantine: file_name, rule, remedy of each record."""
    counts = quarantine.groupby(["file_name", "rule", "remedy"]).size().reset_index(name="records")
    found = [
        Rejection(str(r["file_name"]), str(r["rule"]), str(r["remedy"]), int(r["records"]))
        for r in counts.to_dict("records")
    ]
    return tuple(sorted(found, key=lambda r: (-r.records, r.file_name, r.rule)))
