"""Item-kNN and iALS against plain loops and NumPy; as candidate sources; as the model of a config."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from stjax.baselines import IALS, ItemKNN, MostPopular, progress
from stjax.data.dataset import Dataset
from stjax.data.protocols import TEST, TRAIN, LeaveOneOut
from stjax.errors import ConfigError
from stjax.evaluation import evaluate
from stjax.events import FIRST, Query
from stjax.ops import least_squares
from stjax.training import Command, Evaluation, run
from tests.configs.tiny import TinyLog, experiment
from tests.histories import readable
from tests.stores import make_store
from tests.test_baselines import PROTOCOLS, make_dataset, make_log, scores_of

DAY = 86_400


@pytest.fixture(scope="module", params=PROTOCOLS, ids=lambda protocol: protocol.name)
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("log") / "store", make_log(5), request.param)


def training_users(dataset: Dataset) -> list[set[int]]:
    """The distinct items of each user's training events."""
    had: dict[int, set[int]] = {u: set() for u in np.unique(dataset.store.columns["user"]).tolist()}
    for row in np.flatnonzero(dataset.split.label == TRAIN).tolist():
        had[int(dataset.store.columns["user"][row])].add(int(dataset.items(row)))
    return list(had.values())


@pytest.mark.parametrize("half_life", [math.inf, 3.0])
@pytest.mark.parametrize(("neighbours", "shrinkage"), [(100, 0.0), (3, 2.5)])
def test_item_knn(dataset: Dataset, neighbours: int, shrinkage: float, half_life: float) -> None:
    users, size = training_users(dataset), dataset.schema.items
    popularity = np.bincount(dataset.items(dataset.train_rows), minlength=size)
    similar = np.zeros((size, size))
    for i in range(FIRST, size):
        row = {}
        for v in range(FIRST, size):
            both = sum(i in had and v in had for had in users)
            alone = math.sqrt(sum(i in had for had in users) * sum(v in had for had in users))
            if v != i and both:
                row[v] = both / (alone + shrinkage)
        for v in sorted(row, key=lambda v: (-np.float32(row[v]), -popularity[v], v))[:neighbours]:
            similar[i, v] = row[v]
    rows, time = dataset.targets(TEST), dataset.store.columns["time"]
    scores = scores_of(ItemKNN(neighbours, shrinkage, half_life), dataset, rows)
    neither = 0
    for b, row in enumerate(rows.tolist()):
        reads = readable(dataset.store, dataset.split, row)
        weight = {
            int(dataset.items(r)): 0.5 ** ((int(time[reads[-1]]) - int(time[r])) / (half_life * DAY))
            for r in reads  # the last event with an item counts
        }
        expected = sum(w * similar[i] for i, w in weight.items() if i >= FIRST)
        there = np.asarray(expected)[FIRST:] > 0
        np.testing.assert_allclose(scores[b, FIRST:][there], np.asarray(expected)[FIRST:][there], rtol=1e-5)
        rest, count = scores[b, FIRST:][~there], popularity[FIRST:][~there]
        assert (rest < 0).all()
        assert ((rest[:, None] < rest) == (count[:, None] < count)).all()
        neither += len(rest)
    assert neither > 0 or neighbours > 10


@pytest.mark.parametrize("length", [3, 11])  # solved by observations, and by factors
def test_a_row_of_least_squares_is_the_minimum(length: int) -> None:
    """Against the dense weighted regression in float64, whatever the padding."""
    rng = np.random.default_rng(0)
    v, k, n, regularisation = 23, 6, 7, 0.7
    table = rng.normal(size=(v, k))
    item = np.stack([rng.permutation(v)[:length] for _ in range(n)])
    extra = rng.uniform(0.5, 3.0, (n, length)) * (rng.random((n, length)) < 0.6)
    extra[3] = 0.0
    shared = least_squares.Table.of(table.astype(np.float32), regularisation)
    x = least_squares.solve(shared, item, extra.astype(np.float32))
    for b in range(n):
        weight, wanted = np.ones(v), np.zeros(v)
        weight[item[b]] += extra[b]
        wanted[item[b]] = extra[b] > 0
        system = table.T @ (weight[:, None] * table) + regularisation * np.eye(k)
        expected = np.linalg.solve(system, table.T @ (weight * wanted))
        np.testing.assert_allclose(x[b], expected, rtol=2e-4, atol=1e-5)
    assert not np.asarray(x[3]).any()


def test_ials_alternates_to_a_minimum() -> None:
    """Sizes of several padded lengths; the objective falls, and at the end neither side can gain."""
    rng = np.random.default_rng(1)
    users, items = 47, 31
    counts = rng.poisson(0.4, (users, items)) * (rng.random((users, 1)) < 0.9)
    user, item = np.nonzero(counts)

    def objective(x: Any, y: Any) -> float:
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        error = (1 + 2.0 * counts) * ((counts > 0) - x @ y.T) ** 2
        return error.sum() + 0.3 * ((x**2).sum() + (y**2).sum())

    values = []
    for iterations in (1, 2, 5, 200):
        model = IALS(factors=3, alpha=2.0, regularisation=0.3, iterations=iterations)
        x, y = model.factorise(user, item, counts[user, item], (users, items))
        values.append(objective(x, y))
    assert values[0] > values[1] > values[2] > values[3]
    for _ in range(20):
        move = rng.normal(size=x.shape) * 0.01, rng.normal(size=y.shape) * 0.01
        assert objective(x + move[0], y) > values[3] - 1e-4
        assert objective(x, y + move[1]) > values[3] - 1e-4
    assert not np.asarray(x)[counts.sum(axis=1) == 0].any()


def test_ials_answers_from_the_history_of_the_request(dataset: Dataset) -> None:
    model = IALS(factors=4, alpha=3.0, regularisation=0.5, iterations=5)
    rows = dataset.targets(TEST)
    scores = scores_of(model, dataset, rows)
    user = dataset.store.columns["user"][dataset.train_rows] - FIRST
    shape = dataset.store.users, dataset.schema.items
    count = np.zeros(shape)
    np.add.at(count, (user, dataset.items(dataset.train_rows)), 1)
    where = np.nonzero(count)
    y = np.asarray(model.factorise(*where, count[where], shape)[1], np.float64)
    for b, row in enumerate(rows.tolist()):
        reads = np.asarray(readable(dataset.store, dataset.split, row))
        own = np.bincount(dataset.items(reads), minlength=len(y))
        own[:FIRST] = 0
        system = y.T @ ((1 + 3.0 * own)[:, None] * y) + 0.5 * np.eye(4)
        expected = y @ np.linalg.solve(system, y.T @ ((1 + 3.0 * own) * (own > 0)))
        np.testing.assert_allclose(scores[b], expected, rtol=1e-3, atol=1e-4)


def test_two_circles_are_told_apart(tmp_path: Path) -> None:
    """Users keep to one half of the items; what they have not had of it comes before all of the other."""
    rng = np.random.default_rng(2)
    users = [u for u in range(40) for _ in range(8)]
    items = [int(i) for u in range(40) for i in rng.permutation(11)[:8] + 11 * (u % 2)]
    store = make_store(tmp_path / "s", users, items, list(range(len(users))))
    dataset = Dataset(store, LeaveOneOut()(store))
    for model in (ItemKNN(), IALS(factors=2, regularisation=0.1)):
        found = evaluate(model.fit(dataset), dataset, TEST, filter_seen=True, ks=(5,))
        assert found.mean("HR@5") == 1  # 4 items of the half are left
        assert evaluate(MostPopular().fit(dataset), dataset, TEST, filter_seen=True, ks=(5,)).mean("HR@5") < 1


def test_candidates_are_the_best_that_are_wanted(dataset: Dataset) -> None:
    rows = dataset.targets(TEST)
    scorer = ItemKNN(3).fit(dataset)
    seen = np.stack([dataset.items(rows - k) for k in (1, 2, 3)], axis=1)
    found = scorer.candidates(Query(), rows, 2, seen)
    assert found.shape == (len(rows), 2)
    for b, scores in enumerate(np.array(scorer.score(Query(), rows), np.float32)):
        wanted = [v for v in range(FIRST, len(scores)) if v not in seen[b]]
        assert found[b].tolist() == sorted(wanted, key=lambda v: (-scores[v], v))[:2]
    with pytest.raises(ValueError, match="k=99 candidates: fewer"):
        scorer.candidates(Query(), rows, 99)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ItemKNN(neighbours=0), "neighbours=0"),
        (lambda: ItemKNN(shrinkage=-1.0), "shrinkage=-1.0"),
        (lambda: ItemKNN(half_life=0.0), "half_life=0.0"),
        (lambda: IALS(factors=0), "factors=0"),
        (lambda: IALS(alpha=0.0), "alpha=0.0"),
        (lambda: IALS(regularisation=math.nan), "regularisation=nan"),
    ],
)
def test_impossible_settings_are_refused(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


def test_long_fits_say_how_far_they_are_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    fitted = dataclasses.replace(
        experiment, name="als", source=TinyLog(tmp_path), model=IALS(factors=2, iterations=3)
    )
    console = Console(file=io.StringIO(), soft_wrap=True)
    elsewhere = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(elsewhere)  # as packages do on import
    try:
        run(Command(fitted, tmp_path / "run", config=Path(__file__)), console)
    finally:
        logging.getLogger().removeHandler(elsewhere)
    assert "iALS:" not in capfd.readouterr().err
    lines = console.file.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines if line.startswith("iALS")] == [
        f"iALS: {k} of 3 iterations" for k in (1, 2, 3)
    ]
    store = fitted.source.open()
    fitted.model.fit(Dataset(store, fitted.protocol(store)))  # as a library: nothing
    assert capfd.readouterr() == ("", "")


def test_a_config_may_fit_a_baseline(tmp_path: Path) -> None:
    model = ItemKNN(5)
    fitted = dataclasses.replace(
        experiment,
        name="knn",
        source=TinyLog(tmp_path),
        model=model,
        baselines=(model, IALS(factors=2, iterations=2)),
        evaluation=Evaluation(filter_seen=True),
    )
    command = Command(fitted, tmp_path / "run", config=Path(__file__))
    console = Console(quiet=True)
    result = run(command, console)
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    assert result["validation"]["targets"] > 0
    names = [baseline["name"] for baseline in result["baselines"]]
    assert names[-1] == "iALS" and "Item k nearest neighbours" not in names  # not compared with itself
    assert run(command, console) == result  # finished: shown again
    again = run(dataclasses.replace(command, eval_only=True), console)
    assert again["test"] == result["test"]
