"""Pictures of a fit: what they must not show, and that they can be drawn whatever a fit gave.

How they look is for eyes; that each run has them is tested in tests/integration/test_five_algorithms.py.
"""

from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from iom_platform.clustering import plots
from iom_platform.clustering.plots import (
    CURVE_POINTS,
    DOTS_PER_INCH,
    WIDTH_INCHES,
    _color,
    average_in_groups,
    count_in_cells,
    lay_cells,
    plot_candidates,
    plot_components,
    plot_fit,
    plot_silhouette,
    plot_stability,
)
from iom_platform.clustering.stability import Stability
from iom_platform.clustering.training import train
from iom_platform.tables import MODEL_INPUTS

K = 5


def groups_of(*sizes: int, spread: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    """Scaled inputs and labels of clusters of these sizes, apart on two inputs."""
    rng, labels = np.random.default_rng(1), np.repeat(np.arange(len(sizes)), sizes)
    angles = 2 * np.pi * np.arange(len(sizes)) / len(sizes)
    centers = np.full((len(sizes), len(MODEL_INPUTS)), 0.5)
    centers[:, :2] += 0.4 * np.column_stack([np.cos(angles), np.sin(angles)])
    return (centers[labels] + rng.normal(scale=spread, size=(len(labels), len(MODEL_INPUTS)))).clip(0, 1), labels


def shows(png: bytes | None, cluster: int) -> bool:
    """Whether the cluster's color is anywhere in the picture, at any opacity on white."""
    from matplotlib.colors import to_rgb

    assert png is not None
    pixels = imread(BytesIO(png))[..., :3]
    away, direction = 1 - pixels, 1 - np.array(to_rgb(_color(cluster)))
    strength = away @ direction / (direction @ direction)
    is_mix = np.abs(away - strength[..., None] * direction).max(axis=-1) < 0.02
    return bool((is_mix & (strength > 0.2)).any())


# -- what must not be shown ----------------------------------------------------------------------------


def test_a_curve_is_made_of_means_of_k_or_more() -> None:
    values = np.random.default_rng(1).random(23)
    means = average_in_groups(values, K)
    ordered = np.sort(values)[::-1]
    assert means.tolist() == [part.mean() for part in np.split(ordered, [6, 12, 18])]
    assert not np.isin(values, means).any()
    assert len(average_in_groups(values[:4], K)) == 0
    assert len(average_in_groups(values[:5], K)) == 1
    assert len(average_in_groups(np.arange(10.0 * K * CURVE_POINTS), K)) == CURVE_POINTS


def test_a_cell_of_fewer_than_k_counts_as_empty() -> None:
    edges = [np.linspace(0, 1, 3)] * 2
    points = np.repeat([[0.2, 0.2], [0.7, 0.2], [0.7, 0.7]], [4, 5, 6], axis=0)
    assert count_in_cells(points, edges, K).tolist() == [[0, 0], [5, 6]]


def test_the_grid_ends_at_no_students_place() -> None:
    points = np.random.default_rng(1).normal(size=(500, 2))
    edges = lay_cells(points, K)
    assert all(np.allclose(side[[0, -1]] * 10, np.round(side[[0, -1]] * 10)) for side in edges)
    points[points[:, 0].argmax(), 0] += 9  # two who are far away
    points[points[:, 0].argmin(), 0] -= 9
    assert [side.tolist() for side in lay_cells(points, K)] == [side.tolist() for side in edges]


@pytest.mark.parametrize("size", [K - 1, 30])
def test_a_cluster_under_k_is_in_no_picture(size: int) -> None:
    scaled, labels = groups_of(200, 100, size, spread=0.001)
    pictures = [plot_silhouette(scaled, labels, k=K, seed=1), plot_components(scaled, labels, k=K)]
    for png in pictures:
        assert shows(png, 0) and shows(png, 1)
        assert shows(png, 2) == (size >= K)


def test_a_cluster_under_k_is_not_named_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "_write", lambda figure: figure)
    scaled, labels = groups_of(200, 100, K - 1)
    components: Any = plots.plot_components(scaled, labels, k=K)
    assert [axes.get_title() for axes in components.axes] == ["cluster 0: 200 students", "cluster 1: 100 students"]
    silhouettes: Any = plots.plot_silhouette(scaled, labels, k=K, seed=1)
    names = [tick.get_text().split("\n")[0] for tick in silhouettes.axes[0].get_yticklabels()]
    assert names == ["cluster 0", "cluster 1"]
    assert "Clusters of fewer are left out" in silhouettes.axes[0].get_title()


def test_a_cluster_that_is_scattered_has_no_cell() -> None:
    scaled, labels = groups_of(200, 100, spread=0.01)
    scaled = np.vstack([scaled, np.linspace(0, 1, 12)[:, None] * np.ones(len(MODEL_INPUTS))])
    labels = np.append(labels, np.full(12, 2))
    assert not shows(plot_components(scaled, labels, k=K), 2)
    assert shows(plot_components(scaled, labels, k=1), 2)


# -- whatever a fit gave -------------------------------------------------------------------------------


def test_the_same_fit_gives_the_same_bytes_in_one_width() -> None:
    scaled, labels = groups_of(200, 100, 50)
    stability = Stability(np.array([0.9, 0.8, 1.0]), {0: 0.9, 1: 0.7, 2: 0.4}, refused=0, rows=350)
    draw = [
        lambda: plot_silhouette(scaled, labels, k=K, seed=1),
        lambda: plot_components(scaled, labels, k=K),
        lambda: plot_stability(stability),
        lambda: plot_candidates(candidates()),
    ]
    for one in draw:
        png = one()
        assert png is not None and png == one() and b"Software" not in png
        assert imread(BytesIO(png)).shape[1] == WIDTH_INCHES * DOTS_PER_INCH


def test_another_seed_draws_another_sample() -> None:
    scaled, labels = groups_of(200, 100, 50, spread=0.2)
    first, again, other = (plot_silhouette(scaled, labels, k=K, seed=seed, sample=60) for seed in (1, 1, 2))
    assert first == again != other


def test_noise_is_no_part_of_the_silhouettes_and_has_a_panel() -> None:
    scaled, labels = groups_of(200, 100, 50)
    noisy = np.where(labels == 2, -1, labels)
    own = labels != 2
    assert plot_silhouette(scaled, noisy, k=K, seed=1) == plot_silhouette(scaled[own], labels[own], k=K, seed=1)
    assert plot_components(scaled, noisy, k=K) != plot_components(scaled, labels, k=K)
    assert not shows(plot_components(scaled, noisy, k=K), 2)


@pytest.mark.parametrize("labels", [np.zeros(40), np.full(40, -1), np.arange(40), np.arange(40) // 4])
def test_undefined_silhouettes_and_clusters_all_under_k_have_no_picture(labels: np.ndarray) -> None:
    scaled, _ = groups_of(20, 20)
    assert plot_silhouette(scaled, labels.astype(np.int16), k=K, seed=1) is None


def test_inputs_that_vary_in_one_direction_have_no_components() -> None:
    line = np.linspace(0, 1, 40)[:, None] * np.ones(len(MODEL_INPUTS))
    assert plot_components(line, np.arange(40) // 20, k=K) is None
    assert plot_components(line[:3], np.zeros(3), k=K) is None
    scaled, _ = groups_of(40)
    assert plot_components(scaled, np.arange(40) // 4, k=K) is None


def test_many_clusters_are_drawn_too() -> None:
    scaled, labels = groups_of(*range(20, 60))
    assert plot_components(scaled, labels, k=K) and plot_silhouette(scaled, labels, k=K, seed=1)


def test_refits_without_a_model_are_drawn_as_nothing_alike() -> None:
    assert plot_stability(Stability(np.zeros(3), {}, refused=3, rows=60)).startswith(b"\x89PNG")
    assert plot_stability(Stability(np.array([-0.2, 0.5]), {0: 0.1}, refused=0, rows=60)).startswith(b"\x89PNG")


def test_a_fit_has_the_pictures_that_it_allows() -> None:
    values, _ = groups_of(100, 60)
    frame = pd.DataFrame(values, columns=list(MODEL_INPUTS)).assign(course_id="AAA-2026B", course_week=8)
    knobs = {"algorithm": "kmeans", "n_clusters": 2, "max_iterations": 50, "seed": 1}
    measured = train(frame, **knobs, bootstrap_iterations=2)
    assert list(plot_fit(measured, k=K, seed=1)) == ["silhouette.png", "components.png", "stability.png"]
    assert list(plot_fit(train(frame, **knobs), k=K, seed=1)) == ["silhouette.png", "components.png"]


# -- candidates ----------------------------------------------------------------------------------------


def candidates(chosen: int = 1) -> pd.DataFrame:
    rows = [("kmeans", 2, 0.9, 0.5), ("kmeans", 3, 0.8, 0.4), ("gmm", 2, 0.7, 0.3), ("dbscan", None, 0.6, None)]
    frame = pd.DataFrame(rows, columns=["algorithm", "n_clusters", "stability_ari_mean", "silhouette"])
    return frame.assign(is_chosen=np.arange(len(frame)) == chosen)


def test_the_chosen_one_is_marked() -> None:
    pictures = {plot_candidates(candidates(chosen)) for chosen in (0, 1, 2, 3)}
    assert len(pictures) == 4


def test_numbers_of_clusters_may_be_nullable_or_all_unknown() -> None:
    frame = candidates()
    assert plot_candidates(frame) == plot_candidates(frame.astype({"n_clusters": "Int64", "silhouette": "Float64"}))
    assert plot_candidates(frame.assign(n_clusters=None)) != plot_candidates(frame)


@pytest.mark.parametrize("components", [1, 2, 0.9])
def test_a_fit_on_components_is_shown_on_its_inputs(components: float) -> None:
    """Whose names stand at the axes; one component has no second axis."""
    from tests.unit.test_clustering_algorithms import KNOBS, make_snapshot

    frame = make_snapshot().assign(course_id="A", course_week=3)
    trained = train(frame, algorithm="kmeans", **{**KNOBS, "seed": 1}, pca_components=components)
    plain = train(frame, algorithm="kmeans", **{**KNOBS, "seed": 1})
    assert "components.png" in plot_fit(trained, k=K, seed=1)
    np.testing.assert_array_equal(trained.unprojected, plain.scaled)


def test_ended_rows_that_no_model_can_read_measure_nothing_and_cost_no_fit() -> None:
    from tests.unit.test_clustering_algorithms import KNOBS, make_snapshot

    frame = make_snapshot().assign(course_id="A", course_week=3)
    ended = frame.assign(has_failed=np.arange(len(frame)) % 2 == 0)
    knobs = {**KNOBS, "seed": 1}
    assert "outcome_association" in train(frame, algorithm="kmeans", **knobs, ended=ended).quality
    ended.loc[0, "days_since_last_activity"] = -1
    assert "outcome_association" not in train(frame, algorithm="kmeans", **knobs, ended=ended).quality
