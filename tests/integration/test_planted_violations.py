"""A violation planted for every suite and every dbt source: its check turns red and nothing after it is published.

Which rules a suite holds, and that each of them can fail, is the business of `test_expectations.py`.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pytest
import yaml
from dagster_dbt.asset_utils import get_manifest_and_translator_from_dbt_assets

from iom_platform.extract.synthetic import write_twin
from iom_platform.flow.jobs import OF_LEARNERS
from iom_platform.settings import PROJECT_ROOT
from iom_platform.storage.expectations import suites
from iom_platform.tables import DELIVERIES, DELIVERY_SCOPE, OULAD_VLE, TABLES
from tests.spine import Spine, materialized, red_checks, said, set_columns, spine_at

DAY = date(2026, 5, 1)
_FILES = {
    "raw/oulad_courses": ("courses.csv", {"module_presentation_length": "7"}),
    "raw/oulad_assessments": ("assessments.csv", {"date": "?"}),
    "raw/oulad_vle": ("vle.csv", {"week_from": "20", "week_to": "2"}),
    "raw/oulad_student_info": ("studentInfo.csv", {"studied_credits": "0"}),
    "raw/oulad_student_registration": ("studentRegistration.csv", {"date_registration": "?"}),
    "raw/oulad_student_assessment": ("studentAssessment.csv", {"score": ""}),
    "raw/oulad_student_vle": ("studentVle.csv", {"sum_click": "1000000"}),
}  # each record is right by itself, so the row rules of landing let the whole delivery in


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("delivered") / "twin"
    write_twin(folder, students=150, seed=3, through=DAY)
    return folder


@pytest.fixture(scope="module")
def spine(twin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spine]:
    """A home with one accepted delivery and one published day."""
    with spine_at(tmp_path_factory.mktemp("planted") / "home") as platform:
        assert platform.land(twin, DAY).success
        assert platform.score(DAY).success
        yield platform


@pytest.fixture(scope="module")
def published(spine: Spine) -> dict[str, str]:
    """Hash of each table's rows of the day as first published."""
    return spine.hashes(DAY)


def _graph() -> Any:
    from iom_platform.definitions import defs

    return defs.resolve_asset_graph()


def _key(path: str) -> dg.AssetKey:
    return dg.AssetKey(path.split("/"))


def _downstream(*paths: str) -> set[str]:
    """The tables and all that is made from them."""
    selection = dg.AssetSelection.assets(*map(_key, paths)).downstream()
    return {key.to_user_string() for key in selection.resolve(_graph())}


@contextmanager
def _warehouse_with(spine: Spine, *statements: str) -> Iterator[None]:
    """The warehouse file changed by the statements, each of which must change a row; as before afterwards."""
    path, kept = spine.settings.warehouse_path, spine.settings.warehouse_path.with_suffix(".kept")
    shutil.copy2(path, kept)
    try:
        with duckdb.connect(str(path)) as con:
            for statement in statements:
                changed = con.execute(statement).fetchall()
                assert changed[0][0], f"the plant changes no row: {statement}"
        yield
    finally:
        kept.replace(path)


# -- suites of raw tables: planted in a delivered file -------------------------------------------------


def _deliver(twin: Path, folder: Path, path: str) -> Path:
    shutil.copytree(twin, folder)
    file, values = _FILES[path]
    set_columns(folder / file, lambda number, record: values)
    return folder


@pytest.mark.parametrize("path", [p for p in suites() if p.startswith("raw/oulad_")])
def test_delivery_that_breaks_a_raw_suite_is_not_accepted(
    spine: Spine, published: dict[str, str], twin: Path, tmp_path: Path, path: str
) -> None:
    result = spine.land(_deliver(twin, tmp_path / "delivery", path), DAY)
    assert not result.success
    assert red_checks(result) == {(path, "expectations")}
    assert materialized(result) == set()
    assert path in said(result)[0] and "no new day will use it" in said(result)[0]
    assert _accepted(spine) == _scope(spine), "the first delivery alone is accepted"
    assert spine.hashes(DAY) == published


def _ids(spine: Spine, query: str) -> set[str]:
    with duckdb.connect(str(spine.settings.warehouse_path), read_only=True) as con:
        return {row[0] for row in con.execute(query).fetchall()}


def _accepted(spine: Spine) -> set[str]:
    return _ids(spine, f"select delivery_id from {DELIVERIES.sql_name} where is_accepted")


def _scope(spine: Spine, day: date = DAY) -> set[str]:
    return _ids(spine, f"select delivery_id from {DELIVERY_SCOPE.sql_name} where as_of_on = date '{day}'")


def test_scoring_uses_no_delivery_that_was_not_accepted(spine: Spine, twin: Path, tmp_path: Path) -> None:
    """On a later day too, whose deliveries are chosen anew."""
    spine.land(_deliver(twin, tmp_path / "delivery", "raw/oulad_vle"), DAY)
    assert len(_ids(spine, f"select delivery_id from {DELIVERIES.sql_name}")) > 1
    later = DAY + timedelta(days=1)
    model = dg.AssetSelection.assets(_key("staging/stg_oulad__courses")).without_checks()
    assert spine.run_part(model, later).success
    assert _scope(spine, later) == _accepted(spine) == _scope(spine)


def test_rows_that_do_not_add_up_turn_their_check_red(
    spine: Spine, published: dict[str, str], twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted behind landing, which counts what it hands over: the last row of each batch never reaches the table."""
    from iom_platform.storage import warehouse

    append = warehouse.append_rows
    monkeypatch.setattr(
        warehouse, "append_rows", lambda con, table, rows: append(con, table, rows[:-1] if table is OULAD_VLE else rows)
    )
    delivery = shutil.copytree(twin, tmp_path / "delivery")
    set_columns(delivery / "vle.csv", lambda number, record: {"activity_type": "forumng"})
    result = spine.land(delivery, DAY)
    assert red_checks(result) == {("raw/oulad_vle", "rows_add_up")}
    assert not result.success and materialized(result) == set()
    assert _accepted(spine) == _scope(spine)
    assert spine.hashes(DAY) == published


# -- suites of later stages: planted in what the stage reads, or in the maths that makes the rows ------


def _last_row_twice(published: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([published, published.tail(1)], ignore_index=True)


def _with_released(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[pytest.MonkeyPatch], None]:
    def plant(patch: pytest.MonkeyPatch) -> None:
        from iom_platform.privacy import kanonymity

        apply = kanonymity.apply_generalization

        def changed(*arguments: Any, **knobs: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
            released, withheld = apply(*arguments, **knobs)
            return change(released.reset_index(drop=True)), withheld

        patch.setattr(kanonymity, "apply_generalization", changed)

    return plant


def _one_of_a_kind(released: pd.DataFrame) -> pd.DataFrame:
    """One row shows values that its suite knows, and that nobody else of the course shows together."""
    shown = {
        "gender": "F",
        "region": "Scotland",
        "highest_education": "Post Graduate Qualification",
        "imd_band": "0-10%",
        "age_band": "55<=",
    }
    row = released.index == released.index[~released["is_suppressed"]][0]
    return released.assign(**{name: released[name].mask(row, value) for name, value in shown.items()})


def _certain_assignment(patch: pytest.MonkeyPatch) -> None:
    from iom_platform.clustering import algorithms

    assign = algorithms.assign

    def changed(*arguments: Any) -> tuple[Any, Any]:
        labels, confidence = assign(*arguments)
        return labels, confidence + 1

    patch.setattr(algorithms, "assign", changed)


def _with_scores(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[pytest.MonkeyPatch], None]:
    def plant(patch: pytest.MonkeyPatch) -> None:
        from iom_platform import risk

        score = risk.score_risk
        patch.setattr(risk, "score_risk", lambda *arguments: change(score(*arguments)))

    return plant


def _known(scores: pd.DataFrame) -> "pd.Series[bool]":
    return scores["risk_level"] != "UNKNOWN"


_PATCHES: dict[str, tuple[str, str, Callable[[pytest.MonkeyPatch], None]]] = {
    # name: (table, check, plant)
    "a row twice": ("anonymized/student_term", "expectations", _with_released(_last_row_twice)),
    "a cell of one": ("anonymized/student_term", "k_anonymity", _with_released(_one_of_a_kind)),
    "confidence above 1": ("clustering/assignments", "expectations", _certain_assignment),
    "score above 1": ("risk/student_risk", "expectations",
                      _with_scores(lambda s: s.assign(risk_score=s["risk_score"].mask(_known(s), 1.7)))),
    "level without score": ("risk/student_risk", "expectations",
                            _with_scores(lambda s: s.assign(risk_score=s["risk_score"].mask(_known(s))))),
}  # fmt: skip
_STATEMENTS: dict[str, tuple[str, str]] = {
    "features/student_term": (
        f"update features.student_term set clicks_last_7_days = 100, clicks_last_14_days = 50 where as_of_on = date '{DAY}' and is_observed",
        "features/student_term",
    ),
    "anonymized/student_outcome": (
        f"update features.student_outcome set outcome_known_on = date '{DAY + timedelta(days=1)}' where as_of_on = date '{DAY}'",
        "anonymized/student_outcome",
    ),
    "anonymized/student_week": (
        f"update features.student_week set days_elapsed = 2, active_days = 3, clicks = 9 where as_of_on = date '{DAY}' and active_days > 0",
        "anonymized/student_week",
    ),
}  # table of the suite: (statement, table whose check is red)


def _after_features() -> dg.AssetSelection:
    """What follows dbt, and the suite of its last table."""
    check = dg.AssetCheckKey(_key("features/student_term"), "expectations")
    return (dg.AssetSelection.groups("privacy", "clustering", "risk") - OF_LEARNERS) | dg.AssetSelection.checks(check)


def _expect_stop(spine: Spine, published: dict[str, str], path: str, check: str) -> dg.ExecuteInProcessResult:
    result = spine.run_part(_after_features(), DAY)
    assert not result.success
    assert red_checks(result) == {(path, check)}
    assert not materialized(result) & _downstream(path)
    now = spine.hashes(DAY)
    kept = [t.path for t in TABLES if t.path in published and t.stage in ("anonymized", "clustering", "risk")]
    assert {p: now[p] for p in kept} == {p: published[p] for p in kept}
    return result


@pytest.mark.parametrize("name", _PATCHES)
def test_rows_that_break_a_suite_are_not_published(
    spine: Spine, published: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path, check, plant = _PATCHES[name]
    plant(monkeypatch)
    result = _expect_stop(spine, published, path, check)
    assert any(f"{path} was not written" in sentence for sentence in said(result))


@pytest.mark.parametrize("path", _STATEMENTS)
def test_features_that_break_a_suite_pass_no_wall(spine: Spine, published: dict[str, str], path: str) -> None:
    statement, red = _STATEMENTS[path]
    with _warehouse_with(spine, statement):
        _expect_stop(spine, published, red, "expectations")


def test_an_enrollment_that_is_not_published_has_no_weeks_past_the_wall(
    spine: Spine, published: dict[str, str]
) -> None:
    """As of a course that the wall withholds: its students are in features/student_week, and in nothing after it."""
    week = dg.AssetSelection.assets(["anonymized", "student_week"])
    count = "select count(distinct course_id), count(*) from {}.student_week"
    withhold = f"delete from anonymized.student_term where as_of_on = date '{DAY}' and course_id = (select min(course_id) from features.student_week)"
    with _warehouse_with(spine, withhold):
        assert spine.run_part(week, DAY).success
        with duckdb.connect(str(spine.settings.warehouse_path), read_only=True) as con:
            (before,), (after,) = (con.execute(count.format(s)).fetchall() for s in ("features", "anonymized"))
    assert after[0] == before[0] - 1 and 0 < after[1] < before[1]
    assert spine.hashes(DAY) == published


def test_silhouette_below_the_minimum_warns_and_blocks_nothing(
    spine: Spine, published: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IOM_VALIDATION__MIN_SILHOUETTE_SCORE", "1")
    result = spine.run_part(_after_features(), DAY)
    [check] = [c for c in result.get_asset_check_evaluations() if c.check_name == "silhouette"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert result.success and "risk/student_risk" in materialized(result)
    assert spine.hashes(DAY) == published, "the same run without a plant publishes the same rows"


def test_every_suite_has_a_plant() -> None:
    planted = {path for path, check, _ in _PATCHES.values() if check == "expectations"}
    # those of learners stand in test_learner_assets.py
    assert {p for p in suites() if "/learner_" not in p} == set(_FILES) | planted | set(_STATEMENTS)


# -- dbt's sources: planted in the warehouse file ------------------------------------------------------

_SOURCES = {
    "oulad_courses": "update raw.oulad_courses set module_presentation_length = 0",
    "oulad_assessments": "update raw.oulad_assessments set assessment_type = 'Essay' where file_row = 1",
    "oulad_vle": "insert into raw.oulad_vle select * from raw.oulad_vle where file_row = 1",
    "oulad_student_info": "insert into raw.oulad_student_info select * from raw.oulad_student_info where file_row = 1",
    "oulad_student_registration": "insert into raw.oulad_student_registration select * from raw.oulad_student_registration where file_row = 1",
    "oulad_student_assessment": "update raw.oulad_student_assessment set score = 170 where file_row = 1",
    "oulad_student_vle": "update raw.oulad_student_vle set sum_click = -1 where file_row = 1",
    "deliveries": "update raw.deliveries set scope = 'partly' where is_accepted",
    "delivery_scope": "insert into raw.delivery_scope select * from raw.delivery_scope",
}  # fmt: skip


def _sources() -> list[str]:
    """The tables that dbt's sources.yml names, read without parsing the project."""
    text = (PROJECT_ROOT / "dbt_project" / "models" / "sources.yml").read_text()
    return [table["name"] for source in yaml.safe_load(text)["sources"] for table in source["tables"]]


def _definitions_of_dbt() -> dg.AssetsDefinition:
    from iom_platform.flow.features import feature_models

    return feature_models


def test_every_source_of_the_manifest_has_a_plant() -> None:
    manifest, *_ = get_manifest_and_translator_from_dbt_assets([_definitions_of_dbt()])
    assert sorted(_SOURCES) == sorted(_sources()) == sorted(source["name"] for source in manifest["sources"].values())


@pytest.fixture(scope="module")
def planted(spine: Spine, published: dict[str, str]) -> tuple[dg.ExecuteInProcessResult, dict[str, str]]:
    """A run of dbt and what follows with a violation in every source, and the hashes after it."""
    everything = dg.AssetSelection.assets(*map(_key, _downstream("raw/oulad_courses") - {"raw/oulad_courses"}))
    with _warehouse_with(spine, *_SOURCES.values()):
        return spine.run_part(
            everything | dg.AssetSelection.checks(*_definitions_of_dbt().check_keys), DAY
        ), spine.hashes(DAY)


@pytest.mark.parametrize("name", _sources())
def test_violation_in_a_dbt_source_stops_what_follows(
    planted: tuple[dg.ExecuteInProcessResult, dict[str, str]], published: dict[str, str], name: str
) -> None:
    """One run for all, since dbt takes seconds to start: a source whose tests do not block would have no red check here."""
    (result, now), path = planted, f"raw/{name}"
    following = _downstream(path) - {path}
    assert following, f"nothing follows {path}, so nothing can be stopped"
    assert not result.success
    assert path in {red for red, _ in red_checks(result)}
    assert not materialized(result) & following
    assert {p: h for p, h in now.items() if p in following} == {p: h for p, h in published.items() if p in following}
