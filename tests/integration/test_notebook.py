"""The notebook's door on real landing and dbt: the README's lines, what it takes, what it refuses, what it leaves behind.

That its figures are the platform's is shown in test_repeatability.py.
"""

import re
import subprocess
import sys
import tempfile
import warnings
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from iom_platform import notebook, risk
from iom_platform.clustering.algorithms import ALGORITHMS, FitRefused, select_params
from iom_platform.extract.source import DeliveryRefused
from iom_platform.extract.synthetic import write_twin
from iom_platform.notebook import ClusteringEngine, TemporalFeatureExtractor
from iom_platform.settings import PROJECT_ROOT, Clustering
from iom_platform.storage import dbt_project
from iom_platform.tables import QUASI_IDENTIFIERS, STUDENT_RISK, STUDENT_TERM

THROUGH = date(2025, 3, 1)
EARLIER = THROUGH - timedelta(days=9)
KEY = bytes(range(32))
ENROLLMENT = ["student_pseudonym", "course_id"]
REGISTRAR = {"num_of_prev_attempts", "studied_credits", "registration_lead_days"}
PERSONAL = {*QUASI_IDENTIFIERS, *REGISTRAR, "disability"} - {"course_id"}

Frames = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It ends some days before the terms do, so the last event is of its last day."""
    folder = tmp_path_factory.mktemp("delivered") / "twin"
    write_twin(folder, students=250, seed=7, through=THROUGH)
    return folder


@pytest.fixture(scope="module")
def frames(twin: Path) -> Frames:
    """As pandas reads them: days beside nulls are floats; times, starts and truth values are typed by hand."""
    found = {p.stem: pd.read_csv(p, na_values="?") for p in twin.glob("*.csv")}
    found["studentVle"]["clicked_at"] = pd.to_datetime(found["studentVle"]["clicked_at"]).dt.tz_convert("Asia/Tokyo")
    found["courses"]["presentation_starts_on"] = pd.to_datetime(found["courses"]["presentation_starts_on"])
    found["studentAssessment"]["is_banked"] = found["studentAssessment"]["is_banked"].astype(bool)
    assert found["studentRegistration"]["date_unregistration"].dtype == "float64"
    return found


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def features(frames: Frames, scratch: Path) -> pd.DataFrame:
    extractor = TemporalFeatureExtractor(key=KEY, source="synthetic")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr(tempfile, "tempdir", str(scratch))
        return extractor.extract_temporal_features(frames, EARLIER, include_demographics=True)


@pytest.fixture(scope="module")
def engine(features: pd.DataFrame) -> ClusteringEngine:
    engine = ClusteringEngine()
    engine.perform_clustering(features)
    return engine


# -- the whole of it -----------------------------------------------------------------------------------


def test_the_lines_of_the_readme_run(twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the default day, with a key of their own, in a place without a home and with a planted record."""
    monkeypatch.setenv("IOM_HOME", str(tmp_path / "home"))
    section = (PROJECT_ROOT / "README.md").read_text().partition("## In a notebook")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.S)
    broken = tmp_path / "my_extract"
    broken.mkdir()
    monkeypatch.chdir(tmp_path)
    for file in twin.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    with (broken / "studentVle.csv").open("a") as clicks:
        clicks.write("NOX,2024J,4711001,1,1,1,\n")
    space: dict[str, object] = {}
    with pytest.warns(UserWarning, match=r"^1 records are left out: 1 of studentVle.csv \(unknown course\)"):
        exec(compile(code, "README.md", "exec"), space)
    found, levels, extractor = space["features"], space["risk"], space["extractor"]
    assert isinstance(found, pd.DataFrame)
    assert isinstance(levels, pd.DataFrame)
    assert isinstance(extractor, TemporalFeatureExtractor)
    assert set(found["as_of_on"]) == {pd.Timestamp(THROUGH)}
    assert not PERSONAL & set(found.columns)
    assert set(found.columns) == set(STUDENT_TERM.column_names) - PERSONAL
    assert levels[ENROLLMENT].equals(found[ENROLLMENT])
    assert {"LOW", "MEDIUM", "HIGH"} <= set(levels["risk_level"])
    assert set(levels.columns) <= set(STUDENT_RISK.column_names)
    (rejected,) = extractor.quarantine_.to_dict("records")
    assert (rejected["file_name"], rejected["masked_value"]) == ("studentVle.csv", "aaa 9999a")
    ids = pd.read_csv(twin / "studentInfo.csv", dtype=str)["id_student"]
    assert {extractor.pseudonym_of(one) for one in ids} >= set(found["student_pseudonym"])
    assert extractor.pseudonym_of(ids[0]) != TemporalFeatureExtractor().pseudonym_of(ids[0])
    assert not (tmp_path / "home").exists()
    with pytest.warns(UserWarning, match=r"^1 records are left out"):
        as_oulad = TemporalFeatureExtractor().extract_temporal_features(broken)
    assert as_oulad["clicks_total"].sum() == found["clicks_total"].sum() > 0


def test_frames_are_what_their_files_are(features: pd.DataFrame, twin: Path, scratch: Path) -> None:
    extractor = TemporalFeatureExtractor(key=KEY, source="synthetic")
    from_files = extractor.extract_temporal_features(str(twin), str(EARLIER), include_demographics=True)
    assert len(features) > 50
    stable = [name for name in features.columns if name != "delivery_set"]
    pd.testing.assert_frame_equal(features[stable], from_files[stable])
    assert extractor.quarantine_.empty
    assert features["logins_total"].notna().any()
    assert list(scratch.iterdir()) == []


# -- clusters and levels -------------------------------------------------------------------------------


def test_the_defaults_are_the_settings(engine: ClusteringEngine) -> None:
    shared = ("algorithm", "n_clusters", "max_iterations", "seed")
    assert {name: getattr(engine, name) for name in shared} == Clustering().model_dump(include=set(shared))
    for algorithm in ALGORITHMS:
        assert ClusteringEngine(algorithm)._params == select_params(algorithm, Clustering().knobs)


def test_knobs_of_other_algorithms_are_given_by_name(features: pd.DataFrame) -> None:
    engine = ClusteringEngine("hierarchical", n_clusters=3, linkage="average")
    clusters = engine.perform_clustering(features)
    assert engine._params["linkage"] == "average"
    assert engine.fitted_on_ == f"all {engine.quality_['rows']:,} rows"
    assert engine.assigned_by_ == ALGORITHMS["hierarchical"].assigned_by
    assert set(engine.assign_risk_levels(clusters)["risk_level"]) <= {"LOW", "MEDIUM", "HIGH", "UNKNOWN"}
    with pytest.raises(
        FitRefused, match=r"^\d+ rows make 1 cluster .*; change clustering\.min_samples or clustering\.eps$"
    ):
        ClusteringEngine("dbscan", eps=5.0).perform_clustering(features)


@pytest.mark.parametrize(
    ("knobs", "error", "said"),
    [
        (
            {"algorithm": "kmeens"},
            ValueError,
            "'kmeens' is not registered; use one of kmeans, gmm, dbscan, hdbscan, hie",
        ),
        ({"n_clusters": True}, TypeError, "^n_clusters is True, which is no whole number"),
        ({"n_clusters": 0}, ValueError, "n_clusters is 0; from 2 on"),
        ({"seed": -1}, ValueError, "seed is -1; a seed is a whole number from 0"),
        ({"max_iterations": 0}, ValueError, "max_iterations is 0; a fit takes at least one"),
        ({"algorithm": "dbscan", "eps": -1.0}, ValueError, r"eps is -1\.0; a distance is above 0"),
        ({"bandwidth": 1}, TypeError, "no algorithm has a knob 'bandwidth'"),
    ],
)
def test_a_knob_out_of_range_is_refused_before_any_data(
    knobs: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        ClusteringEngine(**knobs)


def test_what_was_fitted_is_kept(engine: ClusteringEngine, features: pd.DataFrame) -> None:
    assert engine.clusters_ is not None
    assert set(engine.profiles_["cluster"]) == set(engine.clusters_["cluster"]) == set(range(engine.n_clusters))
    assert engine.quality_["rows"] == len(risk.select_scorable(features))
    assert engine.clusters_["confidence"].between(0, 1).all()


def test_rows_without_data_have_no_cluster_and_no_part_in_the_fit(
    engine: ClusteringEngine, features: pd.DataFrame
) -> None:
    unseen = features.head(20).assign(is_observed=False, activity_missing_reason="course_not_observed")
    unseen["student_pseudonym"] = "x" + unseen["student_pseudonym"]
    late = features.tail(20).assign(course_day=3, days_since_last_activity=0)
    late["student_pseudonym"] = "y" + late["student_pseudonym"]
    other = ClusteringEngine()
    clusters = other.perform_clustering(pd.concat([features, unseen, late]))
    pd.testing.assert_frame_equal(clusters.head(len(features)), engine.clusters_)
    added = clusters.iloc[len(features) :]
    assert added.head(20)[["cluster", "confidence"]].isna().all(axis=None)
    assert added.tail(20)[["cluster", "confidence"]].notna().all(axis=None)
    levels = other.assign_risk_levels(clusters)
    assert set(levels.tail(40)["risk_level"]) == {"UNKNOWN"}
    assert levels.head(len(features)).equals(engine.assign_risk_levels(engine.clusters_))


def test_levels_need_clusters_of_the_same_engine(engine: ClusteringEngine) -> None:
    own = engine.clusters_
    assert own is not None
    wanted = engine.assign_risk_levels(own)
    assert engine.assign_risk_levels(own.sample(frac=1, random_state=1).assign(note="mine")).equals(wanted)
    moved = own.assign(cluster=(own["cluster"] + 1) % 4)
    for other in (moved, own.head(9), own.drop(columns="cluster")):
        with pytest.raises(ValueError, match="not of this engine's last perform_clustering"):
            engine.assign_risk_levels(other)
    with pytest.raises(ValueError, match="not of this engine's"):
        ClusteringEngine().assign_risk_levels(own)


def test_a_change_of_what_was_returned_changes_nothing_kept(features: pd.DataFrame) -> None:
    engine = ClusteringEngine(n_clusters=3)
    mine = features.copy()
    clusters = engine.perform_clustering(mine)
    wanted = engine.assign_risk_levels(clusters)
    mine["days_since_last_activity"] = 99
    assert engine.assign_risk_levels(clusters).equals(wanted)
    clusters["cluster"] = 0
    with pytest.raises(ValueError, match="not of this engine's"):
        engine.assign_risk_levels(clusters)


def test_rows_of_two_days_and_too_few_rows_are_refused(features: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="more than once"):
        ClusteringEngine().perform_clustering(pd.concat([features, features]))
    others = features.assign(
        as_of_on=features["as_of_on"] + pd.Timedelta(days=7), course_id=features["course_id"] + "X"
    )
    with pytest.raises(ValueError, match="rows of several days"):
        ClusteringEngine().perform_clustering(pd.concat([features, others]))
    with pytest.raises(TypeError, match="give bytes"):
        TemporalFeatureExtractor(key="ab" * 32)  # type: ignore[arg-type]
    few = r"^39 observed enrollments .* too few to fit 4 clusters, for each needs 10; lower n_clusters, or extract"
    with pytest.raises(ValueError, match=few):
        ClusteringEngine().perform_clustering(risk.select_scorable(features).head(39))


@pytest.mark.parametrize(
    "name", [*ENROLLMENT, "is_observed", "score_pct_mean", "weekday_entropy_share", "submissions_late"]
)
def test_features_that_lack_a_column_are_refused_with_the_remedy(features: pd.DataFrame, name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^features lack the column {name}; give the frame that extract_temporal_f\w+ returned$"
    ):
        ClusteringEngine().perform_clustering(features.drop(columns=name))


def test_features_with_their_key_in_the_index_are_told_of_reset_index(features: pd.DataFrame) -> None:
    with pytest.raises(
        ValueError, match=r"^features lack the column student_pseudonym; turn the index back by reset_index\(\)$"
    ):
        ClusteringEngine().perform_clustering(features.set_index(ENROLLMENT))


@pytest.mark.parametrize("name", ["score_pct_mean", "days_since_last_activity", "submissions_late"])
def test_text_where_numbers_belong_is_named_and_numbers_as_objects_pass(
    features: pd.DataFrame, engine: ClusteringEngine, name: str
) -> None:
    with pytest.raises(ValueError, match=rf"^the column {name} of features holds string where numbers belong; give"):
        ClusteringEngine().perform_clustering(features.assign(**{name: "high"}))
    objects = features[name].astype(object).where(features[name].notna(), None)
    clusters = ClusteringEngine().perform_clustering(features.assign(**{name: objects}))
    pd.testing.assert_frame_equal(clusters, engine.clusters_)


def test_an_input_without_a_value_is_warned_of(features: pd.DataFrame) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ClusteringEngine().perform_clustering(features)
    with pytest.warns(UserWarning, match=r"^score_pct_mean is null in every row that a model is fitted on"):
        ClusteringEngine().perform_clustering(features.assign(score_pct_mean=pd.NA))


@pytest.mark.parametrize("value", ["4", 4.0, None])
@pytest.mark.parametrize("knob", ["n_clusters", "max_iterations", "seed"])
def test_a_knob_that_is_no_whole_number_is_refused(knob: str, value: object) -> None:
    with pytest.raises(
        TypeError, match=rf"^{knob} is {value!r}, which is no whole number; write one such as {knob}=4$"
    ):
        ClusteringEngine(**{knob: value})  # type: ignore[arg-type]


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"^features is a list; give the frame that extract_temporal_features returned$"
    ):
        ClusteringEngine().perform_clustering([1, 2])  # type: ignore[arg-type]


# -- what is refused at the door -----------------------------------------------------------------------


def _extract(student_data: object, as_of_on: str | None = None, **knobs: object) -> pd.DataFrame:
    return TemporalFeatureExtractor(source="synthetic", **knobs).extract_temporal_features(student_data, as_of_on)  # type: ignore[arg-type]


def test_what_is_no_extract_is_refused(frames: Frames, twin: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="is a DataFrame; give the path of an extract, or a mapping"):
        _extract(frames["studentVle"])
    with pytest.raises(DeliveryRefused, match=r"no file of an extract is named 'events'; known: courses"):
        _extract({"events": frames["studentVle"]})
    with pytest.raises(DeliveryRefused, match=r"studentRegistration\.csv is missing"):
        _extract({name: frames[name] for name in ("courses", "studentInfo")})
    with pytest.raises(ValueError, match="'soon' is no day"):
        _extract(twin, "soon")
    increment = tmp_path / "increment"
    increment.mkdir()
    (increment / "delivery.json").write_text('{"delivered_on": "2025-03-01", "scope": "increment"}')
    (increment / "courses.csv").write_bytes((twin / "courses.csv").read_bytes())
    with pytest.raises(DeliveryRefused, match="increment is an increment"):
        _extract(increment)


def test_without_an_event_inside_a_presentation_the_day_must_be_named(frames: Frames) -> None:
    """Late submissions may come a year after the end, when nobody of the cohort is there."""
    silent = {name: frames[name] for name in ("courses", "studentInfo", "studentRegistration")}
    outside = frames["studentVle"].head(2).assign(date=[-3, 400], clicked_at=None)
    for student_data in (silent, {**silent, "studentVle": outside}):
        with pytest.raises(ValueError, match="no click and no submission inside a presentation; name the day"):
            _extract(student_data)


def test_a_day_without_a_cohort_is_refused_and_no_id_lies_on_disk_meanwhile(
    frames: Frames, features: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []

    def build(self: TemporalFeatureExtractor, folder: Path, as_of_on: date) -> None:
        left.extend(file.name for file in tmp_path.rglob("*") if file.is_file())

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(TemporalFeatureExtractor, "_build", build)
    monkeypatch.setattr(notebook, "_read_term", lambda *_: features.head(0))
    with pytest.raises(ValueError, match="nobody is enrolled in a presentation that runs on 2031-05-01; choose"):
        _extract(frames, "2031-05-01")
    assert left == ["warehouse.duckdb"]


def test_dbt_sees_no_secret_and_its_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "dbt"
    fake.write_text("#!/bin/sh\nenv\nexit 1\n")
    fake.chmod(0o700)
    monkeypatch.setattr(dbt_project, "DBT_EXECUTABLE", fake)
    monkeypatch.setenv("IOM_PSEUDONYM_KEY", "5b" * 32)
    with pytest.raises(RuntimeError, match=r"^dbt could not run dbt_project: (?s:.*)IOM_AS_OF_ON=2025-03-01") as told:
        dbt_project.run_dbt("run", folder=tmp_path, IOM_AS_OF_ON="2025-03-01")
    assert "5b5b" not in str(told.value)


def test_wrong_knobs_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"^a pseudonym key has at least 32 bytes"):
        _extract({}, key=b"short")
    with pytest.raises(ValueError, match=r"^unknown source 'moodle'; known: oulad, synthetic$"):
        TemporalFeatureExtractor(source="moodle")
    with pytest.raises(ValueError, match=r"^'Mars' is no IANA time zone; write one such as Europe/London$"):
        _extract({}, timezone="Mars")


# -- what it costs -------------------------------------------------------------------------------------


def test_importing_it_imports_nothing_heavy_and_nothing_ever_dagster(features: pd.DataFrame, tmp_path: Path) -> None:
    features.to_pickle(tmp_path / "features.pickle")
    code = """
import sys
from iom_platform.notebook import ClusteringEngine, TemporalFeatureExtractor
heavy = {"dagster", "dbt", "duckdb", "mlflow", "numpy", "pandas", "psycopg2", "pyarrow", "sklearn"} & set(sys.modules)
TemporalFeatureExtractor()
import pandas as pd
engine = ClusteringEngine()
engine.assign_risk_levels(engine.perform_clustering(pd.read_pickle(sys.argv[1])))
import iom_platform.extract.loading, iom_platform.storage.dbt_project, iom_platform.storage.warehouse
print(sorted(heavy), sorted({"dagster", "mlflow", "great_expectations"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "features.pickle")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[0] == "[] []"
