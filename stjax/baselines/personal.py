"""Baselines that only repeat: the user's most frequent items, and the user's last ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stjax.baselines.counts import PairCounts, popularity_levels
from stjax.baselines.scorer import Scorer
from stjax.data.dataset import Dataset
from stjax.events import FIRST, Query


@dataclass(frozen=True)
class UserMostFrequent:
    """Items by how often the user has had them, ties and all other items by popularity."""

    known = ()

    def fit(self, dataset: Dataset) -> Scorer:
        """Count the training events; the user's own are counted at each request."""
        level = popularity_levels(dataset)
        levels = int(level.max()) + 1

        def score(query: Query, rows: np.ndarray) -> np.ndarray:
            scores = np.tile(level.astype(np.float32), (len(rows), 1))
            history = dataset.history(rows)
            own = PairCounts.of(history.owner, dataset.items(history.row), len(level))
            owner, item, count = own.coordinates
            # The order of (count, popularity) among the target's own items: float32 holds it exactly.
            value = count * levels + level[item]
            order = np.unique(owner * (value.max(initial=0) + 1) + value, return_inverse=True)[1]
            lowest = np.full(len(rows), len(order))
            np.minimum.at(lowest, owner, order)
            keep = item >= FIRST
            scores[owner[keep], item[keep]] = (levels + order - lowest[owner])[keep]
            return scores

        return Scorer("User's most frequent", (), score)


@dataclass(frozen=True)
class UserLast:
    """Items by how recently the user had them, the last one first; all others by popularity."""

    known = ()

    def fit(self, dataset: Dataset) -> Scorer:
        """Count the training events; the user's history is read at each request."""
        level = popularity_levels(dataset)
        levels = int(level.max()) + 1

        def score(query: Query, rows: np.ndarray) -> np.ndarray:
            scores = np.tile(level.astype(np.float32), (len(rows), 1))
            history = dataset.history(rows)
            item = dataset.items(history.row)
            keep = item >= FIRST
            position = (levels + history.position).astype(np.float32)
            np.maximum.at(scores, (history.owner[keep], item[keep]), position[keep])
            return scores

        return Scorer("User's last", (), score)
