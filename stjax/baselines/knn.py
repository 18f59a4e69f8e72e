"""Item-based collaborative filtering: items like those that the user had, the recent ones first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from stjax.baselines.checks import check
from stjax.baselines.counts import popularity_levels
from stjax.baselines.scorer import Scorer
from stjax.data.dataset import Dataset
from stjax.errors import ConfigError
from stjax.events import FIRST, Query

DAY = 86_400
BLOCK = 1 << 11  # items whose similarities to all others are held at once


@dataclass(frozen=True)
class ItemKNN:
    """Score of item v: sum over the user's distinct items i of 2^(-age_i / half_life) · s(i, v).

        s(i, v) = c_iv / (sqrt(c_i c_v) + shrinkage)

    c_iv users of the training part had both, c_i had i: the cosine of the items' 0-1 columns (Sarwar et
    al., WWW 2001), damped by the shrinkage where few users support it. Of s only the `neighbours` largest
    of each i count, ties by popularity. age_i: days from the user's latest event with i to the user's last
    event; the request's time is not read, it would scale all scores of a user alike. Items without a
    neighbour in the history follow by popularity, below 0; so does what only events of more than some 140
    half-lives ago speak for, whose weight is 0 in float32.

    neighbours: of each item. shrinkage: in users. half_life: in days, inf for none.
    ConfigError for fewer than one neighbour, a negative shrinkage or a half-life that is not above 0.
    """

    neighbours: int = 100
    shrinkage: float = 0.0
    half_life: float = math.inf

    known = ()

    def __post_init__(self) -> None:
        check(self, counts=("neighbours",), not_negative=("shrinkage",))
        if not self.half_life > 0:
            raise ConfigError(f"half_life={self.half_life} must be above 0 days; inf is none")

    def fit(self, dataset: Dataset) -> Scorer:
        """Count who had what in training; the user's own events are read at each request."""
        level = popularity_levels(dataset)
        near = similarities(dataset, self.neighbours, self.shrinkage, level)
        popular = (level / (level.max() + 1.0) - 1.0).astype(np.float32)
        time = dataset.store.columns["time"]

        def score(query: Query, rows: np.ndarray) -> np.ndarray:
            del query
            history = dataset.history(rows)
            latest = np.asarray(time[np.maximum(history.last, 0)], np.int64)
            age = latest[history.owner] - time[history.row]
            weight = 0.5 ** (age / (self.half_life * DAY))
            item = dataset.items(history.row)
            had: Any = latest_of_each(history.owner, item, weight, (len(rows), len(level)))
            scores = np.asarray((had @ near).toarray(), np.float32)
            return np.where(scores > 0, scores, popular)

        return Scorer("Item k nearest neighbours", (), score)


def interactions(dataset: Dataset) -> sparse.csr_array:
    """Who had what in the training part: (U, V) of ones, float32, one row per user of the store."""
    rows = dataset.train_rows
    pairs = dataset.store.user_of(rows), dataset.items(rows)
    shape = (dataset.store.users, dataset.schema.items)
    matrix = sparse.csr_array((np.ones(len(rows), np.float32), pairs), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def similarities(dataset: Dataset, neighbours: int, shrinkage: float, level: np.ndarray) -> sparse.csr_array:
    """The `neighbours` largest similarities of each item to the others: (V, V), no diagonal."""
    had: Any = interactions(dataset).tocsc()
    items = dataset.schema.items
    users = np.asarray(had.sum(axis=0)).ravel()
    item, other, value = [], [], []
    for start in range(0, items, BLOCK):
        both = sparse.coo_array(had[:, start : start + BLOCK].T @ had)
        left, right = both.row + start, both.col
        s = both.data / (np.sqrt(users[left] * users[right]) + shrinkage)
        apart = left != right
        left, right, s = left[apart], right[apart], s[apart]
        order = np.lexsort((right, -level[right], -s, left))
        left, right, s = left[order], right[order], s[order]
        rank = np.arange(len(left)) - np.searchsorted(left, left)
        keep = rank < neighbours
        item.append(left[keep])
        other.append(right[keep])
        value.append(s[keep])
    pairs = np.concatenate(item), np.concatenate(other)
    return sparse.csr_array((np.concatenate(value), pairs), shape=(items, items))


def latest_of_each(
    owner: np.ndarray, item: np.ndarray, weight: np.ndarray, shape: tuple[int, int]
) -> sparse.csr_array:
    """Histories (B, V) with the weight of each item's last event; events are in order of time."""
    known = item >= FIRST
    owner, item, weight = owner[known], item[known], weight[known]
    key = owner * shape[1] + item
    _, last = np.unique(key[::-1], return_index=True)
    last = len(key) - 1 - last
    return sparse.csr_array((weight[last].astype(np.float32), (owner[last], item[last])), shape=shape)
