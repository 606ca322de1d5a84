"""Every registered algorithm keeps one meaning of fit, assign and confidence."""

import warnings

import numpy as np
import pandas as pd
import pytest

from iom_platform.clustering import algorithms as al
from iom_platform.tables import MODEL_INPUTS

EVERY = pytest.mark.parametrize("algorithm", list(al.ALGORITHMS))


def make_snapshot(rows: int = 300, seed: int = 0) -> pd.DataFrame:
    """Three kinds of students: active, slowing, gone; with the nulls that the features have."""
    random = np.random.default_rng(seed)
    kind = random.integers(0, 3, rows)
    near = lambda *centers: np.clip(np.array(centers)[kind] + random.normal(0, 0.04, rows), 0, 1)  # noqa: E731
    frame = pd.DataFrame(
        {
            "active_days_28d_to_peers": near(0.7, 0.4, 0.05), "clicks_28d_to_peers": near(0.7, 0.35, 0.05),
            "clicks_14d_to_history": near(0.5, 0.3, 0.05), "days_since_last_activity": np.array([1.0, 8, 60])[kind] + random.integers(0, 4, rows),
            "weekday_entropy_share": near(0.95, 0.8, 0.4), "submissions_missed_share": near(0.0, 0.3, 0.9),
            "score_pct_mean": 100 * near(0.8, 0.6, 0.4),
        }
    )  # fmt: skip
    frame.loc[random.random(rows) < 0.1, "score_pct_mean"] = np.nan
    frame.loc[(kind == 2) & (random.random(rows) < 0.3), ["days_since_last_activity", "weekday_entropy_share"]] = np.nan
    return frame


def fit(frame: pd.DataFrame, algorithm: str, n_clusters: int = 3, seed: int = 7):
    return al.fit(frame, algorithm=algorithm, n_clusters=n_clusters, max_iterations=200, seed=seed)


def test_every_input_has_a_meaning_for_null() -> None:
    assert set(al._MEANING) == set(MODEL_INPUTS)


@EVERY
def test_labels_run_from_most_to_least_active_whatever_the_seed(algorithm: str) -> None:
    frame = make_snapshot()
    first = al.assign(fit(frame, algorithm, seed=1), frame)[0]
    assert frame["active_days_28d_to_peers"].groupby(first).mean().is_monotonic_decreasing
    for seed in (2, 3):
        assert (al.assign(fit(frame, algorithm, seed=seed), frame)[0] == first).mean() > 0.98


@EVERY
def test_labels_and_confidence_have_their_types_and_bounds(algorithm: str) -> None:
    frame = make_snapshot()
    model = fit(frame, algorithm)
    labels, confidence = al.assign(model, frame)
    assert labels.dtype == np.int16
    assert confidence.dtype == np.float64
    assert ((confidence >= 0) & (confidence <= 1)).all()
    assert set(labels) == {0, 1, 2}
    np.testing.assert_array_equal(labels, model.predict(frame[list(MODEL_INPUTS)]))


@EVERY
@pytest.mark.parametrize("kind", ["Int64", "int64", "object"])
def test_a_model_takes_its_inputs_by_name_however_they_are_held(algorithm: str, kind: str) -> None:
    """As a notebook's frame, a CSV file and MLflow's schema hold them."""
    frame = make_snapshot()
    whole = frame["days_since_last_activity"].round().astype("Int64")
    days = whole if kind == "Int64" else whole.fillna(3).astype(kind) if kind == "int64" else whole.astype(object)
    given = frame.assign(days_since_last_activity=days, note="more")[["note", *reversed(MODEL_INPUTS)]]
    model = fit(frame, algorithm)
    wanted = al.assign(model, given.assign(days_since_last_activity=days.astype("Float64")))[0]
    np.testing.assert_array_equal(model.predict(given), wanted)
    with pytest.raises(ValueError, match=r"^columns are missing: \{'score_pct_mean'\}$"):
        model.predict(given.drop(columns="score_pct_mean"))


@EVERY
def test_same_seed_same_model_in_any_order_of_rows_and_columns(algorithm: str) -> None:
    frame = make_snapshot()
    shuffled = frame.sample(frac=1, random_state=3)[list(reversed(frame.columns))]
    first, second = al.assign(fit(frame, algorithm), frame), al.assign(fit(shuffled, algorithm), frame)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@EVERY
def test_thread_count_moves_nothing(algorithm: str) -> None:
    from threadpoolctl import threadpool_limits

    frame, found = make_snapshot(3000), []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            found.append(al.ALGORITHMS[algorithm].centers(fit(frame, algorithm)[-1]))
    np.testing.assert_array_equal(*found)


@EVERY
def test_a_student_is_scored_alike_alone_and_among_classmates(algorithm: str) -> None:
    frame = make_snapshot()
    model = fit(frame, algorithm)
    labels, confidence = al.assign(model, frame)
    for row in (0, 17, 299):
        alone = al.assign(model, frame.iloc[[row]])
        assert (alone[0][0], alone[1][0]) == (labels[row], confidence[row])


@EVERY
def test_row_order_moves_no_bit_where_there_are_no_clear_groups(algorithm: str) -> None:
    """Without groups the start decides the end, so a fit that draws it by row number would show."""
    random = np.random.default_rng(5)
    frame = pd.DataFrame(random.random((400, len(MODEL_INPUTS))), columns=list(MODEL_INPUTS))
    centers = al.ALGORITHMS[algorithm].centers
    found = [centers(fit(f, algorithm, 5)[-1]) for f in (frame, frame.sample(frac=1, random_state=1))]
    np.testing.assert_array_equal(*found)


@EVERY
def test_confidence_is_rounded_against_the_last_bits(algorithm: str) -> None:
    frame = make_snapshot()
    confidence = al.assign(fit(frame, algorithm), frame)[1]
    np.testing.assert_array_equal(confidence, np.round(confidence, 6))


@EVERY
def test_reordering_keeps_the_density(algorithm: str) -> None:
    """Labels, probabilities and centers move together; a forgotten array would show here."""
    frame = make_snapshot()
    model = fit(frame, algorithm)
    scaled, entry = al.scale(model, frame), al.ALGORITHMS[algorithm]
    score = model[-1].score(scaled)
    # two orders, as one alone may undo the order of the fit
    for order in (np.array([2, 0, 1]), np.array([1, 0, 2])):
        before = al.assign(model, frame)[0]
        entry.reorder(model[-1], order)
        np.testing.assert_array_equal(order[al.assign(model, frame)[0]], before)
        assert model[-1].score(scaled) == pytest.approx(score)
        if hasattr(model[-1], "precisions_"):
            unit = np.tile(np.eye(len(MODEL_INPUTS)), (3, 1, 1))
            np.testing.assert_allclose(model[-1].precisions_ @ model[-1].covariances_, unit, atol=1e-6)


@EVERY
@pytest.mark.parametrize("column", MODEL_INPUTS)
def test_a_column_without_a_value_at_the_fit_stays_bounded_later(algorithm: str, column: str) -> None:
    frame = make_snapshot()
    model = fit(frame.assign(**{column: np.nan}), algorithm)
    later = al.scale(model, frame)
    assert np.isfinite(later).all()
    assert ((later >= 0) & (later <= 1)).all()


@EVERY
def test_float32_extremes_and_unseen_values_stay_finite(algorithm: str) -> None:
    frame = make_snapshot().astype("float32")
    frame.loc[0, "score_pct_mean"] = np.finfo(np.float32).max
    frame.loc[1, "score_pct_mean"] = np.finfo(np.float32).tiny
    labels, confidence = al.assign(fit(frame, algorithm), frame)
    assert np.isfinite(confidence).all()
    assert len(labels) == len(frame)


@EVERY
def test_one_cluster_is_refused(algorithm: str) -> None:
    with pytest.raises(ValueError, match="n_clusters is 1"):
        fit(make_snapshot(), algorithm, n_clusters=1)


@EVERY
def test_as_many_clusters_as_points(algorithm: str) -> None:
    frame = make_snapshot(5)
    labels, confidence = al.assign(fit(frame, algorithm, n_clusters=5), frame)
    assert sorted(labels) == [0, 1, 2, 3, 4]
    assert (confidence > 0.9).all()


@EVERY
def test_duplicates_of_a_few_points(algorithm: str) -> None:
    frame = pd.concat([make_snapshot(3, seed=2)] * 40, ignore_index=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels, confidence = al.assign(fit(frame, algorithm), frame)
    assert len(set(labels)) == 3
    assert np.isfinite(confidence).all()


@EVERY
def test_few_iterations_end_without_a_warning(algorithm: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        al.fit(make_snapshot(), algorithm=algorithm, n_clusters=3, max_iterations=1, seed=1)


@EVERY
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.iloc[:0], "no row to fit"),
        (lambda f: f.iloc[:1], "1 distinct rows for 3 clusters"),
        (lambda f: f.iloc[:2], "2 distinct rows for 3 clusters"),
        (lambda f: pd.concat([f.iloc[:1]] * 30), "1 distinct rows for 3 clusters"),
        (lambda f: f * np.nan, "no model input has a value"),
        (lambda f: f.assign(score_pct_mean=np.inf), "score_pct_mean holds a value that is not finite"),
        (lambda f: f.assign(clicks_28d_to_peers=1e300), "clicks_28d_to_peers holds a value that is not finite"),
        (lambda f: f.assign(days_since_last_activity=-1), "days_since_last_activity is negative"),
        (lambda f: f.drop(columns="weekday_entropy_share"), "lacks the model input weekday_entropy_share"),
    ],
)
def test_errors_are_one_clear_sentence(algorithm: str, change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(change(make_snapshot()), algorithm)


def test_an_unknown_algorithm_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="kmeans, gmm"):
        fit(make_snapshot(), "kmeens")


@EVERY
def test_nobody_to_assign_is_an_empty_answer(algorithm: str) -> None:
    frame = make_snapshot()
    labels, confidence = al.assign(fit(frame, algorithm), frame.iloc[:0])
    assert (labels.dtype, len(labels), len(confidence)) == (np.int16, 0, 0)


@EVERY
def test_the_model_survives_skops_without_custom_types(algorithm: str) -> None:
    io = pytest.importorskip("skops.io")
    frame = make_snapshot()
    model = fit(frame, algorithm)
    stored = io.dumps(model)
    assert set(io.get_untrusted_types(data=stored)) <= set(al.TRUSTED_TYPES)
    loaded = io.loads(stored, trusted=list(al.TRUSTED_TYPES))
    for left, right in zip(al.assign(model, frame), al.assign(loaded, frame), strict=True):
        np.testing.assert_array_equal(left, right)


def test_kmeans_confidence_is_the_margin() -> None:
    frame = make_snapshot()
    model = fit(frame, "kmeans")
    distance = np.sort(model[-1].transform(al.scale(model, frame)), axis=1)
    np.testing.assert_allclose(al.assign(model, frame)[1], 1 - distance[:, 0] / distance[:, 1], atol=1e-6)


def test_never_active_is_further_away_than_any_activity() -> None:
    frame = make_snapshot()
    model = fit(frame, "kmeans")
    column = MODEL_INPUTS.index("days_since_last_activity")
    scaled = al.scale(model, frame)[:, column]
    never = frame["days_since_last_activity"].isna().to_numpy()
    assert scaled[never].min() > scaled[~never].max()


@pytest.mark.parametrize("algorithm", al.ALGORITHMS)
def test_runs_of_all_algorithms_can_be_compared_by_the_same_parameters(algorithm: str) -> None:
    asked = {"algorithm": algorithm, "n_clusters": 4, "max_iterations": 300, "seed": 1}
    params = al.run_params(**asked)  # type: ignore[arg-type]
    assert asked.items() <= params.items()
    assert params["estimator"] == al.ALGORITHMS[algorithm].estimator
    assert params["estimator.max_iter"] == 300
    assert {n for n in params if not n.startswith("estimator")} == set(asked)


def test_fit_key_changes_with_each_part() -> None:
    params = {"algorithm": "kmeans", "n_clusters": 4}
    key = al.fit_key("a", params, 1)
    assert key == al.fit_key("a", dict(reversed(params.items())), 1)
    others = [
        al.fit_key("b", params, 1),
        al.fit_key("a", {**params, "n_clusters": 5}, 1),
        al.fit_key("a", params, 2),
        al.fit_key("a", params, 1, "0"),
    ]
    assert len({key, *others}) == 5
