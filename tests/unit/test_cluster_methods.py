"""`iom cluster` by methods that cannot see every learner, and by weights: what is fitted, who is assigned, what is told.

The methods themselves are tested in tests/unit/test_clustering_algorithms.py.
"""

import json
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import typer.main
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score
from sklearn.neighbors import KNeighborsClassifier, RadiusNeighborsClassifier
from threadpoolctl import threadpool_limits

from iom_platform.cli import app
from iom_platform.clustering import learners as maths
from iom_platform.clustering.algorithms import ALGORITHMS
from iom_platform.clustering.centers import ROWS_PER_CENTER, centers_in_reach
from iom_platform.clustering.learners import Clusters, fit_clusters
from iom_platform.clustering.passes.chunks import threads
from iom_platform.clustering.passes.nearness import assign_by_centers
from iom_platform.settings import Clustering
from tests.performance.bench_clustering import write_learners
from tests.unit.test_cluster_command import FEATURES, _cluster

LEARNERS, SAMPLE = 2500, 1500
METHODS = [name for name, entry in ALGORITHMS.items() if entry.find]
KNOBS = ["--min-samples", "5", "--min-cluster-size", "20", "--linkage", "average"]


@pytest.fixture(scope="module")
def learners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("methods") / "learners.csv"
    write_learners(file, LEARNERS, seed=3)
    return file


@pytest.fixture(scope="module")
def made(learners: Path) -> Path:
    out = learners.parent / "out"
    with pytest.MonkeyPatch.context() as patch:
        for name in METHODS:
            patch.setitem(ALGORITHMS, name, replace(ALGORITHMS[name], max_rows=SAMPLE))  # type: ignore[arg-type]
        done = _cluster(learners, out, "--algorithms", ",".join(["kmeans", *METHODS]), *KNOBS)
    assert done.returncode == 0, done.stderr
    assert f"hierarchical: fitted on a sample of {SAMPLE:,} of {LEARNERS:,} rows, seed 7, agreement" in done.stdout
    return out


def _rows(made: Path) -> tuple[pd.DataFrame, np.ndarray]:
    rows = pd.read_csv(made / "learner_clusters.csv")
    return rows, joblib.load(made / "preprocess.joblib").transform(rows[FEATURES].to_numpy())


def test_every_learner_has_the_label_that_the_saved_model_gives(learners: Path, made: Path) -> None:
    rows, scaled = _rows(made)
    assert list(rows)[5:] == [f"cluster_{name}" for name in ("kmeans", *METHODS)]
    assert [line.rsplit(",", 4)[0] for line in (made / "learner_clusters.csv").read_text().splitlines()] == (
        learners.read_text().splitlines()
    )
    pd.testing.assert_frame_equal(pd.read_parquet(made / "learner_clusters.parquet"), rows, check_dtype=False)
    for name in METHODS:
        model = joblib.load(made / f"{name}.joblib")
        assert model.predict(scaled).tolist() == rows[f"cluster_{name}"].tolist(), name
        assert (rows[f"cluster_{name}"] == -1).any() == ALGORITHMS[name].is_of_density
        # no learner is kept, only means of several
        assert 2 <= len(model._fit_X) <= SAMPLE / ROWS_PER_CENTER + 1
        assert np.linalg.norm(scaled[:, None] - model._fit_X[None], axis=2).min() > 1e-9


def test_measures_leave_noise_out_and_profiles_have_it_as_a_group(made: Path) -> None:
    rows, scaled = _rows(made)
    facts = json.loads((made / "clustering_summary.json").read_text())
    profiles = pd.read_csv(made / "cluster_profiles.csv")
    for name in METHODS:
        labels = rows[f"cluster_{name}"]
        kept, told = labels >= 0, facts["quality_metrics"][name]
        found = [told[measure] for measure in ("silhouette", "davies_bouldin", "calinski_harabasz", "noise_share")]
        given = scaled[kept], labels[kept]
        expected = [silhouette_score(*given), davies_bouldin_score(*given), calinski_harabasz_score(*given)]
        assert found == pytest.approx([*expected, (~kept).mean()], rel=1e-4)
        assert (told["clusters"], told["silhouette_sample_rows"]) == (labels[kept].nunique(), kept.sum())
        assert facts["sizes"][name] == {str(c): int(n) for c, n in labels.value_counts().sort_index().items()}
        for _, one in profiles[profiles.algorithm == name].iterrows():
            values = rows.loc[labels == one.cluster, one.feature]
            described = (one.learners, one["mean"], one.q1, one["median"], one.q3)
            assert described == pytest.approx((len(values), values.mean(), *values.quantile([0.25, 0.5, 0.75])), rel=1e-5)  # fmt: skip
        assert set(profiles[profiles.algorithm == name].cluster) == set(labels)
    # cluster 0 is the one whose learners do most
    levels = profiles.query("algorithm == 'hierarchical'").groupby("cluster").standardized_difference.mean()
    assert levels.is_monotonic_decreasing and levels[0] > 0.5


def test_summary_and_report_say_what_was_fitted_and_by_which_rule(made: Path) -> None:
    facts = json.loads((made / "clustering_summary.json").read_text())
    report = (made / "task_2_1_report.md").read_text()
    assert "in 3 clusters each by kmeans and hierarchical; in as many as it finds by dbscan and hdbscan." in report
    assert "kmeans: fitted on every row." in report
    assert list(facts["methods"]) == METHODS
    for name, how in facts["methods"].items():
        assert how["fitted_on"] == f"a sample of {SAMPLE:,} of {LEARNERS:,} rows, seed 7"
        assert how["assigned_by"] == ALGORITHMS[name].assigned_by
        assert how["agreement_with_method"] == facts["quality_metrics"][name]["agreement_with_method"] > 0.5
        assert f"{name}: fitted on {how['fitted_on']}; every learner is assigned by {how['assigned_by']}." in report
        assert f"{how['agreement_with_method']:.4f}" in report
    assert facts["methods"]["hierarchical"]["parameters"] == {"linkage": "average"}
    assert facts["methods"]["hdbscan"]["parameters"] == {"min_samples": 5, "min_cluster_size": 20}


def test_a_run_by_other_algorithms_leaves_no_model_of_an_earlier_one(learners: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _cluster(learners, out, "--algorithms", "hierarchical", "--no-csv").returncode == 0
    assert (out / "hierarchical.joblib").exists() and not (out / "kmeans.joblib").exists()
    assert _cluster(learners, out, "--algorithms", "kmeans", "--no-csv").returncode == 0
    assert (out / "kmeans.joblib").exists() and not (out / "hierarchical.joblib").exists()


def test_the_number_of_threads_changes_no_label() -> None:
    rng = np.random.default_rng(2)
    columns = np.ascontiguousarray(rng.normal(size=(3, 1200)) + rng.integers(-2, 2, 1200) * 1.5, dtype=np.float32)
    found = []
    for count in (1, 2):
        with threads(count) as run, threadpool_limits(limits=count):
            fitted = fit_clusters(columns, algorithms=METHODS, clusters=3, max_iterations=9, seed=1, run=run,
                                  knobs={"min_samples": 5, "min_cluster_size": 10, "linkage": "ward"})  # fmt: skip
            found.append([(one.estimator._fit_X.tobytes(), one.assign(columns.T.astype(float))[0].tolist(), one.agreement)
                          for one in fitted])  # fmt: skip
    assert found[0] == found[1]


@pytest.mark.parametrize("is_grid", [False, True])
@pytest.mark.parametrize("radius", [None, 1.0, 0.8])
@pytest.mark.parametrize("features", [1, 4])
def test_a_rule_gives_the_labels_of_scikit_learn(features: int, radius: float | None, is_grid: bool) -> None:
    rng = np.random.default_rng(features)
    # more than one block, and a last one that is not whole; on a grid ties and rows right on a border or a center abound
    rows, centers = rng.normal(scale=2, size=(3000, features)), rng.normal(size=(60, features))
    if is_grid:
        rows, centers = np.round(2 * rows) / 2, np.unique(np.round(centers), axis=0)
    owners = np.concatenate([np.arange(4), rng.integers(0, 4, len(centers))])[: len(centers)]
    if radius is None:
        estimator = KNeighborsClassifier(1, algorithm="brute").fit(centers, owners)
    else:
        nowhere = np.full((1, features), -99.0)
        estimator = RadiusNeighborsClassifier(radius, weights="distance", algorithm="brute", outlier_label=-1)
        estimator.fit(np.concatenate([centers, nowhere]), np.append(owners, -1))
    expected = estimator.predict(rows)
    labels, is_doubtful = assign_by_centers(rows, centers, owners, radius=radius)
    assert labels[~is_doubtful].tolist() == expected[~is_doubtful].tolist()
    assert is_doubtful.any() if is_grid else is_doubtful.mean() < 0.01
    assert Clusters("hierarchical", estimator).assign(rows)[0].tolist() == expected.tolist()
    assert len(set(expected)) >= 3


def test_what_is_left_to_the_last_bits_is_left_to_scikit_learn() -> None:
    class Decides:
        _fit_X, _y, classes_ = np.array([[-1.0], [1.0]]), np.array([0, 1]), np.array([0, 1])

        def predict(self, rows: np.ndarray) -> np.ndarray:
            assert rows.tolist() == [[0.0]]
            return np.array([1])

    assert Clusters("hierarchical", Decides()).assign(np.array([[-2.0], [0.0], [2.0]]))[0].tolist() == [0, 1, 1]


def test_the_center_of_noise_is_out_of_reach_of_rows_of_any_size() -> None:
    rng = np.random.default_rng(1)
    rows = np.concatenate([rng.normal(at, 0.3, size=(200, 2)) for at in (-3, 3)])
    estimator = centers_in_reach(rows, np.repeat([0, 1], 200), np.ones(400, dtype=bool))
    assert estimator.predict(rows).tolist() == [0] * 200 + [1] * 200
    nowhere = estimator._fit_X[estimator._y == 0]
    assert np.linalg.norm(nowhere - estimator._fit_X[estimator._y > 0], axis=1).min() > 2 * estimator.radius


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--min-samples", "1"), 2, "--min-samples is 1; input should be greater than or equal to 2"),
        (("--min-cluster-size", "4"), 2, "--min-cluster-size is 4; input should be greater than or equal to 5"),
        (("--eps", "0"), 2, "--eps is 0.0; input should be greater than 0"),
        (("--eps", "nan"), 2, "--eps is nan; input should be"),
        (("--linkage", "single"), 2, "--linkage is single; input should be 'ward', 'average' or 'complete'"),
        (("--min-samples", "3000"), 4, "dbscan: there are 2500 rows and --min-samples is 3000; lower it"),
        (("--eps", "9"), 4, "dbscan: 2500 rows make 1 cluster of 5 rows or more, which tells nobody apart; change "
                            "--min-samples or --eps"),
        (("--algorithms", "hierarchical", "--k", "100"), 4, "clusters of 5 rows or more"),
    ],
)  # fmt: skip
def test_what_a_method_cannot_do_is_one_sentence(
    learners: Path, tmp_path: Path, more: tuple[str, ...], code: int, words: str
) -> None:
    file = learners
    if "hierarchical" in more:
        file = tmp_path / "learners.csv"
        file.write_text("".join(learners.read_text().splitlines(keepends=True)[:101]))
    done = _cluster(file, tmp_path / "out", "--algorithms", "dbscan", *more)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_more_clusters_than_a_label_can_tell_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maths, "MOST_CLUSTERS", 3)
    columns = np.repeat(np.arange(4.0, dtype=np.float32), 20)[None]
    knobs = {"min_samples": 5, "eps": 0.1}
    with pytest.raises(ValueError, match="dbscan: finds 4 clusters, and 3 are the most; change --min-samples or --eps"):
        fit_clusters(columns, algorithms=["dbscan"], clusters=3, max_iterations=9, seed=1, knobs=knobs)


# -- weights -------------------------------------------------------------------------------------------


def test_weights_are_part_of_the_saved_scaling_and_move_labels(learners: Path, tmp_path: Path) -> None:
    plain, weighed, all_alike = (tmp_path / name for name in ("plain", "weighed", "all_alike"))
    for out, weights in (
        (plain, ()),
        (weighed, ("--weights", "time_spent=4, accuracy=0.5")),
        (all_alike, ("--weights", ",".join(f"{name}=0.015625" for name in FEATURES))),
    ):
        done = _cluster(learners, out, "--algorithms", "kmeans,hdbscan", *weights)
        assert done.returncode == 0, done.stderr
    rows, scaled = _rows(weighed)
    assert scaled.std(axis=0) == pytest.approx([4, 1, 0.5, 1])
    for name in ("kmeans", "hdbscan"):
        model = joblib.load(weighed / f"{name}.joblib")
        assert model.predict(scaled).tolist() == rows[f"cluster_{name}"].tolist()
    before = pd.read_csv(plain / "learner_clusters.csv")
    # what weighs more tells the clusters apart better than it did
    shares = [some.groupby("cluster_kmeans").time_spent.mean().var() for some in (rows, before)]
    assert shares[0] > 1.2 * shares[1]
    assert pd.read_csv(all_alike / "learner_clusters.csv").cluster_kmeans.tolist() == before.cluster_kmeans.tolist()
    iterations = [json.loads((out / "clustering_summary.json").read_text())["quality_metrics"]["kmeans"]["iterations"]
                  for out in (plain, all_alike)]  # fmt: skip
    assert iterations[0] == iterations[1]
    facts = json.loads((weighed / "clustering_summary.json").read_text())
    assert facts["weights"] == {"time_spent": 4, "accuracy": 0.5}
    assert "and then weighed: time_spent 4, accuracy 0.5, all others 1." in (weighed / "task_2_1_report.md").read_text()
    profiles = pd.read_csv(weighed / "cluster_profiles.csv").query("algorithm == 'kmeans'")
    for _, one in profiles.iterrows():
        values = rows.loc[rows.cluster_kmeans == one.cluster, one.feature]
        apart = (values.mean() - rows[one.feature].mean()) / rows[one.feature].std(ddof=0)
        assert (one["mean"], one.standardized_difference) == pytest.approx((values.mean(), apart), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("acuracy=2", "--weights names 'acuracy', which is none of --features; the nearest is 'accuracy'"),
        ("accuracy", "--weights gives accuracy ''; write a number from 0.01 to 100 once for each feature, such as acc"),
        ("accuracy=0", "--weights gives accuracy '0'; write a number from 0.01 to 100"),
        ("accuracy=nan", "--weights gives accuracy 'nan'; write"),
        ("accuracy=1,accuracy=2", "--weights gives accuracy '2'; write"),
    ],
)
def test_weights_without_meaning_are_refused(learners: Path, tmp_path: Path, weights: str, words: str) -> None:
    done = _cluster(learners, tmp_path / "out", "--weights", weights)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def test_options_have_the_defaults_of_the_settings() -> None:
    command = typer.main.get_command(app).commands["cluster"]  # type: ignore[attr-defined]
    defaults = {one.name: one.default for one in command.params}
    settings = Clustering().knobs
    for name in ("linkage", "eps", "min_samples", "min_cluster_size"):
        assert defaults[name] == settings[name], name
