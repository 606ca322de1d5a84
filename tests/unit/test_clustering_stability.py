"""Stability: 1 where groups are apart, low where there are none, and what counts when a refit gives no model.

What the platform does with it is tested in tests/integration/.
"""

import numpy as np
import pandas as pd
import pytest

from iom_platform.clustering.algorithms import ALGORITHMS, FitRefused, assign, fit
from iom_platform.clustering.preprocessing import Inputs
from iom_platform.clustering.stability import Stability, measure_stability
from iom_platform.tables import MODEL_INPUTS

KNOBS = {"n_clusters": 3, "max_iterations": 100, "linkage": "ward", "min_samples": 5, "min_cluster_size": 15}


def _frame(rows: int, groups: int, spread: float) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    centers = rng.uniform(0.1, 0.9, (groups, len(MODEL_INPUTS)))
    values = centers[np.arange(rows) % groups] + rng.normal(scale=spread, size=(rows, len(MODEL_INPUTS)))
    return pd.DataFrame(values.clip(0, 1), columns=list(MODEL_INPUTS))


def _measure(frame: pd.DataFrame, algorithm: str = "kmeans", iterations: int = 8, **knobs: int) -> Stability:
    asked = {**KNOBS, **knobs}
    return measure_stability(
        frame, fit(frame, algorithm=algorithm, seed=1, **asked), lambda rows: fit(rows, algorithm=algorithm, seed=1, **asked),
        iterations=iterations, seed=4, in_subsets=ALGORITHMS[algorithm].is_of_density,
    )  # fmt: skip


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_groups_that_are_apart_come_again(algorithm: str) -> None:
    found = _measure(_frame(300, 3, 0.01), algorithm)
    # which rows at the rim are noise differs between subsets
    least = 0.7 if ALGORITHMS[algorithm].is_of_density else 1 - 1e-9
    assert set(found.jaccard) == {0, 1, 2}
    assert found.ari.min() >= least and min(found.jaccard.values()) >= least
    assert found.measures() == {
        "stability_ari_mean": pytest.approx(found.ari.mean()), "stability_ari_low": pytest.approx(np.quantile(found.ari, 0.05)),
        "stability_jaccard_least": min(found.jaccard.values()), "stability_refits": 8,
    }  # fmt: skip
    assert (found.refused, found.rows, len(found.ari)) == (0, 300, 8)


def test_the_true_number_of_groups_is_the_most_stable() -> None:
    frame = _frame(300, 3, 0.06)
    by_k = {k: _measure(frame, n_clusters=k).ari.mean() for k in (2, 3, 4, 5)}
    assert max(by_k, key=by_k.__getitem__) == 3
    assert by_k[5] < 0.9


def test_where_there_are_no_groups_clusters_do_not_come_again() -> None:
    found = _measure(_frame(300, 1, 0.2))
    assert found.ari.mean() < 0.8
    assert all(0 < value < 0.9 for value in found.jaccard.values())


def test_a_refit_without_model_counts_as_nothing_alike() -> None:
    frame = _frame(300, 3, 0.01)
    model = fit(frame, algorithm="kmeans", seed=1, **KNOBS)
    answers = iter([model, FitRefused("it finds none"), model, model])

    def refit(_: Inputs) -> object:
        answer = next(answers)
        if isinstance(answer, FitRefused):
            raise answer
        return answer

    found = measure_stability(frame, model, refit, iterations=4, seed=1)  # type: ignore[arg-type]
    assert found.ari.tolist() == [1, 0, 1, 1]
    assert set(found.jaccard.values()) == {0.75}
    assert found.refused == 1


def test_many_rows_are_drawn_to_a_stated_number_and_a_seed_gives_the_same() -> None:
    frame = _frame(500, 1, 0.2)
    model = fit(frame, algorithm="kmeans", seed=1, **KNOBS)
    seen: list[int] = []

    def refit(rows: Inputs) -> object:
        seen.append(len(rows))
        return fit(rows, algorithm="kmeans", seed=1, **KNOBS)

    answers = [
        measure_stability(frame, model, refit, iterations=3, seed=seed, max_rows=120)  # type: ignore[arg-type]
        for seed in (5, 5, 6)
    ]
    assert set(seen) == {120} and answers[0].rows == 120
    assert answers[0].ari.tolist() == answers[1].ari.tolist() != answers[2].ari.tolist()


def test_subsets_hold_no_row_twice() -> None:
    frame = _frame(100, 3, 0.1)
    model = fit(frame, algorithm="kmeans", seed=1, **KNOBS)
    seen: list[Inputs] = []
    for in_subsets in (True, False):
        measure_stability(
            frame, model, lambda rows: seen.append(rows) or model, iterations=1, seed=1, in_subsets=in_subsets
        )  # type: ignore[func-returns-value]
    assert [len(rows) for rows in seen] == [80, 100]
    assert [rows.count_distinct() == len(rows) for rows in seen] == [True, False]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_refit_on_filled_inputs_is_one_on_the_rows(algorithm: str) -> None:
    """Which saves the filling of each resample: the models are the same to the bit, nulls and a median that moves included."""
    frame = _frame(300, 3, 0.05)
    holes = np.random.default_rng(6).random(frame.shape) < 0.2
    frame = frame.mask(holes)
    drawn = np.random.default_rng(7).choice(300, 300)
    knobs = {**KNOBS, "eps": 0.5, "weights": {"score_pct_mean": 2.0}, "pca_components": 5}
    one, other = (
        fit(rows, algorithm=algorithm, seed=1, **knobs) for rows in (frame.iloc[drawn], Inputs.of(frame).take(drawn))
    )
    for rows in (frame, Inputs.of(frame)):
        found = [assign(model, rows) for model in (one, other)]
        np.testing.assert_array_equal(found[0][0], found[1][0])
        np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_array_equal(one.predict(frame), other.predict(frame))


def test_no_iteration_is_refused() -> None:
    with pytest.raises(ValueError, match="bootstrap_iterations is 0"):
        _measure(_frame(60, 3, 0.01), iterations=0)
