"""What every baseline is once it has counted: a scorer for the evaluator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stjax.baselines.counts import local_time
from stjax.data.dataset import Dataset
from stjax.events import FIRST, Events, Query

ScoreFunction = Callable[[Query, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Scorer:
    """Scores every item from all that the split lets a target read of the store.

    known: query fields that it reads. score: (Query (B,), rows (B,)) to float32 (B, V).
    """

    name: str
    known: tuple[str, ...]
    score: ScoreFunction

    def __call__(self, history: Events, query: Query, rows: np.ndarray) -> np.ndarray:
        """Scores (B, V) of the targets at store rows (B,), from `Dataset.history` of them alone."""
        return self.score(query, np.asarray(rows))

    def candidates(
        self, query: Query, rows: np.ndarray, k: int, exclude: np.ndarray | None = None
    ) -> np.ndarray:
        """The k best items of each target, best first, for another model to rank: int32 (B, k).

        exclude: ids (B, S) that are not wanted, such as `seen_lists` gives; PADDING and UNSEEN never are.
        Equal scores are in order of id. ValueError where fewer than k items are left to a target.
        """
        scores = np.array(self.score(query, np.asarray(rows)), np.float32)
        scores[:, :FIRST] = -np.inf
        if exclude is not None:
            np.put_along_axis(scores, np.asarray(exclude), -np.inf, axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
        if k > scores.shape[1] or np.isneginf(np.take_along_axis(scores, order[:, -1:], axis=1)).any():
            raise ValueError(f"k={k} candidates: fewer than that are left of {scores.shape[1] - FIRST} items")
        return order


def now(dataset: Dataset, query: Query, rows: np.ndarray) -> np.ndarray:
    """Local seconds of the request (B,): the query's time if known, else the last event's."""
    if query.time is not None:
        return np.asarray(query.time, np.int64) + np.asarray(query.utc_offset)
    return local_time(dataset, np.maximum(dataset.history(rows).last, 0))
