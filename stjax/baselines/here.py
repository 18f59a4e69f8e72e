"""What is popular on this spot at this hour: map cells within map cells, hours within cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from stjax.baselines.checks import check
from stjax.baselines.counts import (
    HOURS_OF_WEEK,
    PairCounts,
    back_off,
    hour_of_week,
    item_counts,
    local_time,
)
from stjax.baselines.scorer import Scorer, now
from stjax.data.dataset import Dataset
from stjax.errors import ConfigError
from stjax.events import Query
from stjax.ops import cells

HOURS_OF_DAY = 24
NOWHERE = -1  # the key of a context for an event whose place is unknown


@dataclass(frozen=True)
class PopularHere:
    """Items by their share of the training events in the map cell of the request, at its hour.

    Estimates from the outside in, each the prior of the next: all events; those in the cell of each of
    `levels`, the smallest last; those in the smallest cell at this local hour of the day; at this hour of the
    week.

        p(v) = (count of v + strength · p'(v)) / (count of all + strength)

    This is Dirichlet smoothing (MacKay and Peto, 1995). An event is where it says, else where its item is;
    one without either counts among all events only.

    levels: of map cells, ascending, from 0 to 16 (`stjax.ops.cells`). cell, day, week: strengths of cells, of
    hours of the day and of hours of the week, in events. Defaults were chosen on NYC validation.
    known: with "place" the place of the request is read, else that of the user's last event; with "time" its
    hour, else that of the last event.
    ConfigError for levels that do not ascend or are out of range, and for a strength that is not above 0.
    """

    levels: tuple[int, ...] = (11, 12, 13, 14, 15, 16)
    cell: float = 1.0
    day: float = 10.0
    week: float = 30.0
    known: tuple[str, ...] = ()

    uses = ("time", "place")

    def __post_init__(self) -> None:
        if not self.levels or list(self.levels) != sorted(set(self.levels)):
            raise ConfigError(f"levels={self.levels} must be at least one, ascending")
        if not 0 <= self.levels[0] <= self.levels[-1] <= cells.FINEST:
            raise ConfigError(f"levels={self.levels} must be from 0 to {cells.FINEST}")
        check(self, positive=("cell", "day", "week"))

    def fit(self, dataset: Dataset) -> Scorer:
        """Count the training events by cell, hour and item. ConfigError where none has a place."""
        rows, count = dataset.train_rows, item_counts(dataset)
        place = places(dataset, rows)
        if np.isnan(place[:, 0]).all():
            raise ConfigError(
                f"PopularHere needs places, and no training event of {dataset.store.path} has one: prepare "
                "the log with latitude and longitude, or use PopularInHourOfWeek"
            )
        popular = (count / count.sum()).astype(np.float32)
        items, size = dataset.items(rows), dataset.schema.items
        contexts = self._contexts(place, hour_of_week(local_time(dataset, rows)))
        counted = [Counted.of(key, items, size) for key in contexts]
        strengths = [self.cell] * len(self.levels) + [self.day, self.week]

        def score(query: Query, rows: np.ndarray) -> np.ndarray:
            scores = np.tile(popular, (len(rows), 1))
            contexts = self._contexts(_here(dataset, query, rows), hour_of_week(now(dataset, query, rows)))
            for counts, key, strength in zip(counted, contexts, strengths, strict=True):
                back_off(scores, *counts.pairs.of_left(counts.position(key)), strength)
            return scores

        return Scorer("Popular here", self.known, score)

    def _contexts(self, place: np.ndarray, hour: np.ndarray) -> list[np.ndarray]:
        """Keys of the contexts of events, int64 (N,) each, from the outside in; NOWHERE without a place."""
        unknown = np.isnan(place).any(axis=1)
        known = jnp.where(unknown.reshape(-1, 1), 0, place)
        key = np.asarray(cells.quadkey(known, self.levels[-1])).astype(np.int64)
        found = [key >> 2 * (self.levels[-1] - level) for level in self.levels]
        found += [key * HOURS_OF_DAY + hour % HOURS_OF_DAY, key * HOURS_OF_WEEK + hour]
        return [np.where(unknown, NOWHERE, context) for context in found]


@dataclass(frozen=True)
class Counted:
    """Items by context. keys: of the contexts that occur, ascending, int64 (C,).

    pairs: (position in keys, item).
    """

    keys: np.ndarray
    pairs: PairCounts

    @classmethod
    def of(cls, key: np.ndarray, item: np.ndarray, items: int) -> Counted:
        """Count events, all but those NOWHERE."""
        there = key != NOWHERE
        keys, position = np.unique(key[there], return_inverse=True)
        return cls(keys, PairCounts.of(position, item[there], items))

    def position(self, key: np.ndarray) -> np.ndarray:
        """Where each context is in `keys`; -1, of which there is no pair, where it does not occur."""
        at = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        return np.where(self.keys[at] == key, at, -1)


def places(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Where the events of store rows were, else where their items are: float32 (N, 2), NaN where unknown."""
    of_item: Any = dataset.catalogue.place[dataset.items(rows)]
    if "place" not in dataset.store.columns:
        return of_item
    own = dataset.store.columns["place"][rows]
    return np.where(np.isnan(own).any(axis=1, keepdims=True), of_item, own)


def _here(dataset: Dataset, query: Query, rows: np.ndarray) -> np.ndarray:
    """The place of the request (B, 2): the query's if known, else the last event's."""
    if query.place is not None:
        return np.asarray(query.place)
    return places(dataset, np.maximum(dataset.history(rows).last, 0))
