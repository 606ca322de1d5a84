"""Running again changes nothing: the same day twice, days in any order, in a notebook, and after runs that were killed.

What a day may not see belongs to test_no_influence.py.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import psycopg2
import pytest

from iom_platform.extract.synthetic import write_twin
from iom_platform.notebook import ClusteringEngine, TemporalFeatureExtractor
from iom_platform.storage import record, warehouse
from iom_platform.storage.postgres_server import ensure_server
from iom_platform.tables import (
    ANONYMIZED_STUDENT_TERM,
    ASSIGNMENTS,
    DELIVERIES,
    FILES,
    OULAD_TABLES,
    PROFILES,
    PROMOTIONS,
    QUARANTINE,
    STUDENT_RISK,
    STUDENT_TERM,
)
from tests.spine import IOM, Spine, spine_at, succeed

KEY = "5b" * 32
LAYOUT = date(2025, 3, 1)
DELIVERED = LAYOUT + timedelta(days=30)
EARLY, LATE = LAYOUT - timedelta(days=14), LAYOUT + timedelta(days=20)
PATIENCE_SECONDS = 500

Hashes = dict[str, str]


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("delivered") / "twin"
    write_twin(folder, students=250, seed=11, through=DELIVERED, layout_day=LAYOUT)
    return folder


# -- an undisturbed home -------------------------------------------------------------------------------


class Undisturbed:
    """A home where nothing goes wrong: the late day, then the early one, then delivery and late day again."""

    def __init__(self, spine: Spine, twin: Path) -> None:
        self.spine = spine
        succeed(spine.land(twin, DELIVERED))
        succeed(spine.score(LATE))
        self.late_first = spine.hashes(LATE)
        self.raw_first = _raw(spine.hashes())
        self.rows_first = raw_rows(spine)
        succeed(spine.score(EARLY))
        self.early_first = spine.hashes(EARLY)
        self.all_first = spine.hashes()
        succeed(spine.land(twin, DELIVERED))
        succeed(spine.score(LATE))
        self.late_again = spine.hashes(LATE)
        self.rows_again = raw_rows(spine)


@pytest.fixture(scope="module")
def undisturbed(twin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    with spine_at(tmp_path_factory.mktemp("undisturbed") / "home", IOM_PSEUDONYM_KEY=KEY) as spine:
        yield Undisturbed(spine, twin)


def _raw(hashes: Hashes) -> Hashes:
    return {path: value for path, value in hashes.items() if path.startswith("raw/") and path != "raw/delivery_scope"}


def raw_rows(spine: Spine) -> dict[str, int]:
    with warehouse.open_warehouse(spine.settings, purpose="count rows", write=False) as con:
        return {
            t.path: con.execute(f"select count(*) from {t.sql_name}").fetchall()[0][0]
            for t in (*OULAD_TABLES, QUARANTINE, DELIVERIES, FILES)
        }


def test_same_delivery_and_day_again_change_no_table_hash(undisturbed: Undisturbed) -> None:
    assert undisturbed.late_again == undisturbed.late_first
    assert _raw(undisturbed.spine.hashes()) == undisturbed.raw_first
    grown = {p for p, h in undisturbed.spine.hashes().items() if h != undisturbed.all_first[p]}
    # these hold the day last computed, which is another one than then
    assert grown <= {"features/student_day", "features/student_week", "anonymized/student_week"}


def test_no_row_lands_twice_and_counts_add_up(undisturbed: Undisturbed) -> None:
    assert undisturbed.rows_again == undisturbed.rows_first
    assert undisturbed.rows_first["raw/oulad_student_vle"] > 1000
    with warehouse.open_warehouse(undisturbed.spine.settings, purpose="add up", write=False) as con:
        files = con.execute("select table_name, landed_rows, loaded_rows, quarantined_rows from raw.files").fetchall()
    assert len(files) == len(OULAD_TABLES)
    for path, landed, loaded, quarantined in files:
        assert landed == loaded + quarantined
        assert loaded == undisturbed.rows_again[path], path
    assert sum(quarantined for *_, quarantined in files) == undisturbed.rows_again["raw/quarantine"]


def test_an_earlier_day_scored_later_leaves_the_published_day(undisturbed: Undisturbed) -> None:
    """Its own champion, which is older than the late day too, is not taken for the late day's."""
    assert undisturbed.late_again == undisturbed.late_first
    assert undisturbed.spine.hashes(EARLY)["risk/student_risk"] == undisturbed.early_first["risk/student_risk"]


def test_each_day_is_scored_by_a_model_trained_on_or_before_it(undisturbed: Undisturbed) -> None:
    used = used_versions(undisturbed.spine)
    assert {day: {trained for _, trained in models} for day, models in used.items()} == {LATE: {LATE}, EARLY: {EARLY}}


def used_versions(spine: Spine) -> dict[date, set[tuple[int, date]]]:
    """(version, trained_as_of) that the risk rows of each day name."""
    with record.open_record(spine.settings) as conn, conn.cursor() as cursor:
        cursor.execute(
            f"select distinct r.as_of_on, p.model_version, p.trained_as_of from {STUDENT_RISK.sql_name} r "
            f"left join {PROMOTIONS.sql_name} p using (model_name, model_version) where r.risk_level <> 'UNKNOWN'"
        )
        found: dict[date, set[tuple[int, date]]] = {}
        for day, version, trained_as_of in cursor.fetchall():
            assert trained_as_of <= day
            found.setdefault(day, set()).add((version, trained_as_of))
        return found


# -- the same day in a notebook ------------------------------------------------------------------------


def test_a_notebook_finds_the_features_clusters_and_levels_of_the_platform(
    undisturbed: Undisturbed, twin: Path
) -> None:
    """Of one key and seed. The wall withholds courses under k whole, so the model is compared on the others' rows."""
    settings = undisturbed.spine.settings
    with warehouse.open_warehouse(settings, purpose="compare", write=False) as con:
        term, walled = (warehouse.read_table(con, t, LATE) for t in (STUDENT_TERM, ANONYMIZED_STUDENT_TERM))
    with record.open_record(settings) as conn:
        assigned, profiles, levels = (record.read_table(conn, t, LATE) for t in (ASSIGNMENTS, PROFILES, STUDENT_RISK))

    extractor = TemporalFeatureExtractor(key=bytes.fromhex(KEY), source="synthetic")
    features = extractor.extract_temporal_features(twin, LATE, include_demographics=True)
    same_rows(features, term)

    passed = features[features["course_id"].isin(walled["course_id"])]
    assert len(passed) == len(walled) > 50
    engine = ClusteringEngine(seed=settings.clustering.seed)
    clusters = engine.perform_clustering(passed)
    same_rows(clusters.dropna(), assigned)
    same_rows(engine.profiles_, profiles)
    risk = engine.assign_risk_levels(clusters)
    same_rows(risk, levels)
    assert set(risk["risk_level"]) >= {"LOW", "MEDIUM", "HIGH"}


def same_rows(found: pd.DataFrame, published: pd.DataFrame) -> None:
    """The rows of `published` in the columns that `found` has, to the bit, in any order."""
    key = [name for name in ("student_pseudonym", "course_id", "cluster", "feature") if name in found.columns]
    frames = (f[list(found.columns)].sort_values(key, ignore_index=True) for f in (found, published))
    pd.testing.assert_frame_equal(*frames, check_dtype=False, check_exact=True)


# -- a home where runs are killed ----------------------------------------------------------------------


class KilledRun:
    """`iom run` in a process group of its own; the dbt that it starts is in that group."""

    def __init__(self, twin: Path, as_of_on: date, folder: Path) -> None:
        self.log = folder / f"{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(IOM), "run", "--source", "synthetic", "--path", str(twin), "--as-of", as_of_on.isoformat()],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def wait_until(self, is_reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_reached():
            assert self.process.poll() is None, f"ended before it could be killed: {self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"never came to the point: {self.log.read_text()[-3000:]}"
            time.sleep(0.02)

    def members(self) -> set[int]:
        """The living processes of its group."""
        found = set()
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(group) == self.process.pid and state != "Z":
                    found.add(int(entry.name))
        return found

    def kill(self, *, only_parent: bool = False) -> None:
        assert self.process.poll() is None
        (os.kill if only_parent else os.killpg)(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def killed_run(twin: Path, as_of_on: date, folder: Path) -> Iterator[KilledRun]:
    run = KilledRun(twin, as_of_on, folder)
    try:
        yield run
    finally:
        run.end()


@contextmanager
def blocked(spine: Spine, table: str, *, role: str | None = None) -> Iterator[Callable[[], bool]]:
    """Nobody can write the record's table; yields whether somebody waits for it.

    So a run stands still at a known place, and is killed there however fast the machine is.
    """
    with closing(psycopg2.connect(ensure_server(spine.settings).url(record.DATABASE))) as conn, conn.cursor() as cursor:
        if role:
            cursor.execute(f"set role {role}")
        cursor.execute(f"lock table {table} in share mode")

        def is_awaited() -> bool:
            cursor.execute("select count(*) from pg_locks where not granted and relation = %s::regclass", (table,))
            return bool(cursor.fetchall()[0][0])

        yield is_awaited
        conn.rollback()


def dbt_has_built(spine: Spine, model: str) -> Callable[[], bool]:
    """Whether a dbt run that begins from now on has built the model."""
    known = set(spine.settings.dbt_path.rglob("dbt.log"))

    def has_built() -> bool:
        logs = set(spine.settings.dbt_path.rglob("dbt.log")) - known
        return any(
            f"model {model}" in line and "OK created" in line for log in logs for line in log.read_text().splitlines()
        )

    return has_built


def _count(spine: Spine, database: str, table: str) -> int:
    with closing(psycopg2.connect(ensure_server(spine.settings).url(database))) as conn, conn.cursor() as cursor:
        cursor.execute(f"select count(*) from {table}")
        return int(cursor.fetchall()[0][0])


def kill_while_landing(spine: Spine, twin: Path, folder: Path) -> None:
    """All rows are in DuckDB's open transaction, none is committed."""
    with (
        blocked(spine, "identity.students", role="identity_reader") as is_awaited,
        killed_run(twin, LATE, folder) as run,
    ):
        run.wait_until(is_awaited)
        run.kill()
    assert not any(raw_rows(spine).values())


def kill_during_dbt(spine: Spine, twin: Path, folder: Path) -> None:
    """Some models are of this run, the others are not there; dbt dies with the run."""
    has_built = dbt_has_built(spine, "intermediate.int_clicks_resolved")
    with killed_run(twin, LATE, folder) as run:
        run.wait_until(has_built)
        assert len(run.members()) >= 2
        run.kill()
    assert "features/student_term" not in spine.hashes()


def kill_after_registering(spine: Spine, twin: Path, folder: Path) -> None:
    """MLflow has the version, the record does not know it."""
    with blocked(spine, PROMOTIONS.sql_name) as is_awaited, killed_run(twin, LATE, folder) as run:
        run.wait_until(is_awaited)
        run.kill()
    assert _count(spine, "mlflow", "model_versions") > 0
    assert _count(spine, record.DATABASE, PROMOTIONS.sql_name) == 0


def kill_while_writing_risk(spine: Spine, twin: Path, folder: Path) -> None:
    with blocked(spine, STUDENT_RISK.sql_name) as is_awaited, killed_run(twin, LATE, folder) as run:
        run.wait_until(is_awaited)
        run.kill()
    assert _count(spine, record.DATABASE, STUDENT_RISK.sql_name) == 0


def orphan_dbt(spine: Spine, twin: Path, folder: Path) -> KilledRun:
    """dbt goes on building the early day, and nobody holds the platform's lock for it."""
    has_built = dbt_has_built(spine, "intermediate.int_deliveries_ranked")
    run = KilledRun(twin, EARLY, folder)
    try:
        run.wait_until(has_built)
        run.kill(only_parent=True)
        assert run.members(), "dbt went with its parent, so nothing was orphaned"
    except BaseException:
        run.end()
        raise
    return run


def kill_postmaster(spine: Spine) -> None:
    location = Path(ensure_server(spine.settings).location)
    postmaster = int((location / "data" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(postmaster, signal.SIGKILL)


def run_whole(spine: Spine, twin: Path, as_of_on: date) -> None:
    done = spine.iom("run", "--source", "synthetic", "--path", str(twin), "--as-of", as_of_on.isoformat())
    assert done.returncode == 0, done.stderr[-3000:]


class Disturbed:
    """A home whose runs were killed one after the other; only the last run of each day came to its end."""

    def __init__(self, spine: Spine, twin: Path, folder: Path) -> None:
        self.spine = spine
        kill_while_landing(spine, twin, folder)
        kill_during_dbt(spine, twin, folder)
        kill_after_registering(spine, twin, folder)
        kill_while_writing_risk(spine, twin, folder)
        orphan = orphan_dbt(spine, twin, folder)
        try:
            self.port_before = ensure_server(spine.settings).port
            succeed(spine.land(twin, DELIVERED))
            succeed(spine.score(LATE))
        finally:
            orphan.end()
        self.port_after = ensure_server(spine.settings).port
        self.late = spine.hashes(LATE)
        kill_postmaster(spine)
        run_whole(spine, twin, EARLY)
        self.everything = spine.hashes()


@pytest.fixture(scope="module")
def disturbed(twin: Path, undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disturbed]:
    folder = tmp_path_factory.mktemp("disturbed")
    with spine_at(folder / "home", IOM_PSEUDONYM_KEY=KEY) as spine:
        yield Disturbed(spine, twin, folder)


def test_killed_runs_and_an_orphaned_dbt_leave_no_trace_in_the_day(
    disturbed: Disturbed, undisturbed: Undisturbed
) -> None:
    assert disturbed.late == undisturbed.late_first


def test_every_table_is_as_in_an_undisturbed_home(disturbed: Disturbed, undisturbed: Undisturbed) -> None:
    """MLflow's version numbers are among the hashed columns; the last run came after a killed postmaster."""
    assert disturbed.everything == undisturbed.all_first
    assert raw_rows(disturbed.spine) == undisturbed.rows_first
    assert used_versions(disturbed.spine) == used_versions(undisturbed.spine)


def test_killed_runs_leave_the_server_and_the_next_one_joins_it(disturbed: Disturbed) -> None:
    assert disturbed.port_after == disturbed.port_before
