"""The dbt project end to end: features against the pandas oracle, both engines, replays, planted violations.

Expected values come from tests/performance/plain_features.py; none is written down by hand.
"""

import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from iom_platform import tables
from iom_platform.settings import PROJECT_ROOT, environment_with, load_settings
from tests.integration.random_university import (
    LATE,
    RAW,
    Frames,
    copy_to_postgres,
    create_raw,
    is_stray,
    load_warehouse,
    random_university,
)
from tests.performance.plain_features import plain_student_term

EARLY = date(2013, 10, 20)
ZONE = "Europe/London"  # its clocks change between the two days
FEATURES = tuple(t for t in tables.TABLES if t.stage == "features")
STRAYS_FOUND = "increment_rows_find_what_they_refer_to"  # a warning; every other test of dbt's must pass


# -- warehouse and dbt --------------------------------------------------------------------------------


class Dbt:
    """Runs dbt in this process on one working warehouse: one import and one parse cache for all runs of the module."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warehouse = folder / "warehouse.duckdb"

    def restart_from(self, snapshot: Path) -> Path:
        shutil.copy(snapshot, self.warehouse)
        return self.warehouse

    def __call__(
        self, command: str, as_of_on: date | str, *args: str, check: bool = True, **variables: str
    ) -> list[Any]:
        """Results of the nodes; with `check` every one must have succeeded."""
        from dbt.adapters.duckdb.connections import DuckDBConnectionManager
        from dbt.cli.main import dbtRunner

        settings = {
            "IOM_WAREHOUSE_PATH": str(self.warehouse),
            "IOM_AS_OF_ON": str(as_of_on),
            "IOM_INSTITUTION__TIMEZONE": ZONE,
        }
        project = str(PROJECT_ROOT / "dbt_project")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (settings | variables).items():
                patch.setenv(name, value)
            done = dbtRunner().invoke([
                "--quiet", command, *args, "--project-dir", project, "--profiles-dir", project,
                "--target-path", str(self.folder / "target"), "--log-path", str(self.folder / "logs"),
            ])  # fmt: skip
        DuckDBConnectionManager.close_all_connections()
        if done.exception is not None:
            raise done.exception
        results: list[Any] = list(done.result)  # type: ignore[union-attr,arg-type]
        red = [r for r in results if r.status not in ("success", "pass") and r.node.name != STRAYS_FOUND]
        bad = [f"{r.node.name}: {r.message}" for r in red]
        assert not check or (results and not bad), bad
        return results


def _read(warehouse: Path, table: tables.Table, as_of_on: date | None = None) -> pd.DataFrame:
    where = f" where as_of_on = date '{as_of_on}'" if as_of_on else ""
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        columns = ", ".join(table.stable_columns)
        return connection.sql(f"select {columns} from {table.sql_name}{where} order by {', '.join(table.key)}").df()


def _all_features(warehouse: Path, as_of_on: date) -> Frames:
    return {table.name: _read(warehouse, table, as_of_on) for table in FEATURES}


def _assert_same(left: Frames, right: Frames) -> None:
    for name, frame in left.items():
        pd.testing.assert_frame_equal(frame, right[name], check_exact=True, obj=name)


def _assert_matches_oracle(actual: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert len(actual) == len(expected) > 0
    for column in tables.STUDENT_TERM.columns:
        if column.kind == "volatile":
            continue
        found, wanted = actual[column.name], expected[column.name]
        if column.dtype in ("int", "bigint", "float"):
            found, wanted = (
                pd.to_numeric(v).astype("float64").to_numpy(dtype=float, na_value=np.nan) for v in (found, wanted)
            )
            tolerance = 1e-9 if column.dtype == "float" else 0
            np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * 1e-3, err_msg=column.name)
        else:
            texts = [v.astype("object").where(v.notna(), None).map(str).str[:10] for v in (found, wanted)]
            assert texts[0].tolist() == texts[1].tolist(), column.name


@pytest.fixture(scope="module")
def dbt(tmp_path_factory: pytest.TempPathFactory) -> Dbt:
    return Dbt(tmp_path_factory.mktemp("dbt"))


@pytest.fixture(scope="module")
def raw() -> Frames:
    return random_university(seed=20131216)


@pytest.fixture(scope="module")
def built(dbt: Dbt, raw: Frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot with both days built, the later one first."""
    dbt.warehouse.unlink(missing_ok=True)
    load_warehouse(dbt.warehouse, raw)
    dbt("build", LATE)
    dbt("run", EARLY)
    return Path(shutil.copy(dbt.warehouse, tmp_path_factory.mktemp("built")))


# -- tests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_of_on", [EARLY, LATE])
def test_student_term_equals_the_pandas_oracle(built: Path, raw: Frames, as_of_on: date) -> None:
    expected = plain_student_term(raw, as_of_on, ZONE)
    assert set(expected.activity_missing_reason.dropna()) == {"course_not_observed", "never_active"}
    assert set(expected.source) == {"alpha", "beta"}
    _assert_matches_oracle(_read(built, tables.STUDENT_TERM, as_of_on), expected)


def test_days_and_weeks_add_up_to_the_term(built: Path) -> None:
    term = _read(built, tables.STUDENT_TERM, EARLY).set_index(["student_pseudonym", "course_id"])
    days = _read(built, tables.STUDENT_DAY)
    assert set(days.as_of_on.dt.date) == {EARLY}
    assert (days.active_on.dt.date <= EARLY).all()
    totals = (
        days.groupby(["student_pseudonym", "course_id"])[["clicks", "logins", "session_minutes"]]
        .sum()
        .reindex(term.index)
    )
    assert (totals.clicks.fillna(0) == term.clicks_total.fillna(0)).all()
    assert (totals.logins.fillna(0) == term.logins_total.fillna(0)).all()
    np.testing.assert_allclose(totals.session_minutes.fillna(0), term.time_spent_minutes.fillna(0).astype(float))
    weeks = _read(built, tables.STUDENT_WEEK)
    assert (weeks.groupby(["student_pseudonym", "course_id"]).size().reindex(term.index) == term.course_week).all()
    assert (
        weeks.groupby(["student_pseudonym", "course_id"]).days_elapsed.sum().reindex(term.index) == term.course_day + 1
    ).all()
    since_start = (
        days[days.course_day >= 0]
        .groupby(["student_pseudonym", "course_id"])
        .clicks.sum()
        .reindex(term.index)
        .fillna(0)
    )
    assert (weeks.groupby(["student_pseudonym", "course_id"]).clicks.sum().reindex(term.index) == since_start).all()


def test_outcomes_are_those_known_by_the_day(built: Path) -> None:
    for as_of_on in (EARLY, LATE):
        outcomes = _read(built, tables.FEATURES_STUDENT_OUTCOME, as_of_on)
        known_on = outcomes.outcome_known_on.dt.date
        assert (known_on <= as_of_on).all()
        is_over = outcomes.course_id.isin(["DDD-2013B"] + (["CCC-2013J"] if as_of_on == LATE else []))
        assert (outcomes[~is_over].outcome == "Withdrawn").all()
        assert (outcomes[is_over].outcome != "Withdrawn").any()
        ends_on = date(2013, 2, 1) + timedelta(240)
        others = outcomes[(outcomes.course_id == "DDD-2013B") & (outcomes.outcome != "Withdrawn")]
        assert set(pd.to_datetime(others.outcome_known_on).dt.date) == {ends_on}


def test_rows_that_refer_to_nothing_are_counted(dbt: Dbt, built: Path, raw: Frames) -> None:
    """That they change no feature is what the oracle says, and PostgreSQL after it."""
    dbt.restart_from(built)
    [found] = dbt("test", LATE, "--select", STRAYS_FOUND)
    assert (found.status, found.failures) == ("warn", 14)
    assert found.failures == sum(int(is_stray(frame).sum()) for frame in raw.values())
    with duckdb.connect(str(dbt.warehouse)) as connection:
        connection.execute("update intermediate.int_deliveries_ranked set delivery_rank = 1")
    [found] = dbt("test", LATE, "--select", STRAYS_FOUND)
    assert (found.status, found.failures) == ("pass", 0)


def test_a_rebuilt_day_is_replaced_even_by_nothing_and_other_days_stay(dbt: Dbt, built: Path) -> None:
    with duckdb.connect(str(dbt.restart_from(built))) as warehouse:
        warehouse.execute("update raw.deliveries set is_accepted = false")
        warehouse.execute("""insert into raw.deliveries
            values ('learners', 'learner_summary', '2013-10-01', 'full', 'learners', true, '2013-10-01')""")
    dbt("run", EARLY, "--full-refresh")
    with duckdb.connect(str(dbt.warehouse)) as warehouse:
        assert warehouse.execute("select count(*) from intermediate.int_deliveries_ranked").fetchall() == [(0,)]
    for table in (tables.STUDENT_TERM, tables.FEATURES_STUDENT_OUTCOME):
        assert len(_read(built, table, EARLY)) > 0
        assert len(_read(dbt.warehouse, table, EARLY)) == 0
        pd.testing.assert_frame_equal(_read(dbt.warehouse, table, LATE), _read(built, table, LATE), check_exact=True)


def _add_noise(warehouse: Path, as_of_on: date, first_noisy: int) -> None:
    """Everything dated from `first_noisy` days after the day on becomes something else that is dated so."""
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(f"""create temp table noisy as
            select delivery_id, code_module, code_presentation, module_presentation_length as length,
              date '{as_of_on}' + {first_noisy} - coalesce(presentation_starts_on, cast(substr(code_presentation, 1, 4)
                || case when right(code_presentation, 1) = 'B' then '-02-01' else '-10-01' end as date)) as day
            from raw.oulad_courses""")
        # an increment does not repeat the courses: it takes those of its source's full delivery
        connection.execute("""insert into noisy select replace(delivery_id, 'full-', 'more-'), * exclude (delivery_id)
            from noisy where delivery_id like 'full-%'""")
        course = "n.delivery_id = t.delivery_id and n.code_module = t.code_module and n.code_presentation = t.code_presentation"
        left = """exists (select 1 from raw.oulad_student_registration r where r.student_pseudonym = t.student_pseudonym
            and r.code_module = t.code_module and r.code_presentation = t.code_presentation and r.date_unregistration < n.day)"""
        assessment = "a.id_assessment = t.id_assessment and a.delivery_id = replace(t.delivery_id, 'more-', 'full-')"
        for statement in (
            f"""update raw.oulad_student_info t set final_result = case final_result when 'Pass' then 'Withdrawn' else 'Pass' end
                from noisy n where {course} and n.length >= n.day and not {left}""",
            f"""update raw.oulad_student_vle t set sum_click = 9999, id_site = 1, clicked_at = null, date = t.date + 1
                from noisy n where {course} and t.date >= n.day""",
            f"""update raw.oulad_student_assessment t set score = 1, is_banked = false,
                date_submitted = date_submitted + case when date_submitted > n.day then -1 else 1 end
                from raw.oulad_assessments a, noisy n where {assessment} and n.delivery_id = a.delivery_id
                and n.code_module = a.code_module and n.code_presentation = a.code_presentation and t.date_submitted >= n.day""",
            f"""update raw.oulad_student_registration t set date_unregistration = n.day from noisy n
                where {course} and (t.date_unregistration >= n.day or t.date_unregistration is null and n.length >= n.day)""",
            f"""update raw.oulad_student_registration t set date_registration = n.day
                from noisy n where {course} and t.date_registration >= n.day""",
        ):
            assert connection.execute(statement).fetchone() > (0,)


@pytest.mark.parametrize("table", FEATURES, ids=lambda table: table.name)
def test_a_model_alone_is_refused_where_another_day_was_built_last(dbt: Dbt, built: Path, table: tables.Table) -> None:
    dbt.restart_from(built)
    [refused] = dbt("run", LATE, "--select", table.name, check=False)
    assert f"hold {EARLY} and not {LATE}; build them with it: dbt build --select +{table.name}" in refused.message
    pd.testing.assert_frame_equal(_read(dbt.warehouse, table, None), _read(built, table, None), check_exact=True)


def test_nothing_after_the_day_has_any_influence(dbt: Dbt, built: Path) -> None:
    before = _all_features(built, EARLY)
    _add_noise(dbt.restart_from(built), EARLY, first_noisy=1)
    dbt("run", EARLY)
    _assert_same(before, _all_features(dbt.warehouse, EARLY))
    _add_noise(dbt.warehouse, EARLY, first_noisy=0)
    dbt("run", EARLY)
    after = _all_features(dbt.warehouse, EARLY)
    for name, frame in before.items():
        assert not frame.equals(after[name]), f"the noise of the day itself does not reach {name}: the test is blind"


def test_a_recorded_scope_is_replayed_whatever_is_delivered_later(dbt: Dbt, built: Path) -> None:
    with duckdb.connect(str(dbt.restart_from(built))) as warehouse:
        warehouse.execute(f"""insert into raw.delivery_scope
            select date '{LATE}', delivery_id from raw.deliveries where delivery_id like 'full-%' or delivery_id like 'more-%'""")
        warehouse.execute("update raw.deliveries set is_accepted = true")  # the newer full delivery counts now
    dbt("run", LATE)
    dbt("run", EARLY)
    for table in (tables.STUDENT_TERM, tables.FEATURES_STUDENT_OUTCOME):
        pd.testing.assert_frame_equal(_read(dbt.warehouse, table, LATE), _read(built, table, LATE), check_exact=True)
        assert not _read(dbt.warehouse, table, EARLY).equals(_read(built, table, EARLY))


PLANTS = {
    "oulad_courses": "update raw.oulad_courses set module_presentation_length = 0 where code_module = 'AAA'",
    "oulad_assessments": "update raw.oulad_assessments set assessment_type = 'Essay' where id_assessment = 1000",
    "oulad_vle": "update raw.oulad_vle set id_site = 1000 where id_site = 1001",
    "oulad_student_info": "update raw.oulad_student_info set final_result = 'Passed' where final_result = 'Pass'",
    "oulad_student_registration": "insert into raw.oulad_student_registration from raw.oulad_student_registration",
    "oulad_student_assessment": "update raw.oulad_student_assessment set score = 101 where id_assessment = 1000",
    "oulad_student_vle": "update raw.oulad_student_vle set sum_click = 0 where date = 3",
    "deliveries": "update raw.deliveries set scope = 'partial' where delivery_id = 'more-beta'",
    "delivery_scope": f"insert into raw.delivery_scope values (date '{EARLY}', 'nowhere'), (date '{EARLY}', 'nowhere')",
}


def test_a_planted_violation_turns_each_source_red_and_stops_the_build(dbt: Dbt, raw: Frames) -> None:
    assert set(PLANTS) == {t.name for t in RAW} - {"files", "quarantine"}, "a source without a plant"
    dbt.warehouse.unlink(missing_ok=True)
    with duckdb.connect(str(load_warehouse(dbt.warehouse, raw))) as connection:
        for plant in PLANTS.values():
            connection.execute(plant)
    results = dbt("build", EARLY, check=False)
    red = [r.node.name.split("_raw_", 1)[-1] for r in results if r.status == "fail"]
    assert [table for table in PLANTS if not any(name.startswith(f"{table}_") for name in red)] == []
    assert {r.status for r in results if r.node.resource_type == "model"} == {"skipped"}


def test_rows_of_a_refused_delivery_stop_no_day(dbt: Dbt, built: Path) -> None:
    """The same plants, in no rows but those of deliveries that were not accepted."""
    is_accepted = "delivery_id in (select delivery_id from raw.deliveries where is_accepted)"
    with duckdb.connect(str(dbt.restart_from(built))) as connection:
        for table in (t for t in PLANTS if t.startswith("oulad_")):
            connection.execute(f"create temp table before as from raw.{table}")
            connection.execute(PLANTS[table])
            connection.execute(f"delete from raw.{table} where {is_accepted}")
            assert connection.execute(f"from raw.{table} except all from before").fetchone(), f"no plant in {table}"
            connection.execute(f"insert into raw.{table} from before where {is_accepted}")
            connection.execute("drop table before")
    dbt("build", EARLY)
    _assert_same(_all_features(built, EARLY), _all_features(dbt.warehouse, EARLY))


@pytest.mark.parametrize(
    ("as_of_on", "zone", "complaint"),
    [("2013-12-32", ZONE, "must be a day such as"), ("2013-02-29", ZONE, "no day of the calendar"),
     (str(LATE), "Mars/Olympus", "no IANA time zone")],
)  # fmt: skip
def test_a_wrong_day_or_zone_is_refused(dbt: Dbt, built: Path, as_of_on: str, zone: str, complaint: str) -> None:
    dbt.restart_from(built)
    with pytest.raises(Exception, match=complaint):
        dbt(
            "compile",
            as_of_on,
            "--select",
            "int_visits_summarized",
            "int_courses_dated",
            IOM_INSTITUTION__TIMEZONE=zone,
        )


@pytest.fixture
def server_variables(raw: Frames, tmp_path: Path) -> Iterator[dict[str, str]]:
    import psycopg2

    from iom_platform.storage.postgres_server import ensure_server, stop_server
    from iom_platform.storage.server_place import write_private

    settings = load_settings(home=tmp_path / "iom", postgres_url=None)
    server = ensure_server(settings)
    try:
        connection = psycopg2.connect(server.url("iom"))
        with connection, connection.cursor() as cursor:
            cursor.execute("drop schema if exists raw cascade")
            create_raw(cursor.execute)
            for table in RAW:
                copy_to_postgres(cursor, table, raw[table.name], tmp_path / "rows.csv")
        connection.close()
        write_private(passfile := tmp_path / "pgpass", f"*:*:*:*:{server.password}\n")
        yield {"IOM_PGHOST": server.host, "IOM_PGPORT": str(server.port), "IOM_PGUSER": server.user,
               "IOM_PGDATABASE": "iom", "PGPASSFILE": str(passfile)}  # fmt: skip
    finally:
        stop_server(settings)


def test_postgresql_computes_the_same_features(dbt: Dbt, built: Path, server_variables: dict[str, str]) -> None:
    import psycopg2

    dbt("test", EARLY, "--select", "source:*", "--target", "postgres", **server_variables)
    dbt("run", EARLY, "--target", "postgres", **server_variables)
    [strays] = dbt("test", EARLY, "--select", STRAYS_FOUND, "--target", "postgres", **server_variables)
    assert (strays.status, strays.failures) == ("warn", 14)
    address = {key.split("PG")[1].lower(): value for key, value in server_variables.items()}
    connection = psycopg2.connect(**{"dbname": address.pop("database"), **address})
    with connection, connection.cursor() as cursor:
        for table in FEATURES:
            wanted = _read(built, table, EARLY)
            collated = ", ".join(
                f'{key} collate "C"' if key in ("student_pseudonym", "course_id") else key for key in table.key
            )
            cursor.execute(f"select {', '.join(table.stable_columns)} from {table.sql_name} order by {collated}")
            found = pd.DataFrame(cursor.fetchall(), columns=list(table.stable_columns))
            assert len(found) == len(wanted) > 0
            for column in table.columns:
                if column.kind == "volatile":
                    continue
                left, right = (
                    f[column.name].astype("object").where(f[column.name].notna(), None) for f in (found, wanted)
                )
                if column.dtype == "date":
                    right = right.map(lambda value: value and value.date())
                assert left.tolist() == right.tolist(), f"{table.name}.{column.name}"
        cursor.execute("truncate intermediate.int_courses_dated")  # as PostgreSQL does after a crash
        cursor.execute("select relpersistence from pg_class where relname = 'int_courses_dated'")
        assert cursor.fetchone() == ("u",)
    connection.close()
    [refused] = dbt("run", EARLY, "--select", "student_term", "--target", "postgres", check=False, **server_variables)
    assert "hold no day and not" in str(refused.message)


def _oulad() -> Path:
    folder = Path(environment_with().get("IOM_TEST_DATA") or PROJECT_ROOT.parent / "shared" / "data") / "oulad"
    if not (folder / "studentVle.csv").exists():
        pytest.skip(f"OULAD is not at {folder}; IOM_TEST_DATA names the folder that has it")
    return folder


@pytest.fixture(scope="module")
def oulad(dbt: Dbt) -> Path:
    """A warehouse with OULAD as one full delivery, read straight from its files."""
    folder = _oulad()
    path = dbt.warehouse
    path.unlink(missing_ok=True)
    with duckdb.connect(str(path)) as warehouse:
        create_raw(warehouse.execute)
        warehouse.execute(
            "insert into raw.deliveries values ('one', 'oulad', '2015-01-01', 'full', 'one', true, '2015-01-01')"
        )
        for table in tables.OULAD_TABLES:
            stem = table.name.removeprefix("oulad_").replace("student_", "student ").title().replace(" ", "")
            file = folder / f"{stem[0].lower()}{stem[1:]}.csv"
            read = f"read_csv('{file}', header = true, all_varchar = true, nullstr = '?')"
            delivered = {
                name for (name,) in warehouse.sql(f"select column_name from (describe from {read})").fetchall()
            }
            special = {"source": "'oulad'", "delivery_id": "'one'", "file_name": f"'{file.name}'", "file_row": "row_number() over ()",
                       "student_pseudonym": "substr(md5('key' || id_student), 1, 16)"}  # fmt: skip
            columns = ", ".join(
                special.get(c.name, f'"{c.name}"' if c.name in delivered else "null") for c in table.columns
            )
            warehouse.execute(f"insert into {table.sql_name} select {columns} from {read}")
    return path


@pytest.mark.parametrize(("as_of_on", "cohort"), [(date(2013, 12, 16), 5574), (date(2013, 5, 15), 3736)])
def test_oulad_has_its_cohorts_and_equals_the_oracle(dbt: Dbt, oulad: Path, as_of_on: date, cohort: int) -> None:
    dbt("run", as_of_on, IOM_INSTITUTION__TIMEZONE="UTC")
    with duckdb.connect(str(oulad), read_only=True) as warehouse:
        raw = {table.name: warehouse.sql(f"select * from {table.sql_name}").df() for table in RAW}
    term = _read(oulad, tables.STUDENT_TERM, as_of_on)
    assert len(term) == cohort
    _assert_matches_oracle(term, plain_student_term(raw, as_of_on))
