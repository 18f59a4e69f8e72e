"""What tests of leakage share: logs, the same logs altered, and the model and baselines that are asked."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest

from stjax import baselines
from stjax.data.dataset import Dataset
from stjax.data.log import LogColumns
from stjax.data.prepare import prepare
from stjax.data.protocols import VALID, GlobalTemporal, LeaveOneOut
from stjax.events import FIRST, Query
from stjax.nn import (
    GRU,
    ConcatFusion,
    ContextEmbed,
    Distance,
    ItemEmbed,
    Pointer,
    ProfileEmbed,
    Recommender,
    Retrieval,
    SpaceEmbed,
    TimeEmbed,
)
from stjax.training.report import ModelScorer, make_scores
from tests.models import random_parameters

USERS, ITEMS, EVENTS, SCENES = 13, 19, 397, 5
WINDOW, BLOCK = 17, 32
DAY = 86_400
START = 1_325_376_000  # 2012-01-01
PROTOCOLS = {"temporal": GlobalTemporal(0.25, 0.25), "leave-one-out": LeaveOneOut()}
SPOTS = np.random.default_rng(7).uniform([40.6, -74.1], [40.8, -73.9], (ITEMS, 2)).round(4)
TABLE = pl.DataFrame(
    {
        "item": [f"i{k:02}" for k in range(ITEMS)],
        "category": [f"c{k % 4}" for k in range(ITEMS)],
        "price": [k / 3 for k in range(ITEMS)],
    }
)
COLUMNS = LogColumns(
    utc_offset="utc_offset",
    latitude="latitude",
    longitude="longitude",
    categorical=("scene",),
    numeric=("mood",),
    item_categorical=("category",),
    item_numeric=("price",),
)


def make_log(seed: int, events: int = EVENTS, even: bool = False) -> pl.DataFrame:
    """Events in order of time. even: all items are as likely, whatever came before."""
    random = np.random.default_rng(seed)
    item = (ITEMS * random.random(events) ** (1 if even else 2)).astype(int)
    return pl.DataFrame(
        {
            "user": [f"u{k:02}" for k in random.integers(USERS, size=events)],
            "item": [f"i{k:02}" for k in item],
            "time": START + np.cumsum(random.integers(60, DAY // 4, events)),
            "utc_offset": random.choice([-18_000, 0, 7200], events),
            "latitude": SPOTS[item, 0],
            "longitude": SPOTS[item, 1],
            "scene": [f"s{k}" for k in random.integers(SCENES, size=events)],
            "mood": random.normal(size=events),
        }
    )


def opened(log: pl.DataFrame, path: Path, protocol: Any) -> Dataset:
    store = prepare(log, COLUMNS, path, items=TABLE, keep_duplicates=True)
    return Dataset(store, protocol(store))


def log_rows(log: pl.DataFrame) -> np.ndarray:
    """The row of the log behind each row of its store."""
    return log.with_row_index().sort("user", "time", maintain_order=True)["index"].to_numpy()


def altered(log: pl.DataFrame, which: np.ndarray, *, time: bool = True, wild: bool = True) -> pl.DataFrame:
    """The log with everything else at the rows `which`, but for the user; items and scenes may be new.

    time: later times too, up to that of the next row, so that every row keeps its part. wild: places are
    anywhere, else those of the new items.
    """
    random, n = np.random.default_rng(11), len(which)
    gap = np.diff(log["time"].to_numpy(), append=log["time"][-1] + 30 * DAY)
    item = random.integers(ITEMS + 5, size=n)
    spots = np.concatenate([SPOTS, SPOTS[:5] + 0.01])[item]
    if wild:
        spots = random.uniform([-80, -170], [80, 170], (n, 2))
    new = {
        "item": [f"{'i' if k < ITEMS else 'new'}{k:02}" for k in item],
        "latitude": spots[:, 0],
        "longitude": spots[:, 1],
        "scene": [f"s{k}" if k else "never seen" for k in random.integers(SCENES, size=n)],
        "mood": 100 + random.normal(size=n),
    }
    if time:
        new["time"] = log["time"].to_numpy()[which] + random.integers(1, gap[which])
        new["utc_offset"] = random.choice([-36_000, 3600], n)
    values = {name: log[name].to_list() for name in new}
    for name, column in new.items():
        for at, value in zip(which.tolist(), column, strict=True):
            values[name][at] = value
    return log.with_columns(pl.Series(name, v, dtype=log[name].dtype) for name, v in values.items())


@functools.cache
def model(known: tuple[str, ...]) -> Recommender:
    """One that reads all there is: time, place, scene, mood, kinds of items, its user's past."""
    return Recommender(
        items=ItemEmbed(8),
        encoders={
            "time": TimeEmbed(5),
            "space": SpaceEmbed(5, scales=3),
            "context": ContextEmbed(4),
            "profile": ProfileEmbed(3),
        },
        fusion=ConcatFusion(8),
        interest=GRU(),
        head=Retrieval(known=known, pointer=Pointer(window=WINDOW), distance=Distance()),
    )


scores_of_model = functools.cache(make_scores)


@dataclass(frozen=True)
class Random:
    """The model with parameters drawn at random: none of its parts has learned to keep silent."""

    known: tuple[str, ...] = ()

    def fit(self, dataset: Dataset) -> ModelScorer:
        ours, catalogue = model(self.known), jax.tree.map(np.asarray, dataset.catalogue)
        question = next(dataset.questions(VALID, WINDOW, BLOCK))
        query = Query.of(question.target, self.known)
        params = random_parameters(ours, question.history, query, catalogue, method="scores")["params"]
        return ModelScorer("model", self.known, scores_of_model(ours), params, catalogue)


def label(scorer: Any) -> str:
    """Of a test: the scorer and what it reads of the target."""
    return "-".join((type(scorer).__name__, *getattr(scorer, "known", ())))


CLASSES = typing.get_args(baselines.Baseline)
SCORERS = [Random(), Random(("time",)), *(cls() for cls in CLASSES)]
SCORERS += [
    cls(known=("time",)) for cls in CLASSES if any(f.name == "known" for f in dataclasses.fields(cls))
]
every_scorer = pytest.mark.parametrize("scorer", SCORERS, ids=label)


def scores(fitted: Any, dataset: Dataset, part: int) -> dict[int, np.ndarray]:
    """Scores (V,) of the candidates by the row of the target, as the evaluator asks for them."""
    found = {}
    for question in dataset.questions(part, WINDOW, BLOCK):
        query = Query.of(question.target, fitted.known)
        block = np.asarray(fitted(question.history, query, question.row))[:, FIRST:]
        found |= dict(zip(question.row[question.real].tolist(), block[question.real], strict=True))
    return found


@dataclass(frozen=True)
class Peeking:
    """It counts all that its users ever did: what the tests must find out."""

    def fit(self, dataset: Dataset) -> Any:
        def score(history: Any, query: Query, rows: np.ndarray) -> np.ndarray:
            user, size = dataset.store.user_of(rows), dataset.schema.items
            offsets = dataset.store.offsets
            each = [np.bincount(dataset.items(slice(*offsets[u : u + 2])), minlength=size) for u in user]
            return np.stack(each).astype(np.float32)

        return _Named(score)


@dataclass(frozen=True)
class _Named:
    score: Callable[..., np.ndarray]
    known: tuple[str, ...] = ()

    def __call__(self, *arguments: Any) -> np.ndarray:
        return self.score(*arguments)
