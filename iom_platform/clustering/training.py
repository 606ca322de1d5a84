"""A model and how good it is on the rows that it was fitted on: one way to train, wherever it is asked for.

Which rows make a training snapshot is for `risk.select_scorable` to say; what becomes of the model, for the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from iom_platform.clustering.algorithms import assign, fit, scale
from iom_platform.clustering.quality import measure_quality

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline

ROWS_PER_CLUSTER = 10  # fewer rows a cluster would describe single students


@dataclass(frozen=True)
class Trained:
    """A fitted model, the clusters of its own rows (n_students,) int16, and their measures."""

    model: Pipeline
    labels: np.ndarray
    quality: dict[str, Any]


def train(frame: pd.DataFrame, *, algorithm: str, n_clusters: int, max_iterations: int, seed: int) -> Trained:
    """Fit on a snapshot and measure. frame: (n_students, >= MODEL_INPUTS and course_id); raises ValueError as `fit`."""
    model = fit(frame, algorithm=algorithm, n_clusters=n_clusters, max_iterations=max_iterations, seed=seed)
    labels, _ = assign(model, frame)
    quality = measure_quality(
        scale(model, frame), labels, seed=seed, estimator=model[-1], course_ids=frame["course_id"].to_numpy()
    )
    return Trained(model, labels, quality)
