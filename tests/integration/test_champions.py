"""Who becomes champion on the whole platform, who does not, and what a person can do about it."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from iom_platform.clustering.algorithms import assign
from iom_platform.clustering.quality import measure_outcomes
from iom_platform.extract.synthetic import TwinKnobs, write_twin
from iom_platform.extract.twin.archetypes import ARCHETYPES
from iom_platform.flow.cohort import read_cohort, read_ended
from iom_platform.flow.jobs import OF_LEARNERS
from iom_platform.flow.override import promote_version
from iom_platform.storage import promotions, record, warehouse
from iom_platform.storage.model_registry import Registry
from iom_platform.tables import ASSIGNMENTS, MODEL_INPUTS, MODEL_NAME, PROFILES, STUDENT_OUTCOME, STUDENT_RISK
from tests.spine import Spine, red_checks, set_columns, spine_at, succeed

DAY = date(2026, 5, 1)
BEFORE = DAY - timedelta(days=7)
LONG_BEFORE = date(2025, 12, 19)  # a course ran whose outcomes are known by DAY
WHY = ("--reason", "the groups say less")
FEATURES = dg.AssetSelection.groups("features", "privacy") - OF_LEARNERS
MODELS = dg.AssetSelection.groups("clustering", "risk") - OF_LEARNERS


@pytest.fixture(scope="module")
def spine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spine]:
    """Two days that version 1 scored, which was trained on the first; of a day long before there are features alone."""
    folder = tmp_path_factory.mktemp("champions")
    write_twin(folder / "twin", students=250, seed=7, through=DAY)
    with spine_at(folder / "home") as platform:
        succeed(platform.land(folder / "twin", DAY))
        succeed(platform.run_part(FEATURES, LONG_BEFORE))
        for day in (BEFORE, DAY):
            succeed(platform.score(day))
        yield platform


def refit(spine: Spine) -> dg.ExecuteInProcessResult:
    """The day's model fitted anew, and what follows; the features are those that the day has."""
    result = spine.run_part(MODELS, DAY, {"fit_model": {"config": {"refit": True}}})
    succeed(result)
    return result


def published(spine: Spine, day: date = DAY) -> dict[str, str]:
    """Hashes of what a model made of a day."""
    hashes = spine.hashes(day)
    return {table.path: hashes[table.path] for table in (ASSIGNMENTS, PROFILES, STUDENT_RISK)}


def versions(spine: Spine, day: date = DAY) -> set[int]:
    with record.open_record(spine.settings) as conn:
        return set(record.read_table(conn, ASSIGNMENTS, day)["model_version"])


def standing(spine: Spine, *, all_of: bool = False) -> list[int]:
    with record.open_record(spine.settings) as conn:
        rows = promotions.read_promotions(conn, MODEL_NAME)
    return sorted(row["model_version"] for row in rows if all_of or row["withdrawn_at"] is None)


def aliases(spine: Spine) -> dict[str, int]:
    found = Registry.of(spine.settings)._client().get_registered_model(MODEL_NAME).aliases
    return {name: int(version) for name, version in found.items()}


def models(*arguments: str) -> tuple[int, str]:
    """`iom models` in this process, which has loaded the platform already: exit code and what it said."""
    from iom_platform.cli import main

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setattr(sys, "argv", ["iom", "models", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0), said.getvalue()


@pytest.fixture(scope="module")
def changed(spine: Spine) -> dict[str, Any]:
    """What was published before a refit, after it, after the rollback, and after a promotion by hand; and what was said."""
    found: dict[str, Any] = {"first": published(spine), "earlier": published(spine, BEFORE)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IOM_CLUSTERING__N_CLUSTERS", "3")
        patch.setenv("IOM_CLUSTERING__CANDIDATES", "gmm")
        refit(spine)
    found |= {"refit": published(spine), "refit by": versions(spine), "refit aliases": aliases(spine)}
    found["rollback said"] = models("rollback", *WHY)
    found |= {"back": published(spine), "back by": versions(spine), "back aliases": aliases(spine)}
    found["promote said"] = models("promote", "2", "--reason", "it was right")
    found |= {"again": published(spine), "listed": models("list")}
    return found


def test_a_rollback_restores_what_was_published_before(changed: dict[str, Any]) -> None:
    code, said = changed["rollback said"]
    assert code == 0, said
    assert changed["refit"] != changed["first"] and changed["refit by"] == {2}
    assert changed["back"] == changed["first"] and changed["back by"] == {1}
    assert (changed["refit aliases"]["champion"], changed["back aliases"]["champion"]) == (2, 1)
    assert "student_clusters version 1 is the champion; withdrawn: version 2." in said
    assert f"Days scored again: {DAY}." in said


def test_a_version_that_was_withdrawn_can_be_promoted_again(spine: Spine, changed: dict[str, Any]) -> None:
    assert changed["promote said"][0] == 0, changed["promote said"][1]
    assert changed["again"] == changed["refit"]
    assert published(spine, BEFORE) == changed["earlier"]
    with record.open_record(spine.settings) as conn:
        row = promotions.find_promotion(conn, MODEL_NAME, 2)
    assert row is not None and row["withdrawn_at"] is None and row["reason"].endswith(": it was right")


def test_the_list_says_what_scores_and_why(changed: dict[str, Any]) -> None:
    lines = changed["listed"][1].splitlines()
    assert [line.split()[0] for line in lines] == ["version", "2", "1"]
    assert "kmeans k=3" in lines[1] and f"scores from {DAY} on: promoted by" in lines[1]
    assert "kmeans k=4" in lines[2] and f"scores from {BEFORE} to the next: first model" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rollback", "--reason", " "), "needs a reason of at most 500 characters"),
        (("rollback", "--reason", "x" * 501), "needs a reason of at most 500 characters"),
        (("promote", "9", *WHY), "has no version 9 that a run fitted; `iom models list` shows which there are"),
        (("promote", "2", *WHY), "version 2 is the champion already"),
    ],
)
def test_a_change_without_meaning_is_refused(
    spine: Spine, changed: dict[str, Any], arguments: tuple[str, ...], said: str
) -> None:
    code, found = models(*arguments)
    assert code == 2 and said in found
    assert published(spine) == changed["again"]


def test_the_fits_of_a_decision_are_nested_in_its_run(spine: Spine, changed: dict[str, Any]) -> None:
    registry = Registry.of(spine.settings)
    runs = registry._client().search_runs([str(registry.experiment_id(MODEL_NAME))], order_by=["start_time ASC"])
    first, second = (run for run in runs if "decision" in run.data.tags)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == second.info.run_id]
    # what the settings asked for, the champion's method on the same rows, and the other candidate
    assert sorted(run.info.run_name for run in children) == [f"gmm k=3 {DAY}", f"kmeans k=3 {DAY}", f"kmeans k=4 {DAY}"]
    assert {run.info.status for run in (first, second, *children)} == {"FINISHED"}
    assert second.data.tags["decision"].startswith("promoted version 2: forced refit: kmeans k=3")
    assert second.data.tags["dagster_run_id"] == children[0].data.tags["dagster_run_id"]
    table = pd.read_csv(io.BytesIO(registry.artifact(second.info.run_id, "candidates.csv")))
    assert table.loc[table["is_chosen"], "candidate"].tolist() == ["kmeans k=3"]
    assert table.set_index("candidate")["stability_ari_mean"].notna().to_dict() == {
        "kmeans k=3": True, "kmeans k=4": True, "gmm k=3": False,
    }  # fmt: skip


def test_outcomes_that_are_known_measure_a_fit_and_are_no_part_of_it(spine: Spine, changed: dict[str, Any]) -> None:
    """Of students whose course has ended, as they were four weeks before or earlier; a day that knows of none measures none."""
    ended = read_ended(spine.settings, DAY)
    with warehouse.open_warehouse(spine.settings, purpose="look at outcomes", write=False) as con:
        known = warehouse.read_table(con, STUDENT_OUTCOME, DAY)
    joined = ended.merge(known, on=["student_pseudonym", "course_id"], suffixes=("", "_known"), validate="one_to_one")
    assert len(joined) == len(ended) >= 30 and set(ended["as_of_on"].dt.date) == {LONG_BEFORE}
    late = pd.to_datetime(joined["outcome_known_on"]) - pd.to_datetime(joined["as_of_on"])
    assert late.min() >= pd.Timedelta(days=28)
    assert (joined["has_failed"] == joined["outcome_known"].isin(["Fail", "Withdrawn"])).all()
    assert 0 < joined["has_failed"].sum() < len(joined)
    assert read_ended(spine.settings, LONG_BEFORE).empty
    registry = Registry.of(spine.settings)
    with record.open_record(spine.settings) as conn:
        first, second = (promotions.find_promotion(conn, MODEL_NAME, version) for version in (1, 2))
    assert first is not None and second is not None
    measured = registry.metrics(second["mlflow_run_id"])
    model, _ = registry.load_model(MODEL_NAME, 2)
    wanted = measure_outcomes(assign(model, ended)[0], ended["has_failed"].to_numpy())
    assert {name: measured[name] for name in wanted} == pytest.approx(wanted) and wanted["outcome_rows"] == len(ended)


def test_the_champion_gives_the_published_labels_in_another_process(
    spine: Spine, changed: dict[str, Any], tmp_path: Path
) -> None:
    cohort = read_cohort(spine.settings, DAY)
    rows = cohort[cohort["is_observed"]]
    rows[list(MODEL_INPUTS)].to_parquet(tmp_path / "rows.parquet")
    uri = Registry.of(spine.settings)._version(MODEL_NAME, 2).source
    script = (
        "import sys, json, mlflow, pandas as pd\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "print(json.dumps(model.predict(pd.read_parquet(sys.argv[2])).tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, uri, str(tmp_path / "rows.parquet")],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    with record.open_record(spine.settings) as conn:
        assigned = record.read_table(conn, ASSIGNMENTS, DAY)
    wanted = rows.merge(assigned, on=["student_pseudonym", "course_id"], validate="one_to_one")["cluster"]
    assert json.loads(done.stdout.splitlines()[-1]) == wanted.tolist()


def test_a_fit_that_is_refused_waits_as_challenger_and_the_champion_goes_on(
    spine: Spine, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IOM_VALIDATION__MIN_STABILITY", "0.9999")
    monkeypatch.setenv("IOM_CLUSTERING__N_CLUSTERS", "5")
    result = refit(spine)
    assert red_checks(result) == {("clustering/promotions", "stability")}
    assert aliases(spine) == {"champion": 2, "challenger": 3}
    assert published(spine) == changed["again"]
    (check,) = (c for c in result.get_asset_check_evaluations() if c.check_name == "stability")
    assert "below validation.min_stability 0.9999" in str(check.metadata["found"].value)
    # the champion is held against the settings as they are now, whether anything was fitted or not
    kept = spine.run_part(dg.AssetSelection.assets(["clustering", "promotions"], ["clustering", "lineage"]), DAY)
    assert kept.success and red_checks(kept) == {("clustering/promotions", "stability")}
    code, found = models("promote", "3", "--reason", "we know better")
    assert code == 0, found
    assert versions(spine) == {3}
    with record.open_record(spine.settings) as conn:
        lineage = promotions.read_lineage(conn, MODEL_NAME, 3)
    assert set(lineage["former_version"]) == {2} and set(lineage["change"]) != {"born"}
    assert aliases(spine) == {"champion": 3}


def test_a_change_that_cannot_be_carried_out_changes_nothing(
    spine: Spine, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where the model's file is gone, nor where the days' cohorts are; the record is the server's, they are not."""
    before = (published(spine), standing(spine), aliases(spine))
    file = Path(Registry.of(spine.settings)._version(MODEL_NAME, 1).source.removeprefix("file://")) / "model.skops"
    file.rename(file.with_suffix(".away"))
    try:
        code, said = models("promote", "1", *WHY)
    finally:
        file.with_suffix(".away").rename(file)
    assert code == 1 and "version 1 has no file" in said
    with warehouse.open_warehouse(spine.settings, purpose="lose a day", write=True) as con:
        con.execute("create table kept as select * from anonymized.student_term")
        con.execute(f"delete from anonymized.student_term where as_of_on = date '{DAY}'")
    try:
        code, said = models("promote", "1", *WHY)
    finally:
        with warehouse.open_warehouse(spine.settings, purpose="find it again", write=True) as con:
            con.execute(f"insert into anonymized.student_term select * from kept where as_of_on = date '{DAY}'")
            con.execute("drop table kept")
    assert code == 2 and f"{DAY} cannot be scored again" in said
    assert (published(spine), standing(spine), aliases(spine)) == before


def test_a_change_that_broke_off_is_told_and_can_be_finished(spine: Spine, changed: dict[str, Any]) -> None:
    """An older version is promoted, those above it are withdrawn, and no day is scored again yet."""
    change = promote_version(spine.settings, 1, reason="x", account="somebody", log=logging.getLogger("test"))
    assert (
        change.days == (DAY,)
        and change.version == 1
        and set(change.withdrawn) == set(standing(spine, all_of=True)) - {1}
    )
    assert standing(spine) == [1] and aliases(spine)["champion"] == 1 and versions(spine) != {1}
    told = f"Published by another version than scores them now: {DAY}. `iom models promote 1 --reason TEXT` scores them again."
    assert told in models("list")[1]
    assert told in spine.iom("doctor").stdout
    code, said = models("promote", "1", *WHY)
    assert code == 0 and f"Days scored again: {DAY}." in said
    assert published(spine) == changed["first"]
    code, said = models("rollback", *WHY)
    assert code == 2 and "version 1 is the only one" in said


def test_the_rule_chooses_among_candidates_and_the_champions_method(
    spine: Spine, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IOM_CLUSTERING__ALGORITHM", "auto")
    monkeypatch.setenv("IOM_CLUSTERING__CANDIDATES", "gmm")
    monkeypatch.setenv("IOM_CLUSTERING__N_CLUSTERS_RANGE", "2,2")
    refit(spine)
    registry = Registry.of(spine.settings)
    runs = registry._client().search_runs([str(registry.experiment_id(MODEL_NAME))], order_by=["start_time DESC"])
    last = next(run for run in runs if "decision" in run.data.tags)
    table = pd.read_csv(io.BytesIO(registry.artifact(last.info.run_id, "candidates.csv")))
    assert sorted(table["candidate"]) == ["gmm k=2", "kmeans k=4"]
    chosen = table.loc[table["is_chosen"], "candidate"].item()
    assert last.data.tags["decision"].split(": ", 1)[1].startswith(f"forced refit: {chosen} of 2 candidates: ")
    assert table["stability_jaccard_least"].notna().all()


# -- courses -------------------------------------------------------------------------------------------


def _write_course_twin(folder: Path) -> None:
    """A twin of steady students, whose courses alone differ: one ended its clicks weeks ago and is marked severely."""
    shares = tuple(float(a.name == "steady") for a in ARCHETYPES)
    knobs = replace(TwinKnobs(), archetype_shares=shares)
    summary = write_twin(folder / "twin", students=250, seed=7, through=DAY, knobs=knobs)
    other = summary.running[0]
    of_other = tuple(other.course_id.split("-"))
    quiet_from = (DAY - other.starts_on).days - 21
    clicks = pd.read_csv(folder / "twin" / "studentVle.csv", dtype=str, keep_default_na=False)
    is_other = (clicks["code_module"] == of_other[0]) & (clicks["code_presentation"] == of_other[1])
    kept = clicks[~is_other | (clicks["date"].astype(int) < quiet_from)]
    kept.to_csv(folder / "twin" / "studentVle.csv", index=False)
    marked = pd.read_csv(folder / "twin" / "assessments.csv", dtype=str)
    is_severe = (marked["code_module"] == of_other[0]) & (marked["code_presentation"] == of_other[1])
    severe = set(marked.loc[is_severe, "id_assessment"])

    def mark(number: int, row: dict[str, str]) -> dict[str, str]:
        return {"score": str((20 if row["id_assessment"] in severe else 90) + number % 3)}

    set_columns(folder / "twin" / "studentAssessment.csv", mark)


def test_clusters_that_only_separate_courses_are_refused(tmp_path: Path) -> None:
    _write_course_twin(tmp_path)
    with spine_at(tmp_path / "home") as platform:
        done = platform.iom("run", "--source", "synthetic", "--path", str(tmp_path / "twin"), "--as-of", str(DAY))
        with record.open_record(platform.settings) as conn:
            risk = record.read_table(conn, STUDENT_RISK, DAY)
            assert promotions.read_promotions(conn, MODEL_NAME) == []
        listed, overruled = models("list"), models("promote", "1", *WHY)
        with record.open_record(platform.settings) as conn:
            risk_after = record.read_table(conn, STUDENT_RISK, DAY)
    assert done.returncode == 5, done.stderr
    assert "a check is red: clustering/promotions course_separation: course_nmi is" in done.stderr
    assert set(risk["risk_level"]) == {"UNKNOWN"} and len(risk) > 100
    assert "not promoted" in listed[1]
    assert overruled[0] == 0, overruled[1]
    assert {"LOW", "MEDIUM", "HIGH"} <= set(risk_after["risk_level"])
