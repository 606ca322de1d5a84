"""The rule of selection: what forbids to promote a fit, and which of several it names."""

from typing import Any

import pytest

from iom_platform.clustering.algorithms import run_params, select_params
from iom_platform.clustering.selection import (
    AUTO,
    COURSES,
    STABILITY,
    Candidate,
    Limits,
    choose,
    find_faults,
    list_candidates,
    read_params,
)
from iom_platform.settings import Clustering

LIMITS = Limits(min_stability=0.3, min_jaccard=0.6, stability_margin=0.1, max_course_nmi=0.5)
KNOBS = Clustering().knobs


def quality(stability: float | None = 0.8, **measures: Any) -> dict[str, Any]:
    usual = {"stability_jaccard_least": 0.7, "silhouette": 0.3, "course_nmi": 0.1, "week_nmi": None, "clusters": 4}
    return {"stability_ari_mean": stability, **usual, **measures}


def candidate(name: str, clusters: int = 4, stability: float = 0.8, **measures: Any) -> Candidate:
    params = {"algorithm": name, "n_clusters": clusters, "seed": 1}
    return Candidate(params, quality(stability, clusters=clusters, **measures))


@pytest.mark.parametrize(
    ("measures", "gates"),
    [
        ({}, set()),
        ({"course_nmi": 0.5}, set()),
        ({"course_nmi": 0.51}, {COURSES}),
        ({"week_nmi": 0.51, "course_nmi": None}, {COURSES}),
        ({"stability": 0.3}, set()),
        ({"stability": 0.29}, {STABILITY}),
        ({"stability": None, "course_nmi": None}, set()),
        ({"stability": 0.2, "course_nmi": 0.9}, {COURSES, STABILITY}),
    ],
)
def test_a_gate_closes_beyond_its_limit(measures: dict[str, Any], gates: set[str]) -> None:
    assert set(find_faults(quality(**measures), LIMITS)) == gates


@pytest.mark.parametrize(("stability", "closes"), [(0.71, False), (0.69, True), (0.95, False)])
def test_a_fit_less_stable_than_the_champions_method_is_refused(stability: float, closes: bool) -> None:
    faults = find_faults(quality(stability), LIMITS, quality(0.8))
    assert set(faults) == ({STABILITY} if closes else set())
    assert not closes or faults[STABILITY] == (
        "stability_ari_mean is 0.69, and the champion's method has 0.80 on the same rows, better by more than "
        "validation.stability_margin 0.1"
    )


def test_stabilities_of_two_numbers_of_clusters_are_not_compared() -> None:
    """Few clusters are found again in any data: as champion they would keep more of them out for good."""
    assert find_faults(quality(0.5), LIMITS, quality(0.95, clusters=2)) == {}


def test_a_more_stable_champion_refuses_and_one_of_the_same_method_cannot() -> None:
    champion, other = candidate("kmeans", 4, 0.9), candidate("gmm", 4, 0.7)
    assert set(choose([other], LIMITS, champion=champion).faults) == {STABILITY}
    assert choose([other], LIMITS, champion=other).faults == {}


def test_what_was_not_measured_is_less_than_anything() -> None:
    assert candidate("kmeans", silhouette=None).measure("silhouette") < candidate("kmeans").measure("silhouette")
    fits = [candidate("kmeans", 4, silhouette=None), candidate("gmm", 4, silhouette=-0.9)]
    assert choose(fits, LIMITS).place == 1


def test_the_one_that_the_settings_name_is_chosen_and_its_faults_are_told() -> None:
    found = choose([candidate("kmeans", course_nmi=0.9)], LIMITS)
    assert (found.place, found.reason) == (0, "kmeans k=4, which the settings name")
    assert set(found.faults) == {COURSES}


def test_the_most_clusters_that_each_come_again_are_chosen_and_not_the_most_stable() -> None:
    fits = [
        candidate("kmeans", 2, 0.95, stability_jaccard_least=0.95),
        candidate("kmeans", 3, 0.7, stability_jaccard_least=0.6),
        candidate("kmeans", 4, 0.9, stability_jaccard_least=0.59),
    ]
    found = choose(fits, LIMITS)
    assert (found.place, dict(found.faults)) == (1, {})
    assert found.reason == (
        "kmeans k=3 of 3 candidates: 3 clusters, the most that each come again (least Jaccard 0.60), "
        "and the most stable of 1 fits with as many"
    )


def test_of_as_many_clusters_the_most_stable_is_chosen_and_within_the_margin_the_silhouette_decides() -> None:
    fits = [candidate("kmeans", 4, 0.6), candidate("gmm", 4, 0.71, silhouette=0.1), candidate("hierarchical", 4, 0.8)]
    assert choose(fits, LIMITS).place == 2
    fits[1] = candidate("gmm", 4, 0.71, silhouette=0.4)
    assert choose(fits, LIMITS).place == 1
    assert "the highest silhouette of 3 fits" in choose(fits, LIMITS).reason


def test_the_champions_method_is_kept_among_equals() -> None:
    fits = [candidate("gmm", 4, 0.8, silhouette=0.5), candidate("kmeans", 4, 0.75)]
    found = choose(fits, LIMITS, champion=fits[1])
    assert found.place == 1 and "the champion's method of 2 fits" in found.reason
    fits[1] = candidate("kmeans", 4, 0.65)
    assert choose(fits, LIMITS, champion=fits[1]).place == 0


def test_where_no_cluster_comes_again_the_least_bad_is_chosen() -> None:
    fits = [candidate("kmeans", 3, stability_jaccard_least=0.4), candidate("kmeans", 5, stability_jaccard_least=0.2)]
    assert choose(fits, LIMITS).place == 0


def test_one_with_a_fault_is_chosen_only_where_all_have_one() -> None:
    fits = [candidate("kmeans", 6, course_nmi=0.9), candidate("kmeans", 3)]
    assert choose(fits, LIMITS).place == 1
    refused = choose([fits[0], candidate("gmm", 3, course_nmi=0.8)], LIMITS)
    assert refused.place == 0 and set(refused.faults) == {COURSES}


def test_no_candidate_is_no_choice() -> None:
    with pytest.raises(ValueError, match="no candidate to choose from"):
        choose([], LIMITS)


def test_the_settings_name_one_fit_or_a_range() -> None:
    (one,) = list_candidates("gmm", ("kmeans",), (2, 9), KNOBS)
    assert (one["algorithm"], one["n_clusters"]) == ("gmm", 4)
    found = list_candidates(AUTO, ("kmeans", "hdbscan", "kmeans"), (2, 4), KNOBS)
    assert [(p["algorithm"], p.get("n_clusters")) for p in found] == [
        ("kmeans", 2), ("kmeans", 3), ("kmeans", 4), ("hdbscan", None),
    ]  # fmt: skip


PREPARATIONS = (
    {},
    {"weights": {"score_pct_mean": 2.0}},
    {"scaling": "robust", "pca_components": 3},
    {"pca_components": 0.5},
)


@pytest.mark.parametrize("preparation", PREPARATIONS)
@pytest.mark.parametrize("algorithm", Clustering().candidates)
def test_parameters_come_back_from_the_texts_of_a_run(algorithm: str, preparation: dict[str, Any]) -> None:
    params = select_params(algorithm, {**KNOBS, **preparation})
    assert read_params({name: str(value) for name, value in run_params(**params).items()}) == params
