"""The passes over many rows against scikit-learn and numpy, from the same starts, and on any number of threads.

The command that uses them is tested in tests/unit/test_cluster_command.py.
"""

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score
from sklearn.mixture import GaussianMixture

from iom_platform.clustering import learners
from iom_platform.clustering.learners import Clusters, fit_clusters, hide_small, measure_clusters
from iom_platform.clustering.passes.chunks import CHUNK_ROWS, Fit, threads
from iom_platform.clustering.passes.kmeans import fit_kmeans
from iom_platform.clustering.passes.mixture import Mixture, assign_mixture, fit_mixture
from iom_platform.clustering.passes.quantiles import find_quantiles
from iom_platform.clustering.passes.silhouette import measure_silhouettes
from iom_platform.clustering.passes.spread import sum_spread

# more than one chunk, and a last one that is not whole
ROWS = 2 * CHUNK_ROWS + 1234


def _columns(features: int, rows: int = ROWS) -> np.ndarray:
    rng = np.random.default_rng(11)
    group = rng.integers(0, 3, rows)
    centers = rng.normal(size=(features, 3)) * 1.5
    mixed = rng.normal(size=(features, features)) * 0.3 + np.eye(features)
    return np.ascontiguousarray((centers[:, group] + mixed @ rng.normal(size=(features, rows))), dtype=np.float32)


@pytest.mark.parametrize("features", [1, 4, 7])
def test_kmeans_ends_where_scikit_learn_does(features: int) -> None:
    columns = _columns(features)
    start = columns[:, :3].T.astype(np.float64)
    ours = fit_kmeans(columns, start, max_iterations=50, tolerance=1e-6)
    theirs = KMeans(3, init=start, n_init=1, max_iter=50, tol=1e-6, algorithm="lloyd").fit(columns.T.astype(np.float64))
    assert ours.is_converged
    assert ours.criterion == pytest.approx(theirs.inertia_, rel=1e-3)
    assert ours.parameters == pytest.approx(theirs.cluster_centers_, abs=0.01)


def test_a_cluster_that_loses_its_rows_keeps_its_center() -> None:
    far = np.array([[0.0], [1e6]])
    fit = fit_kmeans(np.zeros((1, 10), np.float32), far, max_iterations=5, tolerance=0)
    assert fit.parameters.tolist() == far.tolist()
    assert fit.criterion == 0


@pytest.mark.parametrize("features", [1, 4, 7])
def test_mixture_gains_the_likelihood_of_scikit_learn(features: int) -> None:
    columns = _columns(features)
    start = Mixture(np.full(3, 1 / 3), columns[:, :3].T.astype(np.float64), np.stack([np.eye(features)] * 3))
    ours = fit_mixture(columns, start, max_iterations=20, tolerance=0, floor=1e-6)
    rows = columns.T.astype(np.float64)
    theirs = GaussianMixture(3, weights_init=start.weights, means_init=start.means, precisions_init=start.covariances,
                             max_iter=20, tol=0)  # fmt: skip
    with pytest.warns(UserWarning, match="did not converge"):
        theirs.fit(rows)
    assert not ours.is_converged and ours.iterations == 20
    assert ours.criterion == pytest.approx(theirs.lower_bound_, abs=1e-3)
    assert ours.parameters.means == pytest.approx(theirs.means_, abs=1e-2)
    assert ours.parameters.covariances == pytest.approx(theirs.covariances_, abs=1e-2)
    labels, shares = assign_mixture(rows, theirs.weights_, theirs.means_, theirs.precisions_cholesky_)
    assert labels.tolist() == theirs.predict(rows).tolist()
    assert shares == pytest.approx(theirs.predict_proba(rows).max(axis=1), abs=1e-6)


def test_rows_far_from_every_component_have_a_finite_likelihood() -> None:
    columns = np.concatenate([_columns(2, 1000), np.full((2, 3), 500, np.float32)], axis=1)
    start = Mixture(np.full(2, 0.5), np.array([[0.0, 0.0], [1.0, 1.0]]), np.stack([np.eye(2)] * 2))
    fit = fit_mixture(columns, start, max_iterations=3, tolerance=0, floor=1e-6)
    assert np.isfinite(fit.criterion)
    assert np.isfinite(fit.parameters.means).all()


def test_a_narrow_component_far_out_has_the_smallest_volume_that_is_allowed() -> None:
    # a value that one learner in a hundred has: its variance is what rounding leaves of a square
    rng = np.random.default_rng(4)
    rare = rng.random(20_000) < 0.001
    rows = np.column_stack([rng.normal(size=len(rare)), (rare - rare.mean()) / rare.std()])
    columns = np.ascontiguousarray(rows.T, dtype=np.float32)
    start = Mixture(np.full(2, 0.5), np.array([[0.0, 0.0], [0.0, 30.0]]), np.stack([np.eye(2)] * 2))
    ours = fit_mixture(columns, start, max_iterations=50, tolerance=1e-4, floor=1e-6)
    theirs = GaussianMixture(2, weights_init=start.weights, means_init=start.means, precisions_init=start.covariances,
                             max_iter=50, tol=1e-4).fit(rows)  # fmt: skip
    assert ours.parameters.means == pytest.approx(theirs.means_, abs=1e-2)
    assert np.linalg.eigvalsh(ours.parameters.covariances).min() >= 0.9e-6
    roots = np.swapaxes(np.linalg.inv(np.linalg.cholesky(ours.parameters.covariances)), 1, 2)
    labels, _ = assign_mixture(rows, ours.parameters.weights, ours.parameters.means, roots)
    assert labels.tolist() == theirs.predict(rows).tolist() == rare.astype(int).tolist()


def test_a_component_without_volume_is_told() -> None:
    columns = np.repeat(_columns(1, 100), 2, axis=0)
    start = Mixture(np.ones(1), np.zeros((1, 2)), np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="no volume; ask for fewer clusters"):
        fit_mixture(columns, start, max_iterations=1, tolerance=0, floor=0)


@pytest.mark.parametrize("features", [1, 4, 7])
def test_silhouettes_are_those_of_scikit_learn(features: int) -> None:
    columns = _columns(features, 3000)
    one = (columns[0] > 0).astype(np.int8)
    other = np.digitize(columns[-1], [-1, 0.5]).astype(np.int8)
    noisy = np.where(columns[0] > 1, -1, other).astype(np.int8)
    found = measure_silhouettes(columns, [one, other, noisy])
    rows = columns.T.astype(np.float64)
    expected = [silhouette_score(rows, one), silhouette_score(rows, other),
                silhouette_score(rows[noisy >= 0], noisy[noisy >= 0])]  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-5)


def test_silhouette_of_single_members_and_of_nothing_to_compare() -> None:
    columns = _columns(2, 50)
    alone = np.where(np.arange(50) == 0, 1, 0).astype(np.int8)
    assert measure_silhouettes(columns, [alone]) == pytest.approx([silhouette_score(columns.T, alone)], abs=1e-5)
    same, each, noise = np.zeros(50, np.int8), np.arange(50, dtype=np.int8), np.full(50, -1, np.int8)
    assert measure_silhouettes(columns, [same, each, noise]) == [None, None, None]
    assert measure_silhouettes(np.zeros((2, 50), np.float32), [alone]) == [0.0]


def test_spread_and_measures_are_those_of_scikit_learn() -> None:
    columns = _columns(4)
    labels = np.digitize(columns[0], [-0.5, 0.5]).astype(np.int8)
    rows = columns.T.astype(np.float64)
    spread = sum_spread(columns, labels, 3)
    assert spread.centers == pytest.approx(np.stack([rows[labels == c].mean(axis=0) for c in range(3)]), abs=1e-5)
    found = Clusters("kmeans", None, Fit(None, 1.0, 1, True))
    measures = measure_clusters(columns, {"kmeans": found}, {"kmeans": labels}, sample=500, seed=1)["kmeans"]
    assert measures["davies_bouldin"] == pytest.approx(davies_bouldin_score(rows, labels), rel=1e-5)
    assert measures["calinski_harabasz"] == pytest.approx(calinski_harabasz_score(rows, labels), rel=1e-5)
    assert measures["silhouette_sample_rows"] == 500


def test_quantiles_are_those_of_numpy() -> None:
    rng = np.random.default_rng(3)
    shares = (0, 0.25, 0.5, 0.75, 1)
    values = np.concatenate([rng.normal(size=5000), rng.integers(-2, 3, 5000), [0.0, -0.0, 3e38, -3e38]]).astype(
        np.float32
    )
    labels = rng.integers(0, 4, len(values)).astype(np.int8)
    labels[labels == 2] = -1
    found = find_quantiles(values, labels, 4, shares)
    for cluster in (0, 1, 3):
        expected = np.quantile(values[labels == cluster].astype(np.float64), shares)
        assert found[cluster] == pytest.approx(expected, rel=1e-6)
    assert np.isnan(found[2]).all()


def test_too_few_distinct_learners_are_told_of_the_rows_that_were_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.repeat(np.arange(2, dtype=np.float32), 30)[None]
    knobs = {"algorithms": ["kmeans"], "clusters": 3, "max_iterations": 9, "seed": 1}
    with pytest.raises(ValueError, match=r"^there are 2 distinct learners for 3 clusters$"):
        fit_clusters(columns, **knobs)  # type: ignore[arg-type]
    monkeypatch.setattr(learners, "START_ROWS", 50)
    with pytest.raises(ValueError, match=r"^there are 2 distinct learners in a sample of 50 for 3 clusters$"):
        fit_clusters(columns, **knobs)  # type: ignore[arg-type]


def test_a_small_cluster_has_a_size_and_no_figure() -> None:
    figures = ["mean", "q1", "median", "q3", "standardized_difference"]
    profiles = pd.DataFrame({"cluster": [0, 1, 2], "learners": [4, 5, 6], **{name: 1.5 for name in figures}})
    hidden = hide_small(profiles, k=5)
    assert hidden["learners"].tolist() == [4, 5, 6]
    assert hidden[figures].isna().all(axis=1).tolist() == [True, False, False]
    assert hidden[figures].iloc[1:].eq(1.5).all(axis=None) and profiles[figures].notna().all(axis=None)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    columns = _columns(4)
    answers = []
    for count in (1, 2, 3):
        with threads(count) as run:
            found = fit_clusters(columns, algorithms=("kmeans", "gmm"), clusters=3, max_iterations=40, seed=5, run=run)
            labels = {one.algorithm: one.assign(columns.T.astype(np.float64))[0] for one in found}
            quality = measure_clusters(columns, {o.algorithm: o for o in found}, labels, sample=2000, seed=1, run=run)
        answers.append(
            (found[0].estimator.cluster_centers_.tobytes(), found[1].estimator.covariances_.tobytes(), quality)
        )
    assert answers[0] == answers[1] == answers[2]
