"""Counts in sparse form as padded rows, for programs of few shapes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stjax.baselines.counts import PairCounts
from stjax.data.dataset import Dataset
from stjax.data.windows import ranges
from stjax.events import FIRST, Array

ENTRIES = 1 << 18  # floats of a chunk's gathered factors (N, L, K): a megabyte, which stays in a core's cache
SHORTEST, FINE = 8, 32


class Chunk(NamedTuple):
    """Rows of one padded length L.

    row: int32 (N,), the number of rows where there is none. item: int32 (N, L). times: float32 (N, L), 0
    where there is none. Several chunks of one shape are one `Chunk` with leaves (C, N, ...).
    """

    row: Array
    item: Array
    times: Array


def chunks(
    row: np.ndarray, item: np.ndarray, count: np.ndarray, rows: int, factors: int, at_once: int | None = None
) -> list[Chunk]:
    """Counts in coordinates as padded rows, each in the smallest length that holds it.

    at_once: rows of a chunk, fewer where they are long, of lengths 8, 16, 32 ...; by default as many as there
    are, and in place of every length above 32 two, of 3/4 and the whole of it: less padding, more programs.
    """
    order = np.argsort(row, kind="stable")
    row, item, count = row[order], item[order], count[order]
    size = np.bincount(row, minlength=rows)
    start = np.cumsum(size) - size
    length = np.maximum(SHORTEST, 1 << np.ceil(np.log2(np.maximum(size, 1))).astype(np.int64))
    if at_once is None:
        length = np.where((length > FINE) & (4 * size <= 3 * length), 3 * length // 4, length)
    parts = []
    for long in np.unique(length[size > 0]):
        mine = np.flatnonzero((length == long) & (size > 0))
        many = int(np.clip(ENTRIES // (long * factors), 1, at_once or len(mine)))
        number = -(-len(mine) // many)
        # Rows that fill up the last chunk lie outside of the factors, where a scatter drops them.
        padded = np.concatenate([mine, np.full(number * many - len(mine), rows)]).astype(np.int32)
        owner, index = ranges(start[mine], start[mine] + size[mine])
        place = index - start[mine][owner]
        ids = np.zeros((number * many, long), np.int32)
        counts = np.zeros((number * many, long), np.float32)
        ids[owner, place], counts[owner, place] = item[index], count[index]
        shape = (number, many)
        parts.append(Chunk(padded.reshape(shape), ids.reshape(*shape, long), counts.reshape(*shape, long)))
    return parts


def distinct_items(dataset: Dataset, rows: np.ndarray) -> PairCounts:
    """How often each target, in 0..B-1, may read each item that training has seen."""
    history = dataset.history(rows)
    item = dataset.items(history.row)
    known = item >= FIRST
    return PairCounts.of(history.owner[known], item[known], dataset.schema.items)
