"""Baselines that know no user: what is popular, and what is popular at this hour of the week."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stjax.baselines.checks import check
from stjax.baselines.counts import (
    HOURS_OF_WEEK,
    PairCounts,
    add_at,
    hour_of_week,
    item_counts,
    local_time,
    popularity_levels,
)
from stjax.baselines.scorer import Scorer, now
from stjax.data.dataset import Dataset
from stjax.events import Query


@dataclass(frozen=True)
class MostPopular:
    """Items by their number of training events."""

    known = ()

    def fit(self, dataset: Dataset) -> Scorer:
        """Count the training events."""
        level = popularity_levels(dataset).astype(np.float32)

        def score(query: Query, rows: np.ndarray) -> np.ndarray:
            return np.broadcast_to(level, (len(rows), len(level)))

        return Scorer("Most popular", (), score)


@dataclass(frozen=True)
class PopularInHourOfWeek:
    """Items by their share of the training events in this local hour of the week.

    The share is smoothed towards the overall share q_v: (c_hv + strength · q_v) / (n_h + strength),
    with c_hv events of item v among the n_h of hour h. strength, in events, was chosen on NYC
    validation.
    known: with "time" the request's time decides the hour, else that of the user's last event.
    ConfigError for a strength that is not above 0.
    """

    strength: float = 1000.0
    known: tuple[str, ...] = ()

    uses = ("time",)

    def __post_init__(self) -> None:
        check(self, positive=("strength",))

    def fit(self, dataset: Dataset) -> Scorer:
        """Count the training events by hour and item."""
        rows = dataset.train_rows
        hour = hour_of_week(local_time(dataset, rows))
        count = item_counts(dataset)
        share = (count / max(count.sum(), 1)).astype(np.float32)
        pairs = PairCounts.of(hour, dataset.items(rows), dataset.schema.items)
        smoothed = np.bincount(hour, minlength=HOURS_OF_WEEK) + self.strength

        def score(query: Query, rows: np.ndarray) -> np.ndarray:
            hour = hour_of_week(now(dataset, query, rows))
            scores = (self.strength / smoothed[hour, None] * share).astype(np.float32)
            owner, item, count = pairs.of_left(hour)
            add_at(scores, owner, item, count / smoothed[hour[owner]])
            return scores

        return Scorer("Popular in hour of week", self.known, score)
