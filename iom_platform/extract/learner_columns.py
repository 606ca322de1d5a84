"""All good records of a learner summary as standardized columns: what a fit needs to see of every learner at once.

What a good record is does not belong here (`learner_summary.py` knows). Memory is 4 bytes a value and 8 a learner.
"""

from dataclasses import dataclass

import numpy as np

from iom_platform.extract.learner_summary import LearnerFile, find_repeated


@dataclass(frozen=True)
class LearnerColumns:
    """columns (n_features, n_learners) float32, of mean 0 and standard deviation 1; a constant one is 0.

    `means` and `deviations` are those of the values, 0 where constant; `repeated` are the places, among the good records,
    of learners who had been there before and were left out; `landed` counts every record.
    """

    columns: np.ndarray
    means: np.ndarray
    deviations: np.ndarray
    repeated: np.ndarray
    landed: int


def read_columns(file: LearnerFile) -> LearnerColumns | None:
    """Read the file once, twice where a learner is repeated; None where no record is good."""
    digests: list[np.ndarray] = []
    parts: list[np.ndarray] = []
    origin, landed = None, 0
    sums = squares = np.zeros(len(file.features))
    for batch in file.read():
        landed += len(batch.ids) + len(batch.rejected)
        if len(batch.ids):
            if origin is None:
                origin = batch.values.mean(axis=0)  # near the mean, so that float32 loses no digits
            moved = batch.values - origin
            sums, squares = sums + moved.sum(axis=0), squares + (moved**2).sum(axis=0)
            parts.append(np.ascontiguousarray(moved.T, dtype=np.float32))
            digests.append(batch.ids.hash().to_numpy())
    if origin is None:
        return None
    repeated = find_repeated(file, np.concatenate(digests))
    digests.clear()
    columns = _join(parts, len(origin))
    if len(repeated):
        columns = np.ascontiguousarray(np.delete(columns, repeated, axis=1))
        sums, squares = (np.einsum("ij->i", columns**power, dtype=np.float64) for power in (1, 2))
    shifts = sums / columns.shape[1]
    deviations = np.sqrt(np.maximum(squares / columns.shape[1] - shifts**2, 0))
    # what varies by less than float32 can divide by is constant too
    is_constant = (columns.min(axis=1) == columns.max(axis=1)) | (deviations < np.finfo(np.float32).tiny)
    deviations[is_constant] = 0
    columns -= shifts.astype(np.float32)[:, None]
    columns *= np.divide(1, deviations, out=np.zeros_like(deviations), where=deviations > 0).astype(np.float32)[:, None]
    return LearnerColumns(columns, origin + shifts, deviations, repeated, landed)


def _join(parts: list[np.ndarray], features: int) -> np.ndarray:
    """The batches as one array; each is given up as it is copied."""
    joined = np.empty((features, sum(part.shape[1] for part in parts)), dtype=np.float32)
    at = 0
    parts.reverse()
    while parts:
        part = parts.pop()
        joined[:, at : at + part.shape[1]] = part
        at += part.shape[1]
    return joined
