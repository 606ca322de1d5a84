"""Measures of a clustering, and None where one is undefined."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from iom_platform.clustering.quality import measure_quality


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
