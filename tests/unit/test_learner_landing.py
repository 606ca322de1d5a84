"""A learner summary as a delivery: its day and identity, and that each record of it lands once."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from iom_platform.extract import learner_landing
from iom_platform.extract.landing import CountMismatch
from iom_platform.extract.learner_landing import load_learners, open_learners
from iom_platform.extract.source import DeliveryRefused
from iom_platform.privacy.pseudonyms import pseudonymize
from iom_platform.tables import DELIVERIES, FILES, LEARNER_FEATURES, LEARNER_SUMMARY, QUARANTINE, Table

KEY = bytes(range(32))
DAY = date(2026, 11, 2)
NOW = datetime(2026, 11, 2, 22, tzinfo=UTC)
HEADER = "learner_id,time_spent,avg_score,accuracy,topic_progress\n"


def _write(path: Path, *lines: str) -> Path:
    path.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    return path


def _land(path: Path) -> tuple[dict[Table, list[dict[str, Any]]], list[tuple[str, str]]]:
    found: dict[Table, list[dict[str, Any]]] = {t: [] for t in (LEARNER_SUMMARY, QUARANTINE, FILES, DELIVERIES)}
    delivery, file = open_learners(path, delivered_on=DAY)

    def append(table: Table, rows: "pa.Table | pa.RecordBatch") -> None:
        found[table] += rows.to_pylist()

    return found, list(load_learners(delivery, file, KEY, append, landed_at=NOW))


def test_the_day_is_in_the_name_or_given(tmp_path: Path) -> None:
    dated = _write(tmp_path / "learners_2026-11-02.csv", "a,1,2,3,4")
    assert open_learners(dated, delivered_on=None)[0].delivered_on == DAY
    with pytest.raises(DeliveryRefused, match="says that it was delivered on 2026-11-02, the argument says 2026-11-03"):
        open_learners(dated, delivered_on=date(2026, 11, 3))
    plain = _write(tmp_path / "learners.csv", "a,1,2,3,4")
    assert open_learners(plain, delivered_on=DAY)[0].delivered_on == DAY
    with pytest.raises(DeliveryRefused, match="does not say when it was delivered; give --delivered-on"):
        open_learners(plain, delivered_on=None)


def test_a_delivery_is_known_by_its_bytes_under_any_name(tmp_path: Path) -> None:
    paths = [
        _write(tmp_path / "a.csv", "a,1,2,3,4"),
        _write(tmp_path / "b.csv", "a,1,2,3,4"),
        _write(tmp_path / "c.csv", "b,1,2,3,4"),
    ]
    one, same, other = (open_learners(path, delivered_on=DAY)[0] for path in paths)
    assert one.delivery_id == same.delivery_id != other.delivery_id
    assert (one.source, one.scope, [f.table.path for f in one.files]) == (
        "learner_summary",
        "full",
        ["raw/learner_summary"],
    )


def test_a_file_without_a_feature_is_refused(tmp_path: Path) -> None:
    (tmp_path / "learners.csv").write_text("learner_id,time_spent,avg_score,accuracy\na,1,2,3\n")
    with pytest.raises(DeliveryRefused, match="column topic_progress is missing"):
        open_learners(tmp_path / "learners.csv", delivered_on=DAY)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_each_record_lands_once_under_a_pseudonym(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path / "learners.csv", "a,1,2,3,4", "b,5,6,7,8", "a,9,9,9,9", "c,-1,2,3,4", "d,0,0.5,1,0")
    if kind == "parquet":
        frame, path = pd.read_csv(path), tmp_path / "learners.parquet"
        frame.to_parquet(path)
    found, pairs = _land(path)
    assert pairs == list(zip("abd", pseudonymize(KEY, "learner_summary", list("abd")), strict=True))
    rows = found[LEARNER_SUMMARY]
    assert [(r["file_row"], r["student_pseudonym"]) for r in rows] == list(
        zip((1, 2, 5), (p for _, p in pairs), strict=True)
    )
    assert [[r[name] for name in LEARNER_FEATURES] for r in rows] == [[1, 2, 3, 4], [5, 6, 7, 8], [0, 0.5, 1, 0]]
    told = [(r["file_row"], r["column_name"], r["masked_value"]) for r in found[QUARANTINE]]
    assert told == [(3, "learner_id", "a"), (4, "time_spent", "-9" if kind == "csv" else "-9.9")]
    [book], [line] = found[FILES], found[DELIVERIES]
    assert [book[f"{n}_rows"] for n in ("landed", "loaded", "quarantined")] == [5, 3, 2]
    assert (line["delivered_on"], line["is_accepted"], book["file_name"]) == (DAY, False, path.name)


def test_a_file_of_a_header_alone_lands_without_a_row(tmp_path: Path) -> None:
    found, pairs = _land(_write(tmp_path / "learners.csv"))
    assert pairs == found[LEARNER_SUMMARY] == []
    assert found[FILES][0]["landed_rows"] == 0


def test_a_record_that_gets_lost_stops_the_landing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "learners.csv", "a,1,2,3,4", "b,5,6,7,8")
    look_ahead = learner_landing._look_ahead
    monkeypatch.setattr(learner_landing, "_look_ahead", lambda file: (look_ahead(file)[0] + 1, look_ahead(file)[1]))
    with pytest.raises(CountMismatch, match="3 records landed, but 2 were loaded and 0 quarantined"):
        _land(path)
