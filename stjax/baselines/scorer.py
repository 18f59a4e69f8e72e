"""What every baseline is once it has counted: a scorer for the evaluator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stjax.baselines.counts import local_time
from stjax.data.dataset import Dataset
from stjax.events import Events, Query

ScoreFunction = Callable[[Query, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Scorer:
    """Scores every item from a user's whole earlier history in the store.

    known: query fields that it reads. score: (Query (B,), rows (B,)) to float32 (B, V).
    """

    name: str
    known: tuple[str, ...]
    score: ScoreFunction

    def __call__(self, history: Events, query: Query, rows: np.ndarray) -> np.ndarray:
        """Scores (B, V) of the targets at store rows (B,); only strictly earlier rows are read."""
        return self.score(query, np.asarray(rows))


def now(dataset: Dataset, query: Query, rows: np.ndarray) -> np.ndarray:
    """Local seconds of the request (B,): the query's time if known, else the last event's."""
    if query.time is not None:
        return np.asarray(query.time, np.int64) + np.asarray(query.utc_offset)
    _, stop = dataset.history_bounds(rows)
    return local_time(dataset, np.maximum(stop - 1, 0))
