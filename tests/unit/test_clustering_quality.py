"""Measures of a clustering, and None where one is undefined."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from iom_platform.clustering.quality import MIN_OUTCOMES, measure_outcomes, measure_quality


def make_blobs(rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(4)
    truth = random.integers(0, 3, rows)
    return np.array([[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]])[truth] + random.normal(0, 0.03, (rows, 2)), truth


def test_measures_agree_with_their_definitions() -> None:
    scaled, _ = make_blobs()
    estimator = KMeans(3, n_init=1, random_state=0).fit(scaled)
    found = measure_quality(scaled, estimator.labels_, seed=1, estimator=estimator)
    assert found["silhouette"] == pytest.approx(metrics.silhouette_score(scaled, estimator.labels_))
    assert found["davies_bouldin"] == pytest.approx(metrics.davies_bouldin_score(scaled, estimator.labels_))
    assert found["inertia"] == pytest.approx(estimator.inertia_)
    assert found["is_converged"] is True
    assert (found["bic"], found["noise_share"], found["rows"], found["clusters"]) == (None, 0.0, 300, 3)


def test_likelihood_measures_for_a_density() -> None:
    scaled, _ = make_blobs()
    estimator = GaussianMixture(3, random_state=0).fit(scaled)
    found = measure_quality(scaled, estimator.predict(scaled), seed=1, estimator=estimator)
    assert found["bic"] == pytest.approx(estimator.bic(scaled))
    assert found["aic"] == pytest.approx(estimator.aic(scaled))
    assert found["inertia"] is None


def test_silhouette_sample_is_seeded_and_told() -> None:
    scaled, truth = make_blobs()
    first = measure_quality(scaled, truth, seed=1, sample=50)
    assert first == measure_quality(scaled, truth, seed=1, sample=50)
    assert first["silhouette"] != measure_quality(scaled, truth, seed=2, sample=50)["silhouette"]
    assert (first["silhouette_sample_rows"], first["silhouette_seed"]) == (50, 1)


def test_noise_is_counted_and_left_out_of_separation() -> None:
    scaled, truth = make_blobs()
    noisy = np.vstack([scaled, np.full((100, 2), 50.0)])
    found = measure_quality(noisy, np.append(truth, np.full(100, -1)), seed=1)
    assert found["noise_share"] == pytest.approx(0.25)
    assert found["silhouette"] == pytest.approx(measure_quality(scaled, truth, seed=1)["silhouette"])


def test_course_agreement() -> None:
    scaled, truth = make_blobs()
    courses = np.array(["A", "B", "C"])[truth]
    assert measure_quality(scaled, truth, seed=1, course_ids=courses)["course_nmi"] == pytest.approx(1.0)
    assert measure_quality(scaled, truth, seed=1, course_ids=np.full(300, "A"))["course_nmi"] is None
    mixed = np.random.default_rng(0).choice(["A", "B"], 300)
    assert measure_quality(scaled, truth, seed=1, course_ids=mixed)["course_nmi"] < 0.1


@pytest.mark.parametrize(
    ("scaled", "labels"),
    [
        (np.empty((0, 2)), np.empty(0, dtype=int)),
        (np.ones((1, 2)), np.array([0])),
        (np.random.default_rng(0).random((9, 2)), np.zeros(9, dtype=int)),
        (np.random.default_rng(0).random((5, 2)), np.arange(5)),
        (np.random.default_rng(0).random((5, 2)), np.full(5, -1)),
        (np.ones((6, 2)), np.array([0, 0, 0, 1, 1, 1])),
    ],
    ids=["empty", "one row", "one cluster", "all alone", "all noise", "one point"],
)
@pytest.mark.filterwarnings("error")
def test_undefined_is_none_without_a_crash(scaled: np.ndarray, labels: np.ndarray) -> None:
    found = measure_quality(scaled, labels, seed=1, course_ids=np.full(len(labels), "A"))
    assert found["davies_bouldin"] is None
    assert found["calinski_harabasz"] is None
    assert found["silhouette"] in (None, 0.0)


# -- outcomes that came later --------------------------------------------------------------------------


def test_clusters_that_say_all_of_the_outcome_have_an_association_of_one_and_others_of_none() -> None:
    failed = np.arange(300) % 3 == 0
    assert measure_outcomes(failed.astype(int), failed) == {"outcome_association": 1.0, "outcome_rows": 300}
    rng = np.random.default_rng(4)
    by_chance = [measure_outcomes(rng.integers(-1, 5, 60), rng.random(60) < 0.4) for _ in range(200)]
    # without the correction the mean is above 0.25
    assert np.mean([found["outcome_association"] for found in by_chance]) < 0.12
    assert measure_outcomes(np.zeros(300), failed)["outcome_association"] == 0


def test_of_many_rows_the_association_is_cramers_v() -> None:
    from scipy.stats.contingency import association, crosstab

    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, 20_000)
    failed = rng.random(20_000) < np.array([0.1, 0.2, 0.4, 0.7])[labels]
    wanted = association(crosstab(labels, failed).count, method="cramer")
    assert measure_outcomes(labels, failed)["outcome_association"] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(
    "failed", [np.arange(MIN_OUTCOMES - 1) % 2 == 0, np.zeros(300, dtype=bool), np.empty(0, dtype=bool)]
)
def test_of_few_outcomes_and_of_one_alone_nothing_is_said(failed: np.ndarray) -> None:
    assert measure_outcomes(np.arange(len(failed)) % 3, failed) == {}
