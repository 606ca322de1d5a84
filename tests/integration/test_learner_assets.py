"""Learner summaries as assets: from a file through the wall to clusters, and no id of it but in the identity map.

What a good record is, and what the passes compute, is tested in tests/unit/test_learner_summary.py and
test_clustering_passes.py.
"""

import re
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import psycopg2
import pytest

from iom_platform.cli import main
from iom_platform.cli.cluster import Request, cluster_file
from iom_platform.cli.exports import NothingThere, export_table, print_tables
from iom_platform.cli.health import examine
from iom_platform.clustering import learners as clustering
from iom_platform.extract import learner_landing
from iom_platform.extract.pseudonym_key import load_key
from iom_platform.extract.source import DeliveryRefused
from iom_platform.privacy.pseudonyms import pseudonymize
from iom_platform.storage import learner_rows, warehouse
from iom_platform.storage.model_registry import Registry
from iom_platform.storage.postgres_server import ensure_server
from iom_platform.tables import (
    ANONYMIZED_LEARNER_SUMMARY,
    FILES,
    LEARNER_CLUSTERS,
    LEARNER_FEATURES,
    LEARNER_PROFILES,
    LEARNER_SUMMARY,
    QUARANTINE,
    TABLES,
    Table,
)
from tests.performance.bench_clustering import write_learners
from tests.spine import Spine, materialized, red_checks, said, spine_at, succeed, warnings

DAY = date(2026, 11, 2)
LEARNERS = 2000
ID = rb"L0{4}\d{4}"
OF_LEARNERS = {t.path for t in (LEARNER_SUMMARY, ANONYMIZED_LEARNER_SUMMARY, LEARNER_CLUSTERS, LEARNER_PROFILES)}
LABELS = ["cluster_kmeans", "cluster_gmm", "gmm_confidence"]
# record -> column, and the rule that it breaks
DAMAGED = {
    10: ("learner_id", "learner_id stands more than once"),
    20: ("topic_progress", "outside 0 to 100"),
    30: ("time_spent", "text in a number"),
    40: (None, "wrong number of fields"),
    50: ("learner_id", "missing value"),
}


def _write_damaged(file: Path) -> None:
    write_learners(file, LEARNERS, seed=11)
    lines = file.read_text().splitlines()
    fields = {number: lines[number].split(",") for number in (9, *DAMAGED)}
    fields[10] = [*fields[9][:1], *fields[10][1:]]
    fields[20][4], fields[30][1], fields[50][0] = "101", "much", ""
    fields[40].append("7")
    for number, values in fields.items():
        lines[number] = ",".join(values)
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("learners") / "learners.csv"
    _write_damaged(path)
    return path


@pytest.fixture(scope="module")
def spine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spine]:
    with spine_at(tmp_path_factory.mktemp("platform") / "home") as spine:
        yield spine


def _cluster(spine: Spine, file: Path, day: date) -> dg.ExecuteInProcessResult:
    return spine._execute("cluster_learners", day, {"load_learners": {"config": {"path": str(file)}}})


@pytest.fixture(scope="module")
def ran(spine: Spine, file: Path) -> dg.ExecuteInProcessResult:
    result = _cluster(spine, file, DAY)
    succeed(result)
    return result


def _read(spine: Spine, table: Table, day: date | None = None) -> pd.DataFrame:
    with warehouse.open_warehouse(spine.settings, purpose="test", write=False) as con:
        return warehouse.read_table(con, table, day)


def _runs(spine: Spine) -> list[Any]:
    registry = Registry.of(spine.settings)
    return list(registry._client().search_runs([registry.experiment_id("learner_clusters")]))


def test_each_asset_is_made_and_every_check_is_green(ran: dg.ExecuteInProcessResult) -> None:
    assert materialized(ran) == OF_LEARNERS
    green = {(c.asset_key.to_user_string(), c.check_name) for c in ran.get_asset_check_evaluations() if c.passed}
    assert green == {
        *((path, "expectations") for path in OF_LEARNERS),
        *((path, "one_row_a_learner") for path in OF_LEARNERS - {"clustering/learner_profiles"}),
        ("raw/learner_summary", "rows_add_up"),
    }


def test_every_record_is_loaded_or_says_why_not(spine: Spine, ran: dg.ExecuteInProcessResult, file: Path) -> None:
    [book] = _read(spine, FILES).to_dict("records")
    assert (book["file_name"], book["table_name"]) == (file.name, "raw/learner_summary")
    assert (book["landed_rows"], book["loaded_rows"], book["quarantined_rows"]) == (LEARNERS, LEARNERS - 5, 5)
    loaded, rejected = _read(spine, LEARNER_SUMMARY), _read(spine, QUARANTINE).set_index("file_row")
    assert sorted([*loaded["file_row"], *rejected.index]) == list(range(1, LEARNERS + 1))
    assert {
        n: (None if pd.isna(r["column_name"]) else r["column_name"], r["rule"]) for n, r in rejected.iterrows()
    } == DAMAGED
    assert rejected["masked_value"].to_dict() == {
        10: "a99999999",
        20: "999",
        30: "aaaa",
        40: rejected["masked_value"][40],
        50: "",
    }
    assert rejected["remedy"].str.len().min() > 0
    assert any("5 records went to raw/quarantine" in one for one in warnings(ran))


@pytest.fixture(scope="module")
def commanded(spine: Spine, file: Path) -> Path:
    """What `iom cluster` makes of the same file, with as many clusters and the same seed."""
    knobs, out = spine.settings.clustering, file.parent / "out"
    request = Request(LEARNER_FEATURES, ("kmeans", "gmm"), k=knobs.n_clusters, sample=100_000, seed=knobs.seed)
    cluster_file(file, request, out, with_csv=False)
    return out


def test_labels_are_those_of_the_command(spine: Spine, ran: dg.ExecuteInProcessResult, commanded: Path) -> None:
    wanted = pd.read_parquet(commanded / "learner_clusters.parquet")
    pseudonyms = pseudonymize(load_key(spine.settings), "learner_summary", wanted["learner_id"].tolist())
    wanted = wanted.assign(student_pseudonym=pseudonyms).sort_values("student_pseudonym", ignore_index=True)
    found = _read(spine, LEARNER_CLUSTERS, DAY)
    columns = ["student_pseudonym", *LEARNER_FEATURES, *LABELS]
    pd.testing.assert_frame_equal(found[columns], wanted[columns], check_dtype=False, check_exact=True)
    assert set(_read(spine, ANONYMIZED_LEARNER_SUMMARY).columns) == {"as_of_on", "student_pseudonym", *LEARNER_FEATURES}


def test_profiles_are_those_of_the_command(spine: Spine, ran: dg.ExecuteInProcessResult, commanded: Path) -> None:
    keys = ["algorithm", "cluster", "feature"]
    wanted = pd.read_csv(commanded / "cluster_profiles.csv").drop(columns="share").set_index(keys).sort_index()
    found = _read(spine, LEARNER_PROFILES, DAY).drop(columns="as_of_on").set_index(keys).sort_index()
    pd.testing.assert_frame_equal(found[list(wanted.columns)], wanted, check_exact=True)


def test_each_algorithm_has_a_run_in_mlflow_without_a_row(spine: Spine, ran: dg.ExecuteInProcessResult) -> None:
    runs = {run.data.params["algorithm"]: run for run in _runs(spine)}
    assert set(runs) == {"kmeans", "gmm"}
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        assert run.data.params["n_clusters"] == str(spine.settings.clustering.n_clusters)
        assert run.data.metrics["rows"] == LEARNERS - 5 and 0 < run.data.metrics["silhouette"] < 1
        [used] = run.inputs.dataset_inputs
        assert used.dataset.name == "anonymized/learner_summary" and len(used.dataset.digest) == 36
        profiles = pd.read_csv(Path(run.info.artifact_uri.removeprefix("file://")) / "profiles.csv")
        assert set(profiles["algorithm"]) == {name}
        assert len(profiles) == len(LEARNER_FEATURES) * spine.settings.clustering.n_clusters


def _texts_with_an_id(spine: Spine) -> set[str]:
    """Tables of PostgreSQL and of the warehouse that hold an id in any column, whatever its type."""
    found, server = set(), ensure_server(spine.settings)
    for database in ("iom", "dagster", "mlflow"):
        with psycopg2.connect(server.url(database)) as con, con.cursor() as cursor:
            cursor.execute(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            )
            for (table,) in cursor.fetchall():
                cursor.execute("SET ROLE identity_reader" if table == "identity.students" else "RESET ROLE")
                cursor.execute(f"SELECT EXISTS (SELECT FROM {table} AS t WHERE t::text ~ %s)", (ID.decode(),))
                if cursor.fetchone()[0]:  # type: ignore[index]
                    found.add(f"{database}: {table}")
    with warehouse.open_warehouse(spine.settings, purpose="test", write=True) as con:
        con.execute("CHECKPOINT")
        for schema, table in con.execute("SELECT schema_name, table_name FROM duckdb_tables()").fetchall():
            query = f"SELECT count(*) FROM {schema}.{table} AS t WHERE regexp_matches(t::VARCHAR, '{ID.decode()}')"
            if con.execute(query).fetchall() != [(0,)]:
                found.add(f"warehouse: {schema}.{table}")
    return found


def test_no_id_is_anywhere_but_in_the_identity_map(spine: Spine, ran: dg.ExecuteInProcessResult, file: Path) -> None:
    assert _texts_with_an_id(spine) == {"iom: identity.students"}
    home = spine.settings.home
    files = [f for f in home.rglob("*") if f.is_file() and f.relative_to(home).parts[0] != "postgres"]
    assert {f.name for f in files} >= {"warehouse.duckdb", "profiles.csv"}
    assert [f for f in files if re.search(ID, f.read_bytes())] == []
    assert re.search(ID, file.read_bytes())


def test_an_identified_export_finds_the_learners(spine: Spine, ran: dg.ExecuteInProcessResult, commanded: Path) -> None:
    out = commanded.parent / "identified.parquet"
    export_table("clustering/learner_clusters", out, as_of_on=None, all_days=False, identified=True, reason="a test")
    found = pd.read_parquet(out).set_index("student_id")
    wanted = pd.read_parquet(commanded / "learner_clusters.parquet").set_index("learner_id")
    assert found["cluster_kmeans"].to_dict() == wanted["cluster_kmeans"].to_dict()
    assert set(found["source"]) == {"learner_summary"}


def _iom(patch: pytest.MonkeyPatch, *arguments: str) -> int:
    patch.setattr(sys, "argv", ["iom", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_same_file_again_changes_nothing(
    spine: Spine, ran: dg.ExecuteInProcessResult, file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    before, runs = spine.hashes(), len(_runs(spine))
    day = DAY.isoformat()
    assert _iom(monkeypatch, "run", "--source", "learner_summary", "--path", str(file), "--delivered-on", day) == 0
    assert spine.hashes() == before
    assert len(_runs(spine)) == runs
    said = capfd.readouterr()
    assert "has landed before" in said.err
    sizes = _read(spine, LEARNER_CLUSTERS, DAY)["cluster_gmm"].value_counts().sort_index()
    assert f"gmm: learners per cluster {', '.join(map(str, sizes))}" in said.out


def test_a_home_of_learners_alone_is_well_and_scores_nobody(
    spine: Spine, ran: dg.ExecuteInProcessResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_tables()
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[1:]}
    assert set(lines) == {t.path for t in TABLES}
    assert lines["clustering/learner_clusters"][1:3] == [f"{LEARNERS - 5:,}", DAY.isoformat()]
    examine()
    assert "Nothing is wrong." in capsys.readouterr().out
    with pytest.raises(NothingThere, match="features/student_term is not there yet"):
        export_table(
            "features/student_term", tmp_path / "x.csv", as_of_on=None, all_days=False, identified=False, reason=""
        )
    scored = spine.score(DAY)
    assert not scored.success
    assert any(one.startswith("No accepted delivery has landed") for one in said(scored))


def _make_again(spine: Spine, *paths: str) -> dg.ExecuteInProcessResult:
    return spine.run_part(dg.AssetSelection.assets(*(path.split("/") for path in paths)), DAY)


def test_what_a_gate_of_clusters_refuses_leaves_the_rows_before(
    spine: Spine, ran: dg.ExecuteInProcessResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_sure(*given: Any) -> dict[str, np.ndarray]:
        made = label_learners(*given)
        return {**made, "gmm_confidence": made["gmm_confidence"] + 1}

    def of_others(profiles: pd.DataFrame, *, k: int) -> pd.DataFrame:
        return profiles.assign(cluster=profiles["cluster"] + 70)

    before, runs, label_learners = spine.hashes(), len(_runs(spine)), clustering.label_learners
    monkeypatch.setattr(clustering, "label_learners", too_sure)
    monkeypatch.setattr(clustering, "hide_small", of_others)
    made = _make_again(spine, "clustering/learner_clusters", "clustering/learner_profiles")
    red = {("clustering/learner_clusters", "expectations"), ("clustering/learner_profiles", "expectations")}
    assert red_checks(made) == red and materialized(made) == set()
    assert spine.hashes() == before
    assert len(_runs(spine)) == runs


def test_what_the_gate_of_the_wall_refuses_leaves_the_rows_before(
    spine: Spine, ran: dg.ExecuteInProcessResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def release_ids(con: Any, *given: Any) -> None:
        release(con, *given)
        con.execute("UPDATE anonymized.learner_summary SET student_pseudonym = 'L00000007' WHERE accuracy > 0.9")

    before, release = spine.hashes(), learner_rows.release_learners
    monkeypatch.setattr(learner_rows, "release_learners", release_ids)
    made = _make_again(spine, "anonymized/learner_summary")
    assert red_checks(made) == {("anonymized/learner_summary", name) for name in ("expectations", "one_row_a_learner")}
    assert materialized(made) == set()
    assert spine.hashes() == before


def test_a_landing_that_breaks_off_leaves_nothing(
    spine: Spine, ran: dg.ExecuteInProcessResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: Any, **__: Any) -> None:
        raise DeliveryRefused("cut off")

    before = spine.hashes()
    monkeypatch.setattr(learner_landing, "keep_books", break_off)
    write_learners(tmp_path / "other.csv", 50, seed=3)
    assert said(_cluster(spine, tmp_path / "other.csv", DAY)) == ["cut off"]
    assert spine.hashes() == before


def test_a_corrected_file_of_the_day_takes_the_place_of_the_first(
    spine: Spine, ran: dg.ExecuteInProcessResult, file: Path, tmp_path: Path
) -> None:
    day = DAY + timedelta(days=1)
    few, more = tmp_path / "few.csv", tmp_path / "more.csv"
    write_learners(few, 4, seed=3)
    result = _cluster(spine, few, day)
    succeed(result)
    assert any("4 learners are fewer than privacy.k" in one for one in warnings(result))
    assert [len(_read(spine, t, day)) for t in (ANONYMIZED_LEARNER_SUMMARY, LEARNER_CLUSTERS, LEARNER_PROFILES)] == [
        0,
        0,
        0,
    ]
    write_learners(more, 40, seed=3)
    succeed(_cluster(spine, more, day))
    assert [len(_read(spine, t, day)) for t in (ANONYMIZED_LEARNER_SUMMARY, LEARNER_CLUSTERS)] == [40, 40]
    again = _cluster(spine, few, day)
    succeed(again)
    assert any(f"landed later and tells of {day}" in one for one in warnings(again))
    assert len(_read(spine, LEARNER_CLUSTERS, day)) == 40
    assert len(_read(spine, LEARNER_CLUSTERS, DAY)) == LEARNERS - 5


def test_a_file_without_a_good_record_is_not_accepted(
    spine: Spine, ran: dg.ExecuteInProcessResult, tmp_path: Path
) -> None:
    nobody = tmp_path / "nobody.csv"
    nobody.write_text("learner_id,time_spent,avg_score,accuracy,topic_progress\nL00000001,-1,2,3,4\n")
    result = _cluster(spine, nobody, DAY + timedelta(days=2))
    assert red_checks(result) == {("raw/learner_summary", "expectations")}
    assert materialized(result) == set()
    alone = spine.run_part(dg.AssetSelection.assets(["anonymized", "learner_summary"]), DAY + timedelta(days=2))
    assert any(one.startswith("No accepted learner summary") for one in said(alone))


@pytest.mark.parametrize(
    ("more", "code", "sentence"),
    [
        (["--as-of", "2026-11-02"], 2, "--as-of, --refit and --repin are for courses"),
        ([], 4, "learners.csv does not say when it was delivered; give --delivered-on"),
    ],
)
def test_what_has_no_meaning_is_refused(
    more: list[str], code: int, sentence: str, ran: dg.ExecuteInProcessResult, file: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert _iom(monkeypatch, "run", "--source", "learner_summary", "--path", str(file), *more) == code
    assert sentence in capsys.readouterr().err
