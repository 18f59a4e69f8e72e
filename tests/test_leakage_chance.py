"""Items drawn at random are foretold at chance by every scorer, trained or counted, and no better."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stjax import baselines
from stjax.data.dataset import Dataset
from stjax.data.protocols import TEST
from stjax.data.store import EventStore
from stjax.evaluation import evaluate
from stjax.events import FIRST
from stjax.metrics import metric
from stjax.nn import GRU, ConcatFusion, ContextEmbed, ItemEmbed, Pointer, Recommender, Retrieval
from stjax.training import Batching, Evaluation, Experiment, Optimizer, Training
from stjax.training.report import ModelScorer
from stjax.training.setup import Setup
from tests.leaks import BLOCK, ITEMS, PROTOCOLS, SCORERS, WINDOW, Peeking, label, make_log, opened, scores


@dataclass(frozen=True)
class Opened:
    """A source whose store is there."""

    path: Path

    def open(self) -> EventStore:
        return EventStore.open(self.path)


@dataclass(frozen=True)
class Trained:
    """A smaller model after some epochs."""

    known: tuple[str, ...] = ("time",)

    def fit(self, dataset: Dataset) -> ModelScorer:
        head = Retrieval(known=self.known, pointer=Pointer(window=WINDOW))
        experiment = Experiment(
            "trained",
            Opened(dataset.store.path),
            PROTOCOLS["temporal"],
            Recommender(ItemEmbed(8), {"context": ContextEmbed(3)}, ConcatFusion(8), GRU(), head),
            Batching(length=WINDOW, batch_size=8),
            Optimizer(learning_rate=0.02, warmup_steps=3),
            Training(epochs=4),
            Evaluation(length=WINDOW, block=BLOCK),
        )
        setup = Setup.of(experiment)
        state = setup.initial()
        for k in range(setup.total_steps):
            state, _ = setup.step(setup.key, state, setup.batches[k], setup.catalogue)
        return setup.scorer(state)


def surprise(fitted: Any, dataset: Dataset) -> dict[str, float]:
    """How many standard errors a metric lies above chance: what the scores would get on average, if each
    target were any of the items, independently of all else. Exact, whatever ties the scores have.
    """
    rows, found = zip(*scores(fitted, dataset, TEST).items(), strict=True)
    own = np.stack(found)
    every = (own[:, :, None] <= own[:, None]).sum(axis=2)  # the rank of each candidate, ties against it
    rank = every[np.arange(len(rows)), dataset.items(np.asarray(rows)) - FIRST]
    report = evaluate(fitted, dataset, TEST, length=WINDOW, block=BLOCK)
    assert dict(zip(rows, rank.tolist(), strict=True)) == dict(
        zip(report.row.tolist(), report.rank.tolist(), strict=True)
    )
    assert len(rank) > 300
    above = {}
    for name in ("MRR", "HR@5"):
        values = np.asarray(metric(name, every), np.float64)
        total = np.asarray(metric(name, rank), np.float64).sum()
        variance = values.var(axis=1).sum()
        above[name] = float((total - values.mean(axis=1).sum()) / variance**0.5) if variance else 0.0
    return above


@pytest.fixture(scope="module")
def coins(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A log whose items are drawn uniformly at random, independently of all else."""
    dataset = opened(
        make_log(4, 1801, even=True), tmp_path_factory.mktemp("coins") / "store", PROTOCOLS["temporal"]
    )
    assert dataset.schema.items - FIRST == ITEMS  # all are candidates
    return dataset


@pytest.mark.parametrize(
    "scorer",
    [Trained(), *SCORERS[2:]],
    ids=label,
)
def test_labels_at_random_are_foretold_at_chance(scorer: Any, coins: Dataset) -> None:
    fitted = scorer.fit(coins)
    assert max(map(abs, surprise(fitted, coins).values())) < 4


def test_what_can_be_learned_is_foretold_above_chance(tmp_path: Path, coins: Dataset) -> None:
    """So the test before can fail: items that some choose more often, and a look at the future."""
    uneven = opened(make_log(4, 1801), tmp_path / "store", PROTOCOLS["temporal"])
    for scorer in (Trained(), baselines.MostPopular()):
        assert surprise(scorer.fit(uneven), uneven)["MRR"] > 4
    assert surprise(Peeking().fit(coins), coins)["MRR"] > 4
