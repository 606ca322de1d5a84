"""The same deliveries through DuckDB and through PostgreSQL: every table has the same rows.

What the rows should be is tested elsewhere, on DuckDB. A twin is tested always, OULAD where it is.
"""

import os
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest

from iom_platform.extract.synthetic import write_twin
from iom_platform.settings import PROJECT_ROOT
from iom_platform.storage import record, warehouse
from iom_platform.storage.learner_rows import read_in_order
from iom_platform.tables import ANONYMIZED_LEARNER_SUMMARY, OULAD_STUDENT_VLE, STUDENT_RISK, TABLES, Table
from tests.performance.bench_clustering import write_learners
from tests.spine import Frames, Spine, spine_at, succeed

OULAD = Path(os.environ.get("IOM_TEST_DATA", PROJECT_ROOT.parent / "shared" / "data")) / "oulad"
PUBLISHED_ON = date(2017, 11, 28)
KEY = "5b" * 32
LAYOUT = date(2025, 3, 1)
DELIVERED = LAYOUT + timedelta(days=30)
LATE, EARLY = LAYOUT + timedelta(days=20), LAYOUT - timedelta(days=14)
IN_ORDER = "learners in the order of their file"


def _read(spine: Spine, table: Table) -> pd.DataFrame:
    """The table's lasting columns, in an order that their values alone decide."""
    if table.home == "record":
        with record.open_record(spine.settings) as conn:
            frame = record.read_table(conn, table)
    else:
        with warehouse.open_warehouse(spine.settings, purpose="compare", write=False) as con:
            frame = warehouse.read_table(con, table)
    names = list(table.stable_columns)
    return frame[names].sort_values([*table.key, *(n for n in names if n not in table.key)], ignore_index=True)


def _run(engine: str, home: Path, fill: Callable[[Spine], None]) -> Frames:
    with spine_at(home, IOM_ENGINE=engine, IOM_PSEUDONYM_KEY=KEY) as spine:
        fill(spine)
        found = {table.path: _read(spine, table) for table in TABLES}
        with warehouse.open_warehouse(spine.settings, purpose="compare", write=False) as con:
            batches = read_in_order(con, DELIVERED, ANONYMIZED_LEARNER_SUMMARY.column_names)
            found[IN_ORDER] = pd.concat([pd.DataFrame(), *(b.to_pandas() for b in batches if len(b))])
        assert spine.settings.warehouse_path.exists() == (engine == "duckdb")
    return found


def _compare(folder: Path, fill: Callable[[Spine], None]) -> Frames:
    """What both engines made, every table of which was equal to the last bit."""
    left, right = (_run(engine, folder / engine, fill) for engine in ("duckdb", "postgres"))
    for path, frame in left.items():
        pd.testing.assert_frame_equal(frame, right[path], check_exact=True, obj=path)
    return left


def test_a_twin_makes_the_same_tables(tmp_path: Path) -> None:
    """Two days, the later first, and learners: no table of tables.py is empty, and none differs."""
    write_twin(tmp_path / "twin", students=150, seed=11, through=DELIVERED, layout_day=LAYOUT)
    write_learners(tmp_path / "learners.csv", 2000, seed=11)
    with (tmp_path / "learners.csv").open("a") as file:
        file.write("L99999999,much,50,0.5,0.5\n")  # for the quarantine

    def fill(spine: Spine) -> None:
        succeed(spine.land(tmp_path / "twin", DELIVERED))
        succeed(spine.score(LATE))
        succeed(spine.score(EARLY))
        learners = {"load_learners": {"config": {"path": str(tmp_path / "learners.csv")}}}
        succeed(spine._execute("cluster_learners", DELIVERED, learners))

    found = _compare(tmp_path, fill)
    assert sorted(path for path, frame in found.items() if frame.empty) == []


@pytest.mark.skipif(
    not (OULAD / "studentVle.csv").exists(),
    reason=f"OULAD is not at {OULAD}; put its seven files there, or name the folder above it in IOM_TEST_DATA",
)
def test_oulad_makes_the_same_tables(tmp_path: Path) -> None:
    days = (date(2013, 12, 16), date(2013, 5, 15))

    def fill(spine: Spine) -> None:
        succeed(spine.land(OULAD, PUBLISHED_ON, "oulad"))
        for day in days:
            succeed(spine.score(day))

    found = _compare(tmp_path, fill)
    assert len(found[OULAD_STUDENT_VLE.path]) > 500_000
    assert set(found[STUDENT_RISK.path]["as_of_on"]) == {pd.Timestamp(day) for day in days}
