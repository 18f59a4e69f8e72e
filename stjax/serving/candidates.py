"""Candidates from a baseline, which the model then ranks: item neighbours, or factors of a matrix."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

import numpy as np

from stjax.baselines import IALS, ItemKNN
from stjax.baselines.counts import popularity_levels, training_counts
from stjax.baselines.knn import similarities
from stjax.data.dataset import Dataset
from stjax.events import FIRST


class Source(Protocol):
    """Scores all items that training has seen by the ids of a user's items: float32 (V,)."""

    def __call__(self, seen: Collection[int]) -> np.ndarray: ...


class Neighbours:
    """Sum of the similarities to the user's items, each of one weight; without any, popularity.

    It is `ItemKNN` without decay: a half-life of the settings is not read.
    """

    def __init__(self, dataset: Dataset, settings: ItemKNN | None = None) -> None:
        settings = settings or ItemKNN()
        level = popularity_levels(dataset)
        self._near: Any = similarities(dataset, settings.neighbours, settings.shrinkage, level)
        self._popular = (level / (level.max() + 1.0) - 1.0).astype(np.float32)

    def __call__(self, seen: Collection[int]) -> np.ndarray:
        rows = [v for v in seen if v < self._near.shape[0]]  # none of a new item
        scores = np.asarray(self._near[rows].sum(axis=0), np.float32).ravel()
        return np.where(scores > 0, scores, self._popular)


class Factors:
    """Inner products of item factors with the user's, which are solved for the items at hand.

    It is `IALS` with each of the user's items counted once.
    """

    def __init__(self, dataset: Dataset, settings: IALS | None = None) -> None:
        self._settings = settings or IALS()
        pairs = training_counts(dataset)
        factors = self._settings.factorise(*pairs.coordinates, (dataset.store.users, pairs.width))[1]
        self._items = np.asarray(factors, np.float32)
        self._system = self._items.T @ self._items
        self._system += self._settings.regularisation * np.eye(self._settings.factors, dtype=np.float32)

    def __call__(self, seen: Collection[int]) -> np.ndarray:
        own = self._items[[v for v in seen if v < len(self._items)]]
        alpha = self._settings.alpha
        user = np.linalg.solve(self._system + alpha * own.T @ own, (1 + alpha) * own.sum(axis=0))
        return self._items @ user


def best(scores: np.ndarray, allowed: np.ndarray | None, count: int) -> np.ndarray:
    """Ids of the `count` best, or fewer where fewer are allowed, bool (V,) or None for all."""
    scores = np.array(scores, np.float32)
    scores[:FIRST] = -np.inf
    if allowed is not None:
        scores[~allowed[: len(scores)]] = -np.inf
    count = min(count, int(np.isfinite(scores).sum()))
    if count == 0:
        return np.zeros(0, np.int64)
    return np.argpartition(-scores, count - 1)[:count]
