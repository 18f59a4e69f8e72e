"""First-order Markov chain with back-off: what followed the current item, here and elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stjax.baselines.checks import check
from stjax.baselines.counts import (
    PairCounts,
    back_off,
    item_counts,
    local_time,
)
from stjax.baselines.scorer import Scorer, now
from stjax.data.dataset import Dataset
from stjax.data.history import History
from stjax.errors import ConfigError
from stjax.events import FIRST, Query

DAY = 86_400


@dataclass(frozen=True)
class Markov:
    """Next item given the current one, four estimates deep, each the prior of the one before it.

        p(v) = (weighted count of v + strength · p'(v)) / (sum of weights + strength)

    From the outside in: `own` transitions of the user from the current item; all earlier events of
    the `user`; `chain`, transitions of the training part from the current item; popularity. This is
    Dirichlet smoothing (MacKay and Peto, 1995); the strengths are in events.

    memory: the user's own events weigh exp(−age / memory), with the age in events; inf keeps all.
    known: with "time", a user's event at local hour h weighs 1 + gain · exp(−d² / 2 width²), with d
    hours of the day between h and the request; `width` in hours. Without it these two fields have
    no effect: the hour of the last event says too little about that of the next.
    All defaults were chosen on NYC validation (trajectory-last).
    ConfigError for a strength, a memory or a width that is not above 0, and for a negative gain.
    """

    own: float = 20.0
    user: float = 10.0
    chain: float = 100.0
    memory: float = 60.0
    gain: float = 10.0
    width: float = 1.5
    known: tuple[str, ...] = ()

    uses = ("time",)

    def __post_init__(self) -> None:
        check(self, positive=("own", "user", "chain", "width"), not_negative=("gain",))
        if not self.memory > 0:
            raise ConfigError(f"memory={self.memory} must be above 0 events; inf keeps all")

    def fit(self, dataset: Dataset) -> Scorer:
        """Count the training part's transitions; the user's own are counted at each request."""
        count = item_counts(dataset)
        popular = (count / count.sum()).astype(np.float32)
        chain = training_transitions(dataset)

        def score(query: Query, rows: np.ndarray) -> np.ndarray:
            history = dataset.history(rows)
            current = np.where(history.count > 0, dataset.items(np.maximum(history.last, 0)), 0)
            scores = np.tile(popular, (len(rows), 1))
            back_off(scores, *chain.of_left(current), self.chain)

            owner, item = history.owner, dataset.items(history.row)
            weight = self._weight(dataset, query, rows, history)
            back_off(scores, owner, item, weight, self.user)
            # The event before is the one before among those that may be read; the first has none.
            before = np.concatenate([[0], item[:-1]])
            follows = (history.position > 0) & (before == current[owner]) & (before >= FIRST)
            back_off(scores, owner[follows], item[follows], weight[follows], self.own)
            return scores

        return Scorer("Markov with back-off", self.known, score)

    def _weight(self, dataset: Dataset, query: Query, rows: np.ndarray, history: History) -> np.ndarray:
        weight = np.exp(-history.age / self.memory)
        if query.time is not None:
            apart = (local_time(dataset, history.row) - now(dataset, query, rows)[history.owner]) % DAY
            hours = np.minimum(apart, DAY - apart) / 3600
            weight *= 1 + self.gain * np.exp(-0.5 * (hours / self.width) ** 2)
        return weight


def training_transitions(dataset: Dataset) -> PairCounts:
    """Pairs (item, next item) of neighbouring events of one user, both of the training part."""
    rows = dataset.train_rows
    rows = rows[1:][np.diff(rows) == 1]
    rows = rows[~np.isin(rows, dataset.store.offsets[:-1])]  # a user's first event follows nothing
    return PairCounts.of(dataset.items(rows - 1), dataset.items(rows), dataset.schema.items)
