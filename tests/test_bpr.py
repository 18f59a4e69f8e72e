"""BPR: steps against NumPy, draws that avoid what users had, what it learns, and requests after training."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from stjax.baselines import BPR, MostPopular
from stjax.baselines.bpr import (
    WIDTH,
    Factors,
    Had,
    _draw,
    _first_without,
    _likelihood,
    contains,
    step,
)
from stjax.baselines.counts import training_counts
from stjax.data.dataset import Dataset
from stjax.data.protocols import HISTORY, TEST, TRAIN, VALID, LeaveOneOut, Split
from stjax.errors import ConfigError
from stjax.evaluation import evaluate
from stjax.events import FIRST, Query
from tests.stores import make_store

USERS, ITEMS, K = 11, 17, 5


def random_factors(seed: int) -> Factors:
    rng = np.random.default_rng(seed)
    sizes = ((USERS, K), (ITEMS, K), (ITEMS,))
    return Factors(*(rng.normal(size=size).astype(np.float32) for size in sizes))


def test_a_step_goes_down_the_gradient_of_the_objective() -> None:
    """Ids repeat within the batch, as user, as positive and as negative; two triples do not count."""
    rng = np.random.default_rng(0)
    old, n, rate, regularisation = random_factors(1), 29, 0.01, 0.3
    u, i, j = rng.integers(USERS, size=n), rng.integers(ITEMS, size=n), rng.integers(ITEMS, size=n)
    weight = np.ones(n)
    weight[[3, 8]] = 0

    def objective(parts: list[np.ndarray]) -> float:
        x, y, b = parts
        apart = (x[u] * (y[i] - y[j])).sum(-1) + b[i] - b[j]
        squares = (x[u] ** 2).sum(-1) + (y[i] ** 2).sum(-1) + (y[j] ** 2).sum(-1) + b[i] ** 2 + b[j] ** 2
        return float((weight * (np.log1p(np.exp(-apart)) + regularisation / 2 * squares)).sum())

    new, loss = step(Factors(*map(jax.numpy.asarray, old)), u, i, j, weight, rate, regularisation)
    parts = [part.astype(np.float64) for part in old]
    for part, moved in zip(parts, new, strict=True):
        gradient = np.zeros_like(part)
        for at in np.ndindex(part.shape):
            kept, ends = part[at], []
            for move in (1e-5, -1e-5):
                part[at] = kept + move
                ends.append(objective(parts))
            part[at] = kept
            gradient[at] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(moved, part - rate * gradient, atol=1e-5)
    x, y, b = parts
    apart = (x[u] * (y[i] - y[j])).sum(-1) + b[i] - b[j]
    assert float(loss) == pytest.approx((weight * np.log1p(np.exp(-apart))).sum(), rel=1e-5)


def random_pairs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    had = rng.random((USERS, ITEMS)) < rng.random((USERS, 1))
    had[3], had[4], had[:, 6] = False, True, False
    had[4, 6] = True
    user, item = np.nonzero(had)
    return user, item


def test_lookup_agrees_with_a_set() -> None:
    user, item = random_pairs(2)
    had = Had.of(user, item, USERS)
    pairs = set(zip(user.tolist(), item.tolist(), strict=True))
    u, v = np.divmod(np.arange(USERS * ITEMS), ITEMS)
    found = contains(had.start[u], had.start[u + 1], jax.numpy.asarray(had.item), v, had.rounds)
    assert found.tolist() == [pair in pairs for pair in zip(u.tolist(), v.tolist(), strict=True)]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_negatives_are_drawn_by_popularity(power: float) -> None:
    _, item = random_pairs(2)
    count = Counter(item.tolist())
    drawn = np.asarray(_draw(jax.random.key(0), (40_000,), _likelihood(item, ITEMS + 3, power)))
    total = sum(n**power for n in count.values())
    expected = [count[v] ** power / total if v in count else 0.0 for v in range(ITEMS + 3)]
    np.testing.assert_allclose(np.bincount(drawn, minlength=ITEMS + 3) / 40_000, expected, atol=0.01)


def test_the_first_item_that_the_user_had_not() -> None:
    drawn = np.asarray([[5, 6, 7], [5, 6, 7], [5, 6, 7]])
    had = np.asarray([[False, False, True], [True, True, False], [True, True, True]])
    j, weight = _first_without(drawn, had)
    assert (j[:2].tolist(), weight.tolist()) == ([5, 7], [1, 1, 0])


def test_training_lowers_the_objective_and_is_repeated_by_its_seed() -> None:
    user, item = random_pairs(5)
    had = np.zeros((USERS, ITEMS), bool)
    had[user, item] = True

    def loss(factors: Factors) -> float:
        x, y, b = (np.asarray(part, np.float64) for part in factors)
        s = x @ y.T + b
        apart = [s[u, i] - s[u, j] for u, i in zip(user, item, strict=True) for j in np.flatnonzero(~had[u])]
        return float(np.log1p(np.exp(-np.asarray(apart))).mean())

    def learnt(epochs: int, seed: int = 0, **settings: Any) -> Factors:
        model = BPR(factors=K, epochs=epochs, seed=seed, batch=8, **settings)
        return model.factorise(user, item, (USERS, ITEMS))

    losses = [loss(learnt(epochs)) for epochs in (1, 10, 100)]
    assert math.log(2) > losses[0] > losses[1] > losses[2]
    assert loss(learnt(100, regularisation=0.3)) > losses[2]
    for again, first, other in zip(learnt(10), learnt(10), learnt(10, seed=1), strict=True):
        assert np.array_equal(again, first) and not np.array_equal(again, other)
    factors = learnt(10)
    assert not np.asarray(factors.user)[3].any()  # had nothing


def planted(path: Path, users: int = 61, items: int = 37) -> Dataset:
    """Users whose choices follow two hidden traits, against a popularity that says little."""
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(users, 2)), rng.normal(size=(items, 2))
    noise = rng.gumbel(size=(users, items))
    chosen = np.argsort(-(4 * x @ y.T + noise), axis=1)[:, :10]
    log = [(u, int(v)) for u in range(users) for v in rng.permutation(chosen[u])]
    store = make_store(path, [u for u, _ in log], [v for _, v in log], list(range(len(log))))
    return Dataset(store, LeaveOneOut()(store))


def test_hidden_traits_are_found(tmp_path: Path) -> None:
    dataset = planted(tmp_path / "s")
    model = BPR(factors=4, epochs=60, batch=16)
    found = evaluate(model.fit(dataset), dataset, TEST, filter_seen=True)
    popular = evaluate(MostPopular().fit(dataset), dataset, TEST, filter_seen=True)
    assert found.mean("MRR") > 1.5 * popular.mean("MRR")


def held_out(dataset: Dataset, users: set[int]) -> Dataset:
    """The same log, but some users do not train: all but their last event are only read."""
    label = np.full(len(dataset.store), TRAIN, np.int8)
    for user, (start, stop) in enumerate(zip(dataset.store.offsets, dataset.store.offsets[1:], strict=False)):
        if user in users:
            label[start:stop] = HISTORY
        label[stop - 1] = TEST
    label[0] = VALID if 0 not in users else HISTORY
    return Dataset(dataset.store, Split(label, "by hand", {}))


def test_users_that_training_has_not_seen_are_learnt_at_the_request(tmp_path: Path) -> None:
    dataset = held_out(planted(tmp_path / "s"), set(range(0, 61, 3)))
    model = BPR(factors=4, epochs=60, batch=16)
    rows = dataset.targets(TEST)
    new = dataset.store.user_of(rows) % 3 == 0
    assert 15 < new.sum() < len(rows)
    found, popular = (
        evaluate(b.fit(dataset), dataset, TEST, filter_seen=True).values("MRR")
        for b in (model, MostPopular())
    )
    assert found[new].mean() > 1.5 * popular[new].mean()


def test_only_what_training_has_not_seen_moves_a_user(tmp_path: Path) -> None:
    dataset = held_out(planted(tmp_path / "s"), {2, 5})
    model, rows = BPR(factors=4, epochs=7, batch=16), dataset.targets(TEST)
    user, item, _ = training_counts(dataset).coordinates
    factors = model.factorise(user, item, (dataset.store.users, dataset.schema.items))
    trained, scorer = np.asarray(factors.user @ factors.item.T + factors.bias), model.fit(dataset)
    together = scorer.score(Query(), rows)
    assert together.dtype == np.float32
    for b, (u, row) in enumerate(zip(dataset.store.user_of(rows).tolist(), rows.tolist(), strict=True)):
        alone = scorer.score(Query(), np.asarray([row]))[0]
        np.testing.assert_allclose(alone, together[b], rtol=1e-5, atol=1e-6)  # whoever else asks
        assert np.allclose(together[b], trained[u], atol=1e-5) == (u not in {0, 2, 5})
    assert not np.asarray(factors.user)[[2, 5]].any()
    best = scorer.candidates(Query(), rows, dataset.schema.items - FIRST)
    assert best.min() == FIRST  # neither padding nor unseen


def test_a_request_learns_by_the_gradient_of_the_objective(tmp_path: Path) -> None:
    """One pass over fewer items than a step takes, from zero: the sum of each item less its negative."""
    dataset = held_out(planted(tmp_path / "s", users=23), {7})
    model = BPR(factors=4, epochs=1, batch=16, learning_rate=0.1)
    user, item, _ = training_counts(dataset).coordinates
    factors = Factors(*(np.asarray(p) for p in model.factorise(user, item, (23, dataset.schema.items))))
    row = dataset.store.offsets[7] + 6  # six items before it
    had = dataset.items(dataset.history(np.asarray([row])).row)
    had = np.sort(had[had >= FIRST])
    assert 1 < len(had) <= WIDTH
    negatives = _likelihood(item, dataset.schema.items, 0.0)
    key = jax.random.split(jax.random.key(0), 1)[0]
    drawn = np.asarray(_draw(key, (1, WIDTH, model.draws), negatives))[0]
    x = np.zeros(4)
    for i, draws in zip(had, drawn, strict=False):
        j = next(v for v in draws if v not in had)
        apart = factors.bias[i] - factors.bias[j]
        x += 0.1 / (1 + np.exp(apart)) * (factors.item[i] - factors.item[j])
    expected = factors.item @ x + factors.bias
    scores = model.scorer(dataset, factors).score(Query(), np.asarray([row]))[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"factors": 0}, "factors=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch": 0}, "batch=0"),
        ({"draws": 0}, "draws=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"regularisation": -1.0}, "regularisation=-1.0"),
        ({"popularity": math.inf}, "popularity=inf"),
    ],
)
def test_impossible_settings_are_refused(settings: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        BPR(**settings)
