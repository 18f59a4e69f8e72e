"""Counting in sparse form: what each user did before a row, and how often each pair of ids occurs.

Shapes: `B` targets, `V` items, `P` distinct pairs. Nothing here is of size V × V or loops over
rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stjax.data.dataset import Dataset
from stjax.data.windows import ranges
from stjax.events import FIRST

HOUR = 3600
HOURS_OF_WEEK = 168


def local_time(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Local seconds since the schema's epoch of store rows, int64."""
    columns = dataset.store.columns
    time = columns["time"][rows].astype(np.int64)
    return time + columns["utc_offset"][rows] if "utc_offset" in columns else time


def hour_of_week(local: np.ndarray) -> np.ndarray:
    """0 to 167, from Monday 00:00 local time (the schema's epoch is a Monday)."""
    return (local // HOUR) % HOURS_OF_WEEK


def item_counts(dataset: Dataset) -> np.ndarray:
    """Training events of each item, int64 (V,)."""
    return np.bincount(dataset.items(dataset.train_rows), minlength=dataset.schema.items)


def popularity_levels(dataset: Dataset) -> np.ndarray:
    """Dense rank of each item's training count, 0 the lowest, int64 (V,); equal counts are equal.

    Integers below V stay exact in float32 where fractions of a count would not.
    """
    return np.unique(item_counts(dataset), return_inverse=True)[1]


@dataclass(frozen=True)
class PairCounts:
    """How often `right` went with `left`: key = left × width + right, sorted, int64 (P,)."""

    key: np.ndarray
    count: np.ndarray
    width: int

    @classmethod
    def of(cls, left: np.ndarray, right: np.ndarray, width: int) -> PairCounts:
        """Count pairs of ids, right < width."""
        key = left.astype(np.int64) * width + right
        return cls(*np.unique(key, return_counts=True), width)

    @property
    def coordinates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pairs as (left, right, count), int64 (P,) each."""
        return self.key // self.width, self.key % self.width, self.count

    def of_left(self, left: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every pair of each given id (B,): (position in `left`, right, count), concatenated."""
        left = left.astype(np.int64)
        first = np.searchsorted(self.key, left * self.width)
        stop = np.searchsorted(self.key, (left + 1) * self.width)
        owner, index = ranges(first, stop)
        return owner, self.key[index] % self.width, self.count[index]


def training_counts(dataset: Dataset) -> PairCounts:
    """How often each user, in 0..U-1, had each item in training."""
    rows = dataset.train_rows
    return PairCounts.of(dataset.store.user_of(rows), dataset.items(rows), dataset.schema.items)


def add_at(scores: np.ndarray, owner: np.ndarray, item: np.ndarray, value: np.ndarray) -> None:
    """scores[owner, item] += value, with repeated pairs added up; items below FIRST are skipped."""
    keep = item >= FIRST
    np.add.at(scores, (owner[keep], item[keep]), value[keep])


def back_off(
    scores: np.ndarray, owner: np.ndarray, item: np.ndarray, weight: np.ndarray, strength: float
) -> None:
    """Replace the prior in `scores` (B, V) by its posterior mean, given weighted observations.

    p(v) = (weight of v + strength · p'(v)) / (sum of weights + strength), for each owner; items below FIRST
    are no observations.
    """
    weight = np.where(item >= FIRST, weight, 0.0)
    total = np.bincount(owner, weights=weight, minlength=len(scores)) + strength
    scores *= (strength / total)[:, None]
    add_at(scores, owner, item, weight / total[owner])
