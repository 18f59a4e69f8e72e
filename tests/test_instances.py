"""Pointwise evaluation: negatives against a plain loop, scores of the same instances, paired differences."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from stjax.data.dataset import Dataset
from stjax.data.protocols import TEST, VALID, ProtocolError, RandomSplit
from stjax.data.store import EventStore
from stjax.errors import ConfigError, UserError
from stjax.evaluation.instances import evaluate_instances, negatives, paired_instances
from stjax.events import FIRST, Events, Query
from stjax.nn import Choice, ConcatFusion, ItemEmbed, Mean, Ranking, Recommender, Retrieval
from stjax.training import Batching, Evaluation, Experiment, Optimizer, Training, run
from stjax.training.config import Command
from stjax.training.setup import Setup
from tests.stores import make_store

USERS, ITEMS, EVENTS = 13, 19, 307


def make_dataset(path: Path, seed: int = 0) -> Dataset:
    random = np.random.default_rng(seed)
    store = make_store(
        path,
        users=random.integers(USERS, size=EVENTS).tolist(),
        items=(ITEMS * random.random(EVENTS) ** 2).astype(int).tolist(),
        times=[0] * EVENTS,
        event={name: random.integers(2, size=EVENTS).astype(str).tolist() for name in ("scene", "device")},
    )
    return Dataset(store, RandomSplit(valid=0.2, test=0.3)(store))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("log") / "store")


@dataclasses.dataclass(frozen=True)
class Known:
    """Logits from a table of (item, scene); it may read the scene, and nothing else reaches it."""

    table: np.ndarray
    known: tuple[str, ...] = ("scene",)
    name: str = "known"

    def rank(self, history: Events, query: Query, candidates: np.ndarray) -> np.ndarray:
        assert list(query.categorical) == ["scene"] and query.time is None
        return self.table[candidates, query.categorical["scene"][:, None]]


@dataclasses.dataclass(frozen=True)
class Popular:
    """Scores of the whole catalogue."""

    scores: np.ndarray
    known: tuple[str, ...] = ()
    name: str = "popular"

    def __call__(self, history: Events, query: Query, rows: np.ndarray) -> np.ndarray:
        return np.tile(self.scores, (len(rows), 1))


def table(dataset: Dataset, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(dataset.schema.items, dataset.schema["scene"].size))


@pytest.mark.parametrize("part", [VALID, TEST])
def test_negatives_are_items_not_chosen_in_that_context_anywhere_in_the_log(
    dataset: Dataset, part: int
) -> None:
    rows = dataset.targets(part)
    drawn = negatives(dataset, rows, 7)
    columns, items = dataset.store.columns, dataset.items(slice(None))
    names = ("user", "scene", "device")
    for row, mine in zip(rows, drawn, strict=True):
        same = np.all([columns[name] == columns[name][row] for name in names], axis=0)
        assert not set(mine.tolist()) & set(items[same].tolist())
        assert ((mine >= FIRST) & (mine < dataset.schema.items)).all()
    # They are drawn from all others, also from those that the user has in another context.
    own = [items[columns["user"] == columns["user"][row]] for row in rows]
    assert any(np.isin(m, o).any() for m, o in zip(drawn, own, strict=True))
    assert len(np.unique(drawn)) > ITEMS - 4
    np.testing.assert_array_equal(negatives(dataset, rows, 7), drawn)
    assert (negatives(dataset, rows, 7, seed=1) != drawn).any()


def test_a_user_who_has_everything_has_no_negatives(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", users=[0] * 60, items=[k % 3 for k in range(60)], times=[0] * 60)
    with pytest.raises(ProtocolError, match="every item in one context"):
        negatives(Dataset(store, RandomSplit(0.2, 0.2)(store)), np.arange(5), 2)


def test_scores_are_of_each_target_and_its_own_negatives(dataset: Dataset) -> None:
    scorer = Known(table(dataset))
    report = evaluate_instances(scorer, dataset, TEST, count=3, block=17, length=11, buckets=(2, 5))
    rows, scene = (
        dataset.targets(TEST),
        dataset.gather(dataset.targets(TEST)[:, None], np.ones((len(report), 1), bool)),
    )
    expected = np.concatenate([dataset.items(rows)[:, None], negatives(dataset, rows, 3)], axis=1)
    expected = scorer.table[expected, scene.categorical["scene"]]
    np.testing.assert_array_equal(report.row, rows)
    np.testing.assert_array_equal(report.logit, expected)
    pairs = [(p > n) + 0.5 * (p == n) for p in expected[:, 0] for n in expected[:, 1:].ravel()]
    assert report.mean("AUC") == pytest.approx(np.mean(pairs))
    p = 1 / (1 + np.exp(-expected))
    p[:, 1:] = 1 - p[:, 1:]
    assert report.mean("logloss") == pytest.approx(-np.log(p).mean())
    some = evaluate_instances(scorer, dataset, TEST, count=3, limit=23, length=11)
    assert len(some) == 23
    np.testing.assert_array_equal(some.logit, report.logit[np.searchsorted(rows, some.row)])


def test_scores_without_probabilities_have_an_order_alone(dataset: Dataset) -> None:
    scores = np.bincount(dataset.items(dataset.train_rows), minlength=dataset.schema.items).astype("f4")
    report = evaluate_instances(Popular(scores), dataset, VALID, count=2)
    assert list(report.summary()) == ["AUC"] and report.mean("AUC") > 0.6  # skewed popularity
    # A scorer that knows nothing is at one half, exactly.
    flat = evaluate_instances(Popular(np.zeros_like(scores)), dataset, VALID, count=2)
    assert flat.mean("AUC") == 0.5


def test_errors_and_paired_differences_are_over_users(dataset: Dataset) -> None:
    good, other = (Known(table(dataset, seed)) for seed in (0, 1))
    reports = [evaluate_instances(s, dataset, TEST, count=2) for s in (good, other)]
    for name in ("AUC", "logloss"):
        d = paired_instances(reports[0], reports[1], name)
        assert d.mean == pytest.approx(reports[0].mean(name) - reports[1].mean(name))
        assert d.standard_error and d.low is not None and d.high is not None and d.low < d.mean < d.high
        same = paired_instances(reports[0], reports[0], name)
        assert (same.mean, same.standard_error) == (0.0, 0.0)
    with pytest.raises(ValueError, match="not the same instances"):
        paired_instances(reports[0], evaluate_instances(good, dataset, VALID, count=2), "AUC")
    with pytest.raises(ValueError, match="not the same instances"):
        paired_instances(reports[0], evaluate_instances(good, dataset, TEST, count=2, seed=1), "AUC")


def test_nan_scores_are_refused(dataset: Dataset) -> None:
    scores = np.ones(dataset.schema.items, "f4")
    scores[dataset.items(dataset.targets(VALID))[0]] = np.nan  # would sort above all else
    with pytest.raises(UserError, match=r"popular gave NaN scores for \d+ of \d+ targets"):
        evaluate_instances(Popular(scores), dataset, VALID, count=2)


def test_a_report_is_json(dataset: Dataset) -> None:
    report: Any = evaluate_instances(Known(table(dataset)), dataset, TEST, count=2).as_dict()
    assert report["targets"] == len(dataset.targets(TEST)) and report["negatives"] == 2
    assert set(report["metrics"]) == {"AUC", "logloss"}
    assert report["metrics"]["AUC"]["standard_error"] > 0


@dataclasses.dataclass(frozen=True)
class Log:
    """Each user has three items of his own, without times."""

    folder: Path

    def open(self) -> EventStore:
        path = self.folder / "log"
        if not path.exists():
            random = np.random.default_rng(0)
            users = random.integers(USERS, size=EVENTS)
            items = (users + random.integers(3, size=EVENTS)) % ITEMS
            scenes = random.integers(2, size=EVENTS).astype(str).tolist()
            make_store(path, users.tolist(), items.tolist(), [0] * EVENTS, event={"scene": scenes})
        return EventStore.open(path)


def experiment(folder: Path) -> Experiment:
    return Experiment(
        name="odds",
        source=Log(folder),
        protocol=RandomSplit(valid=0.2, test=0.2),
        model=Recommender(
            items=ItemEmbed(5),
            encoders={},
            fusion=ConcatFusion(8),
            interest=Mean(),
            head=Retrieval(known=("scene",)),
            ranking=Ranking((Choice(negatives=3),), hidden=8, memory=11),
            ordered=False,
        ),
        batching=Batching(length=31, batch_size=5),
        optimizer=Optimizer(learning_rate=0.02, warmup_steps=3),
        training=Training(epochs=8, eval_every=4),
        evaluation=Evaluation(negatives=2, select="AUC", length=31, block=64),
    )


def test_a_run_trains_selects_and_reports_by_instances(tmp_path: Path) -> None:
    out = io.StringIO()
    command = Command(experiment(tmp_path), tmp_path / "run", config=Path(__file__))
    result = run(command, Console(file=out, width=200))
    assert result["best"]["metric"] == "AUC" and result["test"]["negatives"] == 2
    metrics = result["test"]["metrics"]
    assert metrics["AUC"]["mean"] > 0.9  # three items of nineteen
    assert metrics["logloss"]["mean"] < 0.5 < -np.log(1 / 3)
    assert result["protocol"]["name"].startswith("random-split")
    assert all(set(b["metrics"]) == {"AUC"} for b in result["baselines"])
    assert {d["metric"] for d in result["differences"]} == {"AUC"}  # baselines give no odds
    assert result["difference"] in result["differences"]
    assert "logloss" in out.getvalue() and json.loads((tmp_path / "run" / "result.json").read_text())


def test_odds_without_a_choice_are_refused(tmp_path: Path) -> None:
    plain = experiment(tmp_path)
    with pytest.raises(ConfigError, match=r"evaluation\.negatives asks for the odds"):
        Setup.of(dataclasses.replace(plain, model=plain.model.clone(ranking=None)))
    with pytest.raises(ConfigError, match=r"evaluation\.select 'MRR' must be one of AUC"):
        Evaluation(negatives=2)
