"""The model card says what the fit was, and every figure with its meaning."""

import numpy as np
import pandas as pd

from iom_platform.clustering.card import MEANING, write_model_card
from iom_platform.clustering.profiles import profile_clusters
from iom_platform.clustering.quality import measure_outcomes, measure_quality
from iom_platform.clustering.stability import Stability
from iom_platform.tables import MODEL_INPUTS


def _card(students: int = 40, **quality: float | None) -> str:
    values = np.random.default_rng(3).random((students, len(MODEL_INPUTS)))
    frame = pd.DataFrame(values, columns=list(MODEL_INPUTS))
    labels = np.arange(students) % 4 // 3  # three quarters in cluster 0
    measured = measure_quality(values, labels, seed=1)
    return write_model_card(
        title="kmeans k=2 2013-12-16",
        params={"algorithm": "kmeans", "n_clusters": 2, "estimator.tol": 1e-6},
        snapshot={"as-of day": "2013-12-16", "rows": students},
        quality={**measured, **quality},
        profiles=profile_clusters(frame, labels),
        risk_model={"high_cut": 0.71, "medium_cut": 0.52, "cluster_weight": 0.3, "cluster_means": {}},
    )


def test_every_measure_has_a_meaning() -> None:
    measured = measure_quality(np.empty((0, len(MODEL_INPUTS))), np.empty(0), seed=1)
    stability = Stability(np.ones(2), {0: 1.0}, refused=0, rows=9).measures()
    assert {*measured, *stability, *measure_outcomes(np.arange(60) % 3, np.arange(60) % 2)} == set(MEANING)


def test_it_names_snapshot_parameters_measures_clusters_and_cut_offs() -> None:
    card = _card(silhouette=0.31, silhouette_seed=20131216)
    assert card.startswith("# kmeans k=2 2013-12-16\n")
    for said in (
        "- as-of day: 2013-12-16",
        "- algorithm: kmeans",
        "| silhouette | 0.31 | -1 to 1;",
        "| silhouette_seed | 20131216 |",
        "- high_cut: 0.71",
    ):
        assert said in card
    assert "| 0 | 30 | " in card and "| 1 | 10 | " in card
    for name in MODEL_INPUTS:
        assert f"- `{name}`: " in card
    assert "estimator.tol" not in card


def test_an_undefined_measure_is_left_out_and_a_small_cluster_not_described() -> None:
    card = _card(students=16, silhouette=None)
    assert "| silhouette |" not in card
    assert "| 1 | 4 | too few students to describe |" in card
