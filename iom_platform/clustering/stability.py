"""Whether clusters come again: the same fit on bootstrap resamples, compared on the rows that all of them can assign.

What is stable enough to be promoted does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from iom_platform.clustering.algorithms import FitRefused, assign
from iom_platform.clustering.preprocessing import Inputs

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline

SUBSET_SHARE = 0.8
STABILITY_ROWS = (
    2_000  # more are drawn to this many, with the seed: a hundred fits on each row would take longer than a run
)


@dataclass(frozen=True)
class Stability:
    """How alike the clusters of resamples are to those of a model.

    ari (iterations,): adjusted Rand index (Hubert and Arabie 1985) of each refit with the model; jaccard: cluster -> mean
    over the refits of the largest Jaccard similarity with one of theirs (Hennig 2007), noise aside; refused: refits that
    gave no model, which count as an index and a similarity of 0; rows: how many a resample was drawn from.
    """

    ari: np.ndarray
    jaccard: dict[int, float]
    refused: int
    rows: int

    def measures(self) -> dict[str, float]:
        """By their names in the run log; `low` is the 5 % quantile."""
        return {
            "stability_ari_mean": float(self.ari.mean()),
            "stability_ari_low": float(np.quantile(self.ari, 0.05)),
            "stability_jaccard_least": min(self.jaccard.values(), default=0.0),
            "stability_refits": float(len(self.ari)),
        }


def measure_stability(
    frame: pd.DataFrame, model: Pipeline, refit: Callable[[Inputs], Pipeline], *, iterations: int, seed: int,
    in_subsets: bool = False, max_rows: int = STABILITY_ROWS,
) -> Stability:  # fmt: skip
    """Refit on `iterations` resamples, preprocessing included, and compare with the model on the rows drawn from.

    frame: what the model was fitted on, (n_students, >= MODEL_INPUTS); refit: fits as the model was fitted, and may raise
    FitRefused. A resample is a bootstrap sample; in_subsets: four fifths of the rows without repetition, for methods of
    density, to which a row that is drawn twice is a dense place. The same seed gives the same resamples. Raises ValueError for fewer
    than one iteration.
    """
    from sklearn.metrics import adjusted_rand_score

    if iterations < 1:
        raise ValueError(f"validation.bootstrap_iterations is {iterations}; stability is measured from 1 on")
    rng = np.random.default_rng(seed)
    if len(frame) > max_rows:
        frame = frame.iloc[np.sort(rng.choice(len(frame), max_rows, replace=False))]
    rows = Inputs.of(frame)
    labels, _ = assign(model, rows)
    clusters = [int(c) for c in np.unique(labels) if c != -1]
    size = int(len(rows) * SUBSET_SHARE) if in_subsets else len(rows)
    indices, similar, refused = np.zeros(iterations), np.zeros((iterations, len(clusters))), 0
    for number in range(iterations):
        drawn = rows.take(rng.choice(len(rows), size, replace=not in_subsets))
        try:
            found, _ = assign(refit(drawn), rows)
        except FitRefused:
            refused += 1
            continue
        indices[number] = adjusted_rand_score(labels, found)
        similar[number] = [_similarity(labels == cluster, found) for cluster in clusters]
    means = similar.mean(axis=0)
    return Stability(indices, dict(zip(clusters, means.tolist(), strict=True)), refused, len(rows))


def _similarity(members: np.ndarray, found: np.ndarray) -> float:
    """The largest Jaccard similarity of some rows (n,) bool with a cluster of `found` (n,)."""
    others = [found == cluster for cluster in np.unique(found) if cluster != -1]
    return max((float((members & other).sum() / (members | other).sum()) for other in others), default=0.0)
