"""All good records of a learner summary as standardized columns: what a fit needs to see of every learner at once.

What a good record is does not belong here (`learner_summary.py` knows). Memory is 4 bytes a value and, while the file is
read, 16 a learner; or a few blocks, where both may lie on disk.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from iom_platform.extract.learner_summary import LearnerFile, find_repeated

_PIECES = 16  # of digests, few of which are in memory at a time


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


def read_columns(file: LearnerFile, folder: Path | None = None) -> LearnerColumns | None:
    """Read the file once, twice where a learner is repeated; None where no record is good.

    folder: where the columns lie in a file that is gone with them, instead of in memory.
    """
    landed = 0
    with _Parts(folder) as digests:

        def values() -> Iterator[np.ndarray]:
            nonlocal landed
            for batch in file.read():
                landed += len(batch.ids) + len(batch.rejected)
                if len(batch.ids):
                    digests.add(batch.ids.hash().to_numpy()[None])
                yield batch.values

        def repeated() -> np.ndarray:
            return find_repeated(file, digests.join(folder)[0], pieces=2 if folder is None else _PIECES)

        found = standardize(values(), repeated, folder)
    return found and replace(found, landed=landed)


def standardize(
    batches: Iterable[np.ndarray],
    find_repeated: Callable[[], np.ndarray] = lambda: np.empty(0, dtype=np.int64),
    folder: Path | None = None,
) -> LearnerColumns | None:
    """Columns of (m, n_features) float64 values, batch by batch; None where there is no row.

    find_repeated: asked after the last batch for the places, sorted, of rows to leave out, which `landed` counts too;
    folder: as `read_columns`.
    """
    origin, landed = None, 0
    with _Parts(folder) as parts:
        for values in batches:
            if not len(values):
                continue
            if origin is None:
                origin = _choose_origin(values)
            landed += len(values)
            parts.add(np.ascontiguousarray((values - origin).T, dtype=np.float32))
        if origin is None:
            return None
        repeated = find_repeated()
        columns = parts.join(folder, without=repeated)
    # of the columns, not batch by batch: the same rows give the same bits, however they came
    sums = columns.sum(axis=1, dtype=np.float64)
    squares = np.einsum("ij,ij->i", columns, columns, dtype=np.float64)
    shifts = sums / columns.shape[1]
    deviations = np.sqrt(np.maximum(squares / columns.shape[1] - shifts**2, 0))
    # what varies by less than float32 can divide by is constant too
    is_constant = (columns.min(axis=1) == columns.max(axis=1)) | (deviations < np.finfo(np.float32).tiny)
    deviations[is_constant] = 0
    columns -= shifts.astype(np.float32)[:, None]
    columns *= np.divide(1, deviations, out=np.zeros_like(deviations), where=deviations > 0).astype(np.float32)[:, None]
    return LearnerColumns(columns, origin + shifts, deviations, repeated, landed)


def _choose_origin(values: np.ndarray) -> np.ndarray:
    """(n_features,) near the mean, so that float32 loses no digits; on a grid as coarse as the values spread.

    So it hardly ever hangs on where the first batch ends: the same rows give the same bits from a file or a table.
    """
    mean, spread = values.mean(axis=0), values.std(axis=0)
    grid = np.exp2(np.round(np.log2(np.where(spread > 0, spread, 1))))
    origin: np.ndarray = np.where(spread > 0, np.round(mean / grid) * grid, mean)
    return origin


class _Parts:
    """Arrays (n_rows, some) of one dtype, one after another in memory or in a file of the folder, until they are joined."""

    def __init__(self, folder: Path | None) -> None:
        self._file = None if folder is None else TemporaryFile(dir=folder)  # noqa: SIM115 # closed by __exit__
        self._parts: list[Any] = []
        self._shape = (0, 0)

    def __enter__(self) -> "_Parts":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, part: np.ndarray) -> None:
        self._shape, self._dtype = (len(part), self._shape[1] + part.shape[1]), part.dtype
        if self._file is None:
            self._parts.append(part)
        else:
            self._file.write(part.tobytes())
            self._parts.append(part.shape)

    def join(self, folder: Path | None, without: np.ndarray | None = None) -> np.ndarray:
        """All as one array, without these places, which are sorted; each part is given up as it is copied."""
        left_out = np.empty(0, np.int64) if without is None else without
        joined = _allocate((self._shape[0], self._shape[1] - len(left_out)), self._dtype, folder)
        first = at = 0
        for part in self._take():
            low, high = np.searchsorted(left_out, [first, first + part.shape[1]])
            kept = np.delete(part, left_out[low:high] - first, axis=1) if high > low else part
            joined[:, at : at + kept.shape[1]] = kept
            first, at = first + part.shape[1], at + kept.shape[1]
        return joined

    def _take(self) -> Iterator[np.ndarray]:
        self._parts.reverse()
        if self._file is None:
            while self._parts:
                yield self._parts.pop()
            return
        self._file.seek(0)
        while self._parts:
            shape = self._parts.pop()
            content = self._file.read(math.prod(shape) * self._dtype.itemsize)
            yield np.frombuffer(content, dtype=self._dtype).reshape(shape)


def _allocate(shape: tuple[int, int], dtype: Any, folder: Path | None) -> np.ndarray:
    """An array, mapped to a file of the folder that has no name, so that it is gone with the process however that ends."""
    if folder is None:
        return np.empty(shape, dtype=dtype)
    with TemporaryFile(dir=folder) as file:
        # a page that finds no room later would kill the process; here it is an error
        os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
        # numba knows plain arrays alone
        return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
