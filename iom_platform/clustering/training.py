"""A model and how good it is on the rows that it was fitted on: one way to train, wherever it is asked for.

Which rows make a training snapshot is for `risk.select_scorable` to say; what becomes of the model, for the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from iom_platform.clustering.algorithms import assign, find_algorithm, fit, fit_and_describe, scale
from iom_platform.clustering.preprocessing import Inputs
from iom_platform.clustering.quality import measure_outcomes, measure_quality
from iom_platform.clustering.stability import Stability, measure_stability

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline

ROWS_PER_CLUSTER = 10  # fewer rows a cluster would describe single students


@dataclass(frozen=True)
class Trained:
    """A fitted model, the clusters that it assigns to its own rows (n_students,) int16, their measures, and how it was made.

    scaled: its rows as the estimator sees them, (n_students, n_inputs); unprojected: the same before components, if it has
    any; fitted_on, assigned_by: which rows and by what rule, in words; stability: None where none was measured.
    """

    model: Pipeline
    labels: np.ndarray
    scaled: np.ndarray
    unprojected: np.ndarray
    quality: dict[str, Any]
    fitted_on: str
    assigned_by: str
    stability: Stability | None = None


def least_clusters(params: Mapping[str, Any]) -> int:
    """How many clusters a fit must tell apart; params: as `select_params` returns them."""
    return int(params.get("n_clusters", 2))


def train(
    frame: pd.DataFrame, *, algorithm: str, seed: int, bootstrap_iterations: int = 0,
    ended: pd.DataFrame | None = None, **knobs: Any,
) -> Trained:  # fmt: skip
    """Fit on a snapshot and measure. frame: (n_students, >= MODEL_INPUTS, course_id and course_week); else as `fit_and_describe`.

    bootstrap_iterations: refits by which stability is measured; 0 for none. ended: (n, >= MODEL_INPUTS and has_failed),
    rows of students whose outcome is known: the model assigns them, and none is fitted on.
    """
    rows = Inputs.of(frame)
    fitted = fit_and_describe(rows, algorithm=algorithm, seed=seed, **knobs)
    labels, _ = assign(fitted.model, rows)
    scaled, stability = scale(fitted.model, rows), None
    quality = measure_quality(
        scaled, labels, seed=seed, estimator=fitted.model[-1],
        course_ids=frame["course_id"].to_numpy(), course_weeks=frame["course_week"].to_numpy(), agreement=fitted.agreement,
    )  # fmt: skip
    if ended is not None:
        quality |= _measure_outcomes(fitted.model, ended)
    if bootstrap_iterations:
        stability = measure_stability(
            frame, fitted.model, lambda drawn: fit(drawn, algorithm=algorithm, seed=seed, **knobs),
            iterations=bootstrap_iterations, seed=seed, in_subsets=find_algorithm(algorithm).is_of_density,
        )  # fmt: skip
        quality |= stability.measures()
    unprojected = scale(fitted.model, rows, project=False)
    return Trained(fitted.model, labels, scaled, unprojected, quality, fitted.fitted_on, fitted.assigned_by, stability)


def _measure_outcomes(model: Pipeline, ended: pd.DataFrame) -> dict[str, Any]:
    try:
        labels, _ = assign(model, ended)
    except ValueError:  # rows of other days, by other code: what is wrong with one must not cost this day its model
        return {}
    return measure_outcomes(labels, ended["has_failed"].to_numpy())
