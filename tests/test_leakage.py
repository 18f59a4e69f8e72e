"""What a sceptic asks first: no score knows anything of what comes after its request.

Logs go the whole way, from a table of events through `prepare`, a protocol and the questions of a part to
the scores of a model and of every baseline.
"""

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
from stjax.data.pipeline import Batches
from stjax.data.prepare import prepare
from stjax.data.protocols import TEST, TRAIN, VALID, GlobalTemporal, LeaveOneOut
from stjax.data.store import EventStore
from stjax.evaluation import evaluate
from stjax.events import FIRST, Events, Query
from stjax.metrics import metric
from stjax.nn import (
    GRU,
    Auxiliary,
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
from stjax.training import Batching, Evaluation, Experiment, Optimizer, Training
from stjax.training.report import ModelScorer, make_scores
from stjax.training.setup import Setup
from tests.library import ENCODERS, FUSIONS, INTERESTS
from tests.models import random_batch, random_parameters
from tests.models import run as compiled
from tests.random_events import SCHEMA

USERS, ITEMS, EVENTS, SCENES = 13, 19, 397, 5
WINDOW, BLOCK = 17, 32
DAY = 86_400
START = 1_325_376_000  # 2012-01-01
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


def assert_same(scorer: Any, before: Dataset, after: Dataset, part: int, rows: list[int]) -> None:
    one, two = (scores(scorer.fit(dataset), dataset, part) for dataset in (before, after))
    asked = [row for row in rows if row in one]
    assert len(asked) > 5
    for row in asked:  # those whose new item is unknown are no longer asked for
        if row in two:
            np.testing.assert_array_equal(one[row], two[row])
    assert sum(row in two for row in asked) > 5


Pair = tuple[Dataset, Dataset, list[int]]
PROTOCOLS = {"temporal": GlobalTemporal(0.25, 0.25), "leave-one-out": LeaveOneOut()}


@dataclass(frozen=True)
class Peeking:
    """It counts all that its users ever did: what the tests below must find out."""

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


@pytest.fixture(scope="module", params=PROTOCOLS.items(), ids=lambda item: item[0])
def later(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A log, the same with all held-out rows altered after a validation target of each user, the targets."""
    name, protocol = request.param
    folder, log = tmp_path_factory.mktemp("later"), make_log(1)
    before, rows = opened(log, folder / "before", protocol), log_rows(log)
    part, user = before.split.label, before.store.user_of(np.arange(len(log)))
    targets = before.targets(VALID)
    _, first = np.unique(user[targets], return_index=True)
    targets = targets[first]
    after = np.full(before.store.users, len(log))
    after[user[targets]] = targets
    which = np.flatnonzero((np.arange(len(log)) > after[user]) & (part != TRAIN))
    assert len(which) > len(targets) - 1 > 5
    wild = name == "temporal"  # else an item's first place in the log may be of a held-out row
    changed = opened(altered(log, rows[which], wild=wild), folder / "after", protocol)
    np.testing.assert_array_equal(changed.split.label, part)
    return before, changed, targets.tolist()


@every_scorer
def test_what_comes_after_the_target_changes_no_score(scorer: Any, later: Pair) -> None:
    before, after, targets = later
    assert_same(scorer, before, after, VALID, targets)


def test_one_that_looks_ahead_is_found(later: Pair, target_itself: Pair) -> None:
    for before, after, targets in (later, target_itself):
        with pytest.raises(AssertionError, match="not equal"):
            assert_same(Peeking(), before, after, VALID if (before, after) == later[:2] else TEST, targets)


def last_targets(dataset: Dataset) -> np.ndarray:
    """The test targets that are the last rows of their users: no other target reads them."""
    return dataset.targets(TEST)[np.isin(dataset.targets(TEST), dataset.store.offsets[1:] - 1)]


def with_other_targets(folder: Path, time: bool) -> Pair:
    log = make_log(2)
    before, rows = opened(log, folder / "before", PROTOCOLS["temporal"]), log_rows(log)
    which = last_targets(before)
    changed = opened(altered(log, rows[which], time=time), folder / "after", PROTOCOLS["temporal"])
    np.testing.assert_array_equal(changed.split.label, before.split.label)
    return before, changed, which.tolist()


@pytest.fixture(scope="module")
def target_itself(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A log, the same with all of some targets altered, these."""
    return with_other_targets(tmp_path_factory.mktemp("target"), time=True)


@pytest.fixture(scope="module")
def but_for_its_time(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A log, the same with some targets altered in all but user and time, these."""
    return with_other_targets(tmp_path_factory.mktemp("but-time"), time=False)


@every_scorer
def test_nothing_of_the_target_is_read_but_what_is_declared(
    scorer: Any, target_itself: Pair, but_for_its_time: Pair
) -> None:
    reads_time = "time" in getattr(scorer, "known", ())
    before, after, targets = but_for_its_time if reads_time else target_itself
    assert_same(scorer, before, after, TEST, targets)
    if reads_time:  # declared, and so it is read
        with pytest.raises(AssertionError, match="not equal"):
            assert_same(scorer, *target_itself[:2], TEST, targets)


@pytest.fixture(scope="module", params=PROTOCOLS.items(), ids=lambda item: item[0])
def held_out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A log, the same with every row altered that does not train, the rows that train."""
    name, protocol = request.param
    folder, log = tmp_path_factory.mktemp("held-out"), make_log(3)
    before = opened(log, folder / "before", protocol)
    which = log_rows(log)[before.split.label != TRAIN]
    after = opened(altered(log, which, wild=name == "temporal"), folder / "after", protocol)
    np.testing.assert_array_equal(after.split.label, before.split.label)
    return before, after, before.train_rows.tolist()


def texts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """The ids of all texts that training has seen, by vocabulary."""
    words = {name: dataset.store.vocabulary(name).to_list() for name in dataset.remap}
    return {
        name: {text: int(k) for text, k in zip(words[name], ids[FIRST:], strict=True) if k >= FIRST}
        for name, ids in dataset.remap.items()
    }


def test_vocabularies_catalogue_and_batches_come_from_training_alone(held_out: Pair) -> None:
    before, after, _ = held_out
    assert before.store.fingerprint != after.store.fingerprint
    assert "new19" in after.store.vocabulary("item").to_list()  # and not in training:
    assert after.schema == before.schema
    assert texts(after) == texts(before)
    assert set(texts(before)) == {"item", "user", "scene", "category"}
    jax.tree.map(np.testing.assert_array_equal, after.catalogue, before.catalogue)
    ours, theirs = (Batches(d, length=WINDOW, batch_size=3, overlap=2, seed=5) for d in (before, after))
    assert ours.per_epoch == theirs.per_epoch > 5
    for k in range(2 * ours.per_epoch):
        jax.tree.map(np.testing.assert_array_equal, ours[k], theirs[k])


@every_scorer
def test_what_is_counted_comes_from_training_alone(scorer: Any, held_out: Pair) -> None:
    """Asked at the rows of training, whose histories are the same."""
    before, after, rows = held_out
    rows = np.asarray([row for row in rows if row not in before.store.offsets][:BLOCK])
    found = []
    for dataset in (before, after):
        target = dataset.gather(rows[:, None], np.ones((len(rows), 1), bool))[:, 0]
        history = dataset.read(dataset.history(rows), WINDOW)
        fitted = scorer.fit(dataset)
        found.append(np.asarray(fitted(history, Query.of(target, fitted.known), rows)))
    np.testing.assert_array_equal(*found)
    assert len(np.unique(found[0][:, FIRST:])) > 3


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


def surprise(fitted: Any, dataset: Dataset, name: str) -> float:
    """How many standard errors a metric lies above chance: what the scores would get on average, if each
    target were any of the items, independently of all else. Exact, whatever ties the scores have.
    """
    total = chance = variance = 0.0
    ranks, found = {}, scores(fitted, dataset, TEST)
    for row, own in found.items():
        every = (own[:, None] <= own).sum(axis=1)  # the rank of each candidate, ties against it
        values = np.asarray(metric(name, every), np.float64)
        ranks[row] = every[int(dataset.items(row)) - FIRST]
        total += float(np.asarray(metric(name, ranks[row]), np.float64))
        chance, variance = chance + values.mean(), variance + values.var()
    report = evaluate(fitted, dataset, TEST, length=WINDOW, block=BLOCK)
    assert [ranks[row] for row in report.row.tolist()] == report.rank.tolist()
    assert len(ranks) > 300
    return (total - chance) / variance**0.5 if variance else 0.0


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
    for name in ("MRR", "HR@5"):
        assert abs(surprise(fitted, coins, name)) < 4


def test_what_can_be_learned_is_foretold_above_chance(tmp_path: Path, coins: Dataset) -> None:
    """So the test before can fail: items that some choose more often, and a look at the future."""
    uneven = opened(make_log(4, 1801), tmp_path / "store", PROTOCOLS["temporal"])
    for scorer in (Trained(), baselines.MostPopular()):
        assert surprise(scorer.fit(uneven), uneven, "MRR") > 4
    assert surprise(Peeking().fit(coins), coins, "MRR") > 4


def unpadded(events: Events, seed: int) -> Events:
    """Every event there, its item known."""
    random, shape = np.random.default_rng(seed), events.item.shape
    return events.replace(
        valid=np.ones(shape, bool),
        item=random.integers(FIRST, SCHEMA.items, shape).astype(np.int32),
        time=np.cumsum(random.integers(60, DAY, shape), axis=1).astype(np.int32),
    )


@pytest.mark.parametrize(
    ("encoders", "fusion", "interest"),
    [
        (tuple(ENCODERS), "concat", "hstu-bias"),
        (("home", "context", "profile"), "convolution", "gru-gated"),
        (("counts", "rhythm"), "hyper", "state-space"),
    ],
)
def test_the_loss_of_a_position_knows_nothing_after_its_target(
    encoders: tuple[str, ...], fusion: str, interest: str
) -> None:
    """Position l reads events 0..l and foretells event l + 1; what lies beyond is altered in every field."""
    length = 7
    batch, catalogue = random_batch(3, length, seed=1)
    events, others = (unpadded(random_batch(3, length, seed)[0].events, seed) for seed in (1, 2))
    ours = Recommender(
        items=ItemEmbed(8),
        encoders={name: ENCODERS[name] for name in encoders},
        fusion=FUSIONS[fusion],
        interest=INTERESTS[interest],
        head=Retrieval(
            known=("time",),
            pointer=Pointer(window=length),
            distance=Distance(),
            auxiliary=(Auxiliary("category"),),
        ),
    )
    params = random_parameters(ours, batch, catalogue, method="loss")

    def loss(position: int, altered_from: int) -> float:
        """Of one position, where the events from a number on are those of another batch."""

        def mixed(mine: Any, theirs: Any) -> Any:
            return np.concatenate([mine[:, :altered_from], theirs[:, altered_from:]], axis=1)

        weight = np.zeros((3, length), np.float32)
        weight[:, position] = 1.0
        asked = dataclasses.replace(batch, events=jax.tree.map(mixed, events, others), weight=weight)
        return float(compiled(ours, params, asked, catalogue, method="loss")[0])

    for position in range(length):
        untouched = loss(position, length + 1)
        assert loss(position, position + 2) == pytest.approx(untouched, rel=1e-6)
        assert abs(loss(position, position + 1) - untouched) > 1e-3  # the target itself
        assert abs(loss(position, position) - untouched) > 1e-3
