"""Cutting users' sequences into windows, as pure functions of arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stjax.errors import UserError


class Windows(NamedTuple):
    """Runs of consecutive entries, each within one user's sequence. All int64 (W,).

    first: position of the first entry. size: number of entries. context: number of leading
    predictions that an earlier window has made already. Prediction l reads entries 0..l and
    predicts entry l + 1.
    """

    first: np.ndarray
    size: np.ndarray
    context: np.ndarray


def cut(bounds: np.ndarray, length: int, overlap: int) -> Windows:
    """Cut sequences into windows so that every transition is predicted in exactly one of them.

    bounds: (U+1,), sequence k is the entries bounds[k]:bounds[k+1]; with n entries it has n - 1
    transitions.
    length: predictions per window (a window has up to length + 1 entries). overlap: the least
    number of leading predictions that only give context in a later window of the sequence, 0 <=
    overlap < length. The last window of a sequence is moved back to be full: more context instead
    of padding, so that only sequences shorter than a window give short windows. Raises UserError
    for an impossible overlap.
    """
    if not 0 <= overlap < length:
        raise UserError(f"overlap={overlap} must be at least 0 and below length={length}")
    transitions = np.diff(bounds) - 1
    later = -(-np.maximum(transitions - length, 0) // (length - overlap))
    windows = np.where(transitions > 0, 1 + later, 0)
    sequence = np.repeat(np.arange(len(windows)), windows)
    rank = np.arange(len(sequence)) - np.repeat(np.cumsum(windows) - windows, windows)
    end = np.minimum(length + rank * (length - overlap), transitions[sequence])
    new = np.where(rank > 0, length + (rank - 1) * (length - overlap), 0)
    first = np.maximum(end - length, 0)
    return Windows(bounds[:-1][sequence] + first, end - first + 1, new - first)


def take_runs(column: np.ndarray, start: np.ndarray, width: int) -> np.ndarray:
    """column[start_b : start_b + width] for every b: (N, ...) and (B,) to (B, width, ...).

    Runs beyond the end repeat the last value. Runs that all end within the column are copied as
    slices, eight times faster than an index per value.
    """
    if len(column) < width or int(start.max(initial=0)) > len(column) - width:
        rows = start[:, None] + np.arange(width)
        return np.take(column, rows, axis=0, mode="clip")
    column = np.ascontiguousarray(column)
    values = int(np.prod(column.shape[1:]))
    runs = np.lib.stride_tricks.as_strided(
        column.reshape(-1),
        (len(column) - width + 1, width * values),
        (values * column.itemsize, column.itemsize),
        writeable=False,
    )
    return runs[start].reshape(len(start), width, *column.shape[1:])


def ranges(first: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All integers of many ranges in one go: (which range, the integer), int64 each, in order."""
    length = np.maximum(stop - first, 0)
    owner = np.repeat(np.arange(len(length)), length)
    start = np.cumsum(length) - length
    return owner, np.arange(len(owner)) - (start - first)[owner]
