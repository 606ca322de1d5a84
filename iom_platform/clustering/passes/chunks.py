"""Chunks of rows, threads that work on them, and what a fit over them ends with.

What is done with a chunk does not belong here.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

CHUNK_ROWS = 1 << 16
BLOCK_ROWS = 512

Map = Callable[..., Iterator[Any]]


@dataclass(frozen=True)
class Fit:
    """Where a fit ended: its parameters, inertia or mean log-likelihood per row, passes over the rows, and why it ended."""

    parameters: Any
    criterion: float
    iterations: int
    is_converged: bool


@contextmanager
def threads(count: int | None = None) -> Iterator[Map]:
    """A `map` over threads, by default one for each core of the machine."""
    with ThreadPoolExecutor(count or os.cpu_count() or 1) as pool:
        yield pool.map


def chunks(rows: int) -> list[tuple[int, int]]:
    """The first row of each chunk, and the one after its last."""
    return [(low, min(low + CHUNK_ROWS, rows)) for low in range(0, rows, CHUNK_ROWS)]
