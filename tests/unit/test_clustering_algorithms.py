"""Every registered algorithm keeps one meaning of fit, assign and confidence."""

import inspect
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from iom_platform.clustering import algorithms as al
from iom_platform.clustering import centers
from iom_platform.clustering.centers import ROWS_PER_CENTER, centers_of, margin
from iom_platform.clustering.preprocessing import DEFAULTS, LEAST_WEIGHT, MEANING_OF_NULL, MOST_WEIGHT, SCALINGS
from iom_platform.settings import Algorithm, Clustering, load_settings
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


KNOBS = {
    "n_clusters": 3,
    "max_iterations": 200,
    "seed": 7,
    "linkage": "ward",
    "min_samples": 10,
    "min_cluster_size": 20,
}
COUNTED = [name for name, entry in al.ALGORITHMS.items() if "n_clusters" in entry.knobs]
SUMMARIZED = [name for name, entry in al.ALGORITHMS.items() if entry.find]
DENSITY = [name for name in SUMMARIZED if name not in COUNTED]


def describe(frame: pd.DataFrame, algorithm: str, **knobs: object) -> al.Fitted:
    return al.fit_and_describe(frame, algorithm=algorithm, **{**KNOBS, **knobs})  # type: ignore[arg-type]


def fit(frame: pd.DataFrame, algorithm: str, n_clusters: int = 3, seed: int = 7):
    return al.fit(frame, algorithm=algorithm, **{**KNOBS, "n_clusters": n_clusters, "seed": seed})  # type: ignore[arg-type]


def test_every_input_has_a_meaning_for_null() -> None:
    assert set(MEANING_OF_NULL) == set(MODEL_INPUTS)


@EVERY
def test_labels_run_from_most_to_least_active_whatever_the_seed(algorithm: str) -> None:
    frame = make_snapshot()
    first = al.assign(fit(frame, algorithm, seed=1), frame)[0]
    activity = frame[["active_days_28d_to_peers", "clicks_28d_to_peers"]].mean(axis=1)[first >= 0]
    steps = activity.groupby(first[first >= 0]).mean().diff().dropna()
    assert (steps < (0.01 if algorithm in SUMMARIZED else 0)).all()  # theirs are the means of the method's own clusters
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
    found = set(labels) - {-1 if algorithm in DENSITY else None}
    assert found == set(range(len(found))) and (len(found) == 3 or algorithm in DENSITY)
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
            model = fit(frame, algorithm)
            found.append((centers_of(model[-1])[0], model.predict(frame[list(MODEL_INPUTS)])))
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


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
    models = [
        al.fit(f, algorithm=algorithm, **{**KNOBS, "n_clusters": 5, "min_samples": 2, "min_cluster_size": 5})
        for f in (frame, frame.sample(frac=1, random_state=1))
    ]
    np.testing.assert_array_equal(*(centers_of(model[-1])[0] for model in models))


@EVERY
def test_confidence_is_rounded_against_the_last_bits(algorithm: str) -> None:
    frame = make_snapshot()
    confidence = al.assign(fit(frame, algorithm), frame)[1]
    np.testing.assert_array_equal(confidence, np.round(confidence, 6))


@pytest.mark.parametrize("algorithm", [name for name in al.ALGORITHMS if name not in SUMMARIZED])
def test_reordering_keeps_the_density(algorithm: str) -> None:
    """Labels, probabilities and centers move together; a forgotten array would show here."""
    frame = make_snapshot()
    model = fit(frame, algorithm)
    scaled, entry = al.scale(model, frame), al.ALGORITHMS[algorithm]
    score = model[-1].score(scaled)
    # two orders, as one alone may undo the order of the fit
    for order in (np.array([2, 0, 1]), np.array([1, 0, 2])):
        before = al.assign(model, frame)[0]
        assert entry.reorder
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
    if algorithm in SUMMARIZED:  # a center would be a student
        with pytest.raises(
            al.FitRefused,
            match=r"5 rows make 0 clusters of 5 rows or more|are 5 rows and clustering\.min_samples is 10; lower it",
        ):
            fit(frame, algorithm, n_clusters=5)
        return
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
        describe(make_snapshot(), algorithm, max_iterations=1)


@EVERY
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.iloc[:0], "no row to fit"),
        (lambda f: f.iloc[:1], r"1 distinct rows for [23] clusters; .*choose a later day"),
        (lambda f: f.iloc[:2], r"2 distinct rows for 3 clusters|are 2 rows and clustering\.min_samples is 10"),
        (lambda f: pd.concat([f.iloc[:1]] * 30), r"1 distinct rows for [23] clusters"),
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
    with pytest.raises(ValueError, match="'kmeens' is not registered; use one of kmeans, gmm, dbscan"):
        fit(make_snapshot(), "kmeens")


@EVERY
def test_nobody_to_assign_is_an_empty_answer(algorithm: str) -> None:
    frame = make_snapshot()
    labels, confidence = al.assign(fit(frame, algorithm), frame.iloc[:0])
    assert (labels.dtype, len(labels), len(confidence)) == (np.int16, 0, 0)


@EVERY
def test_the_model_survives_skops_without_custom_types(algorithm: str) -> None:
    from skops import io

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
    knobs = al.ALGORITHMS[algorithm].knobs
    asked = {"algorithm": algorithm, "seed": 1, **{n: v for n, v in Clustering().knobs.items() if n in knobs}}
    params = al.run_params(**{**Clustering().knobs, "algorithm": algorithm, "seed": 1})
    assert {n: v for n, v in params.items() if not n.startswith("estimator")} == {**asked, "seed": 1}
    assert params["estimator"] in ("KMeans", "GaussianMixture", "DBSCAN", "HDBSCAN", "AgglomerativeClustering")
    assert len([n for n in params if n.startswith("estimator.")]) > 5
    assert params.get("estimator.max_iter", 300) == 300


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


# -- knobs ---------------------------------------------------------------------------------------------


def test_settings_and_registry_know_the_same_names() -> None:
    assert get_args(Algorithm) == tuple(al.ALGORITHMS)
    knobs = {knob for entry in al.ALGORITHMS.values() for knob in entry.knobs}
    assert {*knobs, *DEFAULTS} == set(Clustering().knobs)
    for name in al.ALGORITHMS:
        assert al.select_params(name, Clustering().knobs)["algorithm"] == name


def test_only_what_holds_for_an_algorithm_is_its_parameter() -> None:
    """A default of another algorithm's knob must not make a champion look outdated."""
    assert set(al.select_params("kmeans", Clustering().knobs)) == {"algorithm", "n_clusters", "max_iterations", "seed"}
    assert set(al.select_params("dbscan", Clustering().knobs)) == {"algorithm", "eps", "min_samples", "seed"}


@EVERY
@pytest.mark.parametrize(
    ("knob", "error", "said"),
    [
        (
            {"n_clusters": True},
            TypeError,
            "^n_clusters is True, which is no whole number; write one such as n_clusters=4$",
        ),
        ({"n_clusters": 0}, ValueError, r"^clustering\.n_clusters is 0; from 2 on clusters tell students apart$"),
        ({"max_iterations": 0}, ValueError, r"^clustering\.max_iterations is 0; a fit takes at least one$"),
        ({"seed": -1}, ValueError, r"^clustering\.seed is -1; a seed is a whole number from 0 to 4294967295$"),
        ({"seed": 2**32}, ValueError, "a seed is a whole number from 0"),
        ({"min_samples": 1}, ValueError, "min_samples is 1; fewer than 2 rows are no neighborhood"),
        (
            {"min_cluster_size": 4},
            ValueError,
            "min_cluster_size is 4; a smaller cluster would describe single students",
        ),
        ({"eps": 0}, ValueError, "eps is 0; a distance is above 0"),
        ({"eps": float("nan")}, ValueError, "eps is nan; a distance is above 0"),
        ({"eps": "wide"}, TypeError, "eps is 'wide', which is no number"),
        ({"linkage": "single"}, ValueError, "linkage is 'single'; use one of ward, average, complete"),
        ({"n_cluster": 4}, TypeError, "no algorithm has a knob 'n_cluster'; the known ones are n_clusters, max_iter"),
        ({"weights": 2}, TypeError, "^weights is 2, which is no mapping; write one such as weights="),
        ({"weights": {"score_pct_mean": "2"}}, TypeError, "^the weight of score_pct_mean is '2', which is no number"),
        (
            {"weights": {"score_mean": 2}},
            ValueError,
            r"^clustering\.weights names 'score_mean', which is no model input; the nearest is 'score_pct_mean'$",
        ),
        (
            {"weights": {"score_pct_mean": 0}},
            ValueError,
            r"^clustering\.weights gives score_pct_mean 0; a weight lies from 0\.01 to 100$",
        ),
        ({"weights": {"score_pct_mean": float("nan")}}, ValueError, "gives score_pct_mean nan; a weight lies"),
        ({"scaling": "minmax"}, ValueError, "^clustering.scaling is 'minmax'; use one of range, standard, robust$"),
        ({"pca_components": "all"}, TypeError, "^pca_components is 'all', which is no number; write one such as 3"),
        ({"pca_components": True}, TypeError, "^pca_components is True, which is no number"),
        (
            {"pca_components": 8},
            ValueError,
            "pca_components is 8; write a number of components from 1 to 7, or the share",
        ),
        ({"pca_components": 0}, ValueError, "pca_components is 0; write"),
        ({"pca_components": 1.5}, ValueError, "pca_components is 1.5; write"),
        ({"pca_components": float("nan")}, ValueError, "pca_components is nan; write"),
    ],
)
def test_a_knob_out_of_range_is_one_clear_sentence(
    algorithm: str, knob: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        describe(make_snapshot(), algorithm, **knob)


@pytest.mark.parametrize("algorithm", DENSITY)
def test_the_number_of_clusters_means_nothing_to_a_density_method(algorithm: str) -> None:
    frame = make_snapshot()
    found = [centers_of(fit(frame, algorithm, n_clusters=n)[-1])[0] for n in (3, 9)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("linkage", ["ward", "average", "complete"])
def test_each_linkage_finds_the_three_kinds(linkage: str) -> None:
    frame = make_snapshot()
    assert describe(frame, "hierarchical", linkage=linkage).agreement == pytest.approx(1, abs=0.05)


# -- weights -------------------------------------------------------------------------------------------

WEIGHTS = {"score_pct_mean": 5.0, "clicks_28d_to_peers": 0.1}


@EVERY
def test_weights_multiply_the_scaled_inputs_and_are_part_of_the_model(algorithm: str) -> None:
    from skops import io

    frame = make_snapshot()
    plain, weighed = fit(frame, algorithm), describe(frame, algorithm, weights=WEIGHTS).model
    factors = np.array([WEIGHTS.get(name, 1.0) for name in MODEL_INPUTS])
    np.testing.assert_array_equal(al.scale(weighed, frame), al.scale(plain, frame) * factors)
    labels, confidence = al.assign(weighed, frame)
    np.testing.assert_array_equal(labels, weighed.predict(frame))
    assert ((confidence >= 0) & (confidence <= 1)).all()
    loaded = io.loads(io.dumps(weighed), trusted=list(al.TRUSTED_TYPES))
    np.testing.assert_array_equal(al.assign(loaded, frame)[0], labels)
    assert not np.array_equal(centers_of(weighed[-1])[0], centers_of(plain[-1])[0] * factors)


def test_weights_change_the_fit_key_and_those_of_one_change_nothing() -> None:
    plain = al.select_params("kmeans", Clustering().knobs)
    ones = al.select_params("kmeans", {**Clustering().knobs, "weights": dict.fromkeys(MODEL_INPUTS, 1)})
    weighed = al.select_params("kmeans", {**Clustering().knobs, "weights": WEIGHTS})
    assert ones == plain and "weights" not in plain
    assert al.fit_key("a", weighed, 1) != al.fit_key("a", plain, 1)
    # one model has one name in MLflow, in whatever order its weights were written
    assert str(weighed["weights"]) == "{'clicks_28d_to_peers': 0.1, 'score_pct_mean': 5.0}"
    assert al.run_params(**weighed)["weights"] == weighed["weights"]


def test_settings_and_registry_allow_the_same_weights() -> None:
    for weight in (LEAST_WEIGHT, MOST_WEIGHT):
        knobs = Clustering(weights={"score_pct_mean": weight}).knobs
        assert al.select_params("gmm", knobs)["weights"] == {"score_pct_mean": weight}
    for weight in (LEAST_WEIGHT * 0.99, MOST_WEIGHT * 1.01):
        with pytest.raises(ValueError, match=r"should be (greater|less) than or equal to"):
            Clustering(weights={"score_pct_mean": weight})


# -- scaling and components ----------------------------------------------------------------------------


def test_each_scaling_is_that_of_scikit_learn_on_inputs_in_their_range() -> None:
    from sklearn.preprocessing import RobustScaler, StandardScaler

    frame = make_snapshot()
    ranged = al.scale(fit(frame, "kmeans"), frame)
    standard, robust = (al.scale(describe(frame, "kmeans", scaling=s).model, frame) for s in ("standard", "robust"))
    np.testing.assert_allclose(standard, StandardScaler().fit_transform(ranged), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(robust, RobustScaler().fit_transform(ranged).clip(-2, 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("missing", [0.45, 0.6])
def test_an_input_that_most_students_share_does_not_rule_a_robust_scaling(missing: float) -> None:
    frame = make_snapshot()
    without = np.random.default_rng(3).random(len(frame)) < missing
    frame["score_pct_mean"] = frame["score_pct_mean"].mask(without)
    variance = al.scale(describe(frame, "kmeans", scaling="robust").model, frame).var(axis=0)
    assert variance[MODEL_INPUTS.index("score_pct_mean")] < 0.6 * variance.sum()


@pytest.mark.parametrize("scaling", SCALINGS[1:])
def test_what_had_no_value_at_the_fit_stays_bounded_under_every_scaling(scaling: str) -> None:
    frame = make_snapshot()
    model = describe(frame.assign(score_pct_mean=np.nan), "kmeans", scaling=scaling).model
    assert (np.abs(al.scale(model, frame)[:, MODEL_INPUTS.index("score_pct_mean")]) <= 1).all()


@EVERY
def test_linear_algebra_runs_on_one_thread(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.preprocessing import MinMaxScaler
    from threadpoolctl import threadpool_info

    seen: list[int] = []

    def probed(function: Any) -> Any:
        def probe(*arguments: Any, **knobs: Any) -> Any:
            seen.extend(library["num_threads"] for library in threadpool_info())
            return function(*arguments, **knobs)

        return probe

    frame = make_snapshot()
    for step in ("fit", "transform"):
        monkeypatch.setattr(MinMaxScaler, step, probed(getattr(MinMaxScaler, step)))
    model = fit(frame, algorithm)
    kind = type(model[-1])
    monkeypatch.setattr(kind, "predict", probed(kind.predict))
    al.assign(model, frame)
    assert seen and set(seen) == {1}


@pytest.mark.parametrize(
    "knobs",
    [{"scaling": "standard"}, {"scaling": "robust"}, {"pca_components": 3},
     {"pca_components": 0.9, "scaling": "standard", "weights": WEIGHTS}],
    ids=["standard", "robust", "components", "all three"],
)  # fmt: skip
@EVERY
def test_every_preparation_is_part_of_the_model(algorithm: str, knobs: dict[str, Any]) -> None:
    from skops import io

    frame = make_snapshot()
    asked = {**knobs, **({"eps": 1.0} if "scaling" in knobs else {})}  # a distance is none of another scaling
    model = describe(frame, algorithm, **asked).model
    labels, confidence = al.assign(model, frame)
    np.testing.assert_array_equal(labels, model.predict(frame.assign(text="no input")))
    assert ((confidence >= 0) & (confidence <= 1)).all()
    loaded = io.loads(io.dumps(model), trusted=list(al.TRUSTED_TYPES))
    np.testing.assert_array_equal(al.assign(loaded, frame)[0], labels)
    shuffled = describe(frame.sample(frac=1, random_state=1), algorithm, **asked).model
    np.testing.assert_array_equal(al.assign(shuffled, frame)[0], labels)
    if "pca_components" not in knobs:
        return
    assert al.scale(model, frame).shape[1] < len(MODEL_INPUTS)
    # the first cluster is the most active one, whatever the components' directions
    activity = frame["active_days_28d_to_peers"].groupby(labels).mean().drop(-1, errors="ignore")
    assert activity.idxmax() == 0


def test_a_share_of_variance_is_kept_by_as_few_components_as_do() -> None:
    frame = make_snapshot()
    kept = describe(frame, "kmeans", pca_components=0.8).model["scale"]["components"].explained_variance_ratio_
    assert kept.sum() >= 0.8 > kept[:-1].sum()


@pytest.mark.parametrize(
    ("rows", "components", "said"),
    [
        ([0] * 50, 3, "^the snapshot has 1 distinct rows for 2 clusters"),
        ([0] * 50, 0.5, "^the snapshot has 1 distinct rows for 2 clusters"),
        ([0, 1], 3, r"^there are 2 rows and clustering\.pca_components is 3; lower it$"),
    ],
)
def test_components_of_too_little_are_refused_without_a_warning(rows: list[int], components: float, said: str) -> None:
    with warnings.catch_warnings(), pytest.raises(al.FitRefused, match=said):
        warnings.simplefilter("error")
        describe(make_snapshot().iloc[rows], "kmeans", n_clusters=2, pca_components=components)


def test_what_is_no_number_is_not_quoted() -> None:
    frame = make_snapshot().astype(object)
    frame.loc[3, "score_pct_mean"] = "student 42"
    with pytest.raises(ValueError, match=r"^a model input holds something that is no number") as error:
        fit(frame, "kmeans")
    assert "42" not in str(error.value) and error.value.__suppress_context__


def test_a_preparation_changes_the_fit_key_and_the_default_is_no_parameter() -> None:
    plain = al.select_params("kmeans", Clustering().knobs)
    assert not {*DEFAULTS} & {*plain}
    changed = [{"scaling": s} for s in SCALINGS[1:]] + [{"pca_components": 2}, {"pca_components": 0.5}]
    keys = {al.fit_key("a", al.select_params("kmeans", {**Clustering().knobs, **knobs}), 1) for knobs in changed}
    assert len(keys | {al.fit_key("a", plain, 1)}) == 5


@pytest.mark.parametrize(
    ("algorithm", "knobs", "name"),
    [
        ("kmeans", {}, "kmeans, k=4"), ("hdbscan", {}, "hdbscan"),
        ("gmm", {"scaling": "robust", "pca_components": 0.9, "weights": WEIGHTS}, "gmm, k=4, robust, pca=0.9, weighted"),
        ("dbscan", {"scaling": "standard"}, "dbscan, standard"),
    ],
)  # fmt: skip
def test_a_fit_is_named_by_what_sets_it_apart(algorithm: str, knobs: dict[str, Any], name: str) -> None:
    assert al.name_fit(al.select_params(algorithm, {**Clustering().knobs, **knobs})) == name


def test_settings_and_registry_allow_the_same_preparation() -> None:
    for components in (1, len(MODEL_INPUTS), 0.01, 0.99):
        assert al.select_params("gmm", Clustering(pca_components=components).knobs)["pca_components"] == components
    for components in (0, len(MODEL_INPUTS) + 1, 1.5, 0.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="is neither a number of components from 1 to 7, nor a share of variance"):
            Clustering(pca_components=components)
    for name in SCALINGS:
        assert al.select_params("gmm", Clustering(scaling=name).knobs).get("scaling", "range") == name


def test_a_lineage_measures_distances_whatever_a_model_makes_of_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    from iom_platform.flow import lineage
    from iom_platform.storage.model_registry import Registry

    frame = make_snapshot()
    found = []
    for knobs in ({}, {"weights": dict.fromkeys(MODEL_INPUTS, 50.0)}, {"scaling": "standard", "pca_components": 4}):
        model = describe(frame, "kmeans", **knobs).model
        registry = type("Known", (), {"load_model": lambda *_, model=model: (model, None)})()
        monkeypatch.setattr(Registry, "of", lambda _, registry=registry: registry)
        found.append(lineage.trace_lineage(None, load_settings(), frame, 1, None))  # type: ignore[arg-type]
    # a uid is a digest of the center at birth
    assert found[0]["cluster_uid"].tolist() == found[1]["cluster_uid"].tolist() == found[2]["cluster_uid"].tolist()


# -- methods that cannot predict -----------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", SUMMARIZED)
def test_agreement_is_that_of_the_published_labels_with_the_methods_own(algorithm: str) -> None:
    from sklearn.metrics import adjusted_rand_score

    frame = make_snapshot().sort_values(list(MODEL_INPUTS), kind="stable", ignore_index=True)
    fitted = describe(frame, algorithm)
    scaled = al.scale(fitted.model, frame)
    exact, _ = al.ALGORITHMS[algorithm].find(al._build(al.select_params(algorithm, KNOBS)), scaled)  # type: ignore[misc]
    assert fitted.agreement == pytest.approx(adjusted_rand_score(exact, al.assign(fitted.model, frame)[0]))
    assert fitted.agreement > 0.8
    assert fitted.fitted_on == "all 300 rows"
    assert fitted.assigned_by == al.ALGORITHMS[algorithm].assigned_by


@pytest.mark.parametrize("algorithm", ["kmeans", "gmm"])
def test_what_predicts_by_itself_has_nothing_to_agree_with(algorithm: str) -> None:
    assert describe(make_snapshot(), algorithm).agreement is None


def test_weighing_equal_rows_is_dbscan_on_all_of_them() -> None:
    from sklearn.cluster import DBSCAN

    scaled = np.round(np.random.default_rng(2).random((400, 2)), 1)
    scaled = np.concatenate([scaled, np.full((30, 2), 0.55)])
    labels, is_core = al._find_by_dbscan(DBSCAN(eps=0.08, min_samples=6), scaled)
    plain = DBSCAN(eps=0.08, min_samples=6).fit(scaled)
    np.testing.assert_array_equal(np.flatnonzero(is_core), plain.core_sample_indices_)
    np.testing.assert_array_equal(labels == -1, plain.labels_ == -1)
    assert len(set(plain.labels_)) > 1
    pairs = set(zip(labels[is_core], plain.labels_[is_core], strict=True))
    assert len(pairs) == len(set(labels[is_core])) == len(set(plain.labels_[is_core]))


def test_an_eps_that_is_not_given_is_the_stated_quantile() -> None:
    scaled = np.random.default_rng(4).random((200, 3))
    estimator = al._build(al.select_params("dbscan", KNOBS))
    al._find_by_dbscan(estimator, scaled)
    tenth = np.sort(np.linalg.norm(scaled[:, None] - scaled[None], axis=2), axis=1)[:, 9]
    assert estimator.eps == pytest.approx(np.quantile(tenth, al.EPS_QUANTILE))


@pytest.mark.parametrize("algorithm", SUMMARIZED)
def test_a_larger_snapshot_is_fitted_on_a_seeded_sample(algorithm: str) -> None:
    frame = make_snapshot(600)
    first, again, other = (describe(frame, algorithm, max_rows=200, seed=seed) for seed in (1, 1, 2))
    assert first.fitted_on == "a sample of 200 of 600 rows, seed 1"
    found = [centers_of(fitted.model[-1])[0] for fitted in (first, again, other)]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert len(al.assign(first.model, frame)[0]) == 600


@pytest.mark.parametrize("algorithm", DENSITY)
def test_what_no_cluster_reaches_is_noise(algorithm: str) -> None:
    model = fit(make_snapshot(), algorithm)
    far = pd.DataFrame([{**dict.fromkeys(MODEL_INPUTS, 0.0), "clicks_28d_to_peers": 1.0, "score_pct_mean": 100.0}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels, confidence = al.assign(model, far)
    assert labels.tolist() == model.predict(far).tolist() == [-1]
    assert 0 < confidence[0] < 1


@pytest.mark.parametrize("algorithm", DENSITY)
def test_as_many_rows_are_noise_as_the_method_says(algorithm: str) -> None:
    anywhere = np.random.default_rng(1).random((40, len(MODEL_INPUTS)))
    frame = pd.concat([make_snapshot(), pd.DataFrame(anywhere, columns=list(MODEL_INPUTS))], ignore_index=True)
    frame = frame.sort_values(list(MODEL_INPUTS), kind="stable", ignore_index=True)
    model = fit(frame, algorithm)
    exact, _ = al.ALGORITHMS[algorithm].find(al._build(al.select_params(algorithm, KNOBS)), al.scale(model, frame))  # type: ignore[misc]
    assert (exact == -1).any()
    assert (al.assign(model, frame)[0] == -1).sum() == (exact == -1).sum()


@pytest.mark.parametrize("algorithm", SUMMARIZED)
def test_a_snapshot_of_one_group_is_refused(algorithm: str) -> None:
    frame = make_snapshot(2000)
    frame = frame[frame["active_days_28d_to_peers"] > 0.6].dropna()
    knobs = {"eps": 1.0, "min_cluster_size": len(frame)} if algorithm in DENSITY else {"n_clusters": len(frame)}
    with pytest.raises(
        al.FitRefused, match=r"^\d+ rows make [01] clusters? of 5 rows or more, .*; change clustering\."
    ):
        describe(frame, algorithm, **knobs)


# -- what a model keeps of its rows --------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", SUMMARIZED)
def test_each_center_is_the_mean_of_several_students(algorithm: str) -> None:
    frame = make_snapshot()
    model = fit(frame, algorithm)
    scaled = al.scale(model, frame)
    found, owners = centers_of(model[-1])
    assert 2 <= len(set(owners)) < len(found) <= len(frame) / ROWS_PER_CENTER
    nearest = np.linalg.norm(scaled[:, None] - found[None], axis=2).min(axis=0)
    assert (nearest > 1e-9).all()
    kept = [value for value in vars(model[-1]).values() if isinstance(value, np.ndarray)]
    assert max(map(len, kept)) <= len(frame) / ROWS_PER_CENTER + 1


@pytest.mark.parametrize("algorithm", SUMMARIZED)
def test_a_large_snapshot_makes_no_more_centers_than_assigning_can_bear(
    algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = make_snapshot(500)
    monkeypatch.setattr(centers, "MAX_CENTERS", 20)
    found, owners = centers_of(fit(frame, algorithm)[-1])
    assert len(set(owners)) <= len(found) <= 20 + len(set(owners))


@pytest.mark.parametrize("algorithm", SUMMARIZED)
def test_few_students_apart_from_all_make_no_center(algorithm: str) -> None:
    few = pd.DataFrame([{**dict.fromkeys(MODEL_INPUTS, 0.0), "clicks_28d_to_peers": 1.0, "score_pct_mean": 100.0}] * 4)
    frame = pd.concat([make_snapshot(), few], ignore_index=True)
    model = describe(frame, algorithm, n_clusters=4, min_samples=2, min_cluster_size=5).model
    apart = al.scale(model, few)[0]
    assert (np.linalg.norm(centers_of(model[-1])[0] - apart, axis=1) > 0.2).all()


def test_a_model_needs_nothing_of_ours_to_predict(tmp_path: Path) -> None:
    """In one process for all of them, since it takes seconds to start."""
    from skops import io

    frame = make_snapshot()
    models = {algorithm: fit(frame, algorithm) for algorithm in al.ALGORITHMS}
    for algorithm, model in models.items():
        io.dump(model, tmp_path / f"{algorithm}.skops")
    frame.to_csv(tmp_path / "frame.csv", index=False)
    code = inspect.cleandoc(f"""
        import sys
        import pandas, skops.io
        for algorithm in {list(models)}:
            model = skops.io.load(algorithm + ".skops", trusted={list(al.TRUSTED_TYPES)})
            print(*model.predict(pandas.read_csv("frame.csv")))
        assert not any(name.startswith("iom_platform") for name in sys.modules)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == ""
    for line, model in zip(done.stdout.splitlines(), models.values(), strict=True):
        assert list(map(int, line.split())) == al.assign(model, frame)[0].tolist()


def test_confidence_is_nothing_on_the_border_to_noise() -> None:
    from sklearn.neighbors import RadiusNeighborsClassifier

    estimator = RadiusNeighborsClassifier(0.3, outlier_label=-1, algorithm="brute")
    estimator.fit(np.array([[0.0], [1.0], [-9.0]]), np.array([0, 1, -1]))
    rows, labels = np.array([[0.0], [0.15], [0.3], [0.5], [0.9]]), np.array([0, 0, 0, -1, 1])
    np.testing.assert_allclose(margin(estimator, rows, labels), [1, 0.5, 0, 1 - 0.3 / 0.5, 1 - 0.1 / 0.3], atol=1e-12)
