"""Baselines against plain Python on small random logs; none of them sees what comes after the target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from stjax.baselines import (
    BPR,
    IALS,
    Baseline,
    ItemKNN,
    Markov,
    MostPopular,
    PopularInHourOfWeek,
    UserLast,
    UserMostFrequent,
    all_baselines,
)
from stjax.baselines.counts import PairCounts
from stjax.data.dataset import Dataset
from stjax.data.protocols import TEST, TRAIN, VALID, GlobalTemporal, LeaveOneOut
from stjax.errors import ConfigError
from stjax.evaluation import evaluate
from stjax.events import FIRST, Query
from stjax.training.setup import check_query
from tests.histories import Drawn, readable
from tests.stores import make_store

USERS, ITEMS, EVENTS = 13, 11, 307
Log = dict[str, Any]


def make_log(seed: int) -> Log:
    """A log in order of time, so that the ids of early items do not depend on late events."""
    random = np.random.default_rng(seed)
    return {
        "users": random.integers(USERS, size=EVENTS).tolist(),
        "items": (ITEMS * random.random(EVENTS) ** 2).astype(int).tolist(),
        "times": np.sort(random.integers(40 * 86_400, size=EVENTS)).tolist(),
        "utc_offsets": random.choice([-18_000, 0, 7200], size=EVENTS).tolist(),
    }


def make_dataset(path: Path, log: Log, protocol: Any) -> Dataset:
    store = make_store(path, **log)
    return Dataset(store, protocol(store))


PROTOCOLS = (GlobalTemporal(0.2, 0.2), LeaveOneOut(), Drawn("session"), Drawn("unordered"))


@pytest.fixture(scope="module", params=PROTOCOLS, ids=lambda protocol: protocol.name)
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("log") / "store", make_log(0), request.param)


class Plain:
    """The same log as Python lists, and what may be counted from it."""

    def __init__(self, dataset: Dataset) -> None:
        self.items = dataset.items(slice(None)).tolist()
        self.users = dataset.store.columns["user"].tolist()
        offsets = dataset.store.columns["utc_offset"].tolist()
        times = dataset.store.columns["time"].tolist()
        self.local = [t + o for t, o in zip(times, offsets, strict=True)]
        self.train = [r for r, label in enumerate(dataset.split.label) if label == TRAIN]
        self.catalogue = range(FIRST, dataset.schema.items)
        self.popularity = Counter(self.items[r] for r in self.train)
        self._dataset = dataset

    def reads(self, row: int) -> list[int]:
        """The rows that the target may read."""
        return readable(self._dataset.store, self._dataset.split, row)

    def past(self, row: int) -> list[int]:
        """Those with a known item."""
        return [r for r in self.reads(row) if self.items[r] >= FIRST]


def scores_of(baseline: Any, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Scores (B, V) with the declared part of the target."""
    target = dataset.gather(rows[:, None], np.ones((len(rows), 1), bool))
    scorer = baseline.fit(dataset)
    return np.asarray(scorer(target, Query.of(target[:, 0], scorer.known), rows))


def check_order(dataset: Dataset, baseline: Any, key: Callable[[Plain, int, int], Any]) -> None:
    """The scores order the catalogue as the reference's key does, ties included."""
    plain, rows = Plain(dataset), dataset.targets(TEST)
    for row, scores in zip(rows.tolist(), scores_of(baseline, dataset, rows), strict=True):
        keys = [key(plain, row, v) for v in plain.catalogue]
        levels = {k: n for n, k in enumerate(sorted(set(keys)))}
        expected = [levels[k] for k in keys]
        assert np.unique(scores[FIRST:], return_inverse=True)[1].tolist() == expected


def test_most_popular(dataset: Dataset) -> None:
    check_order(dataset, MostPopular(), lambda plain, row, v: plain.popularity[v])


def test_user_most_frequent(dataset: Dataset) -> None:
    def key(plain: Plain, row: int, v: int) -> tuple[int, int]:
        return sum(plain.items[r] == v for r in plain.past(row)), plain.popularity[v]

    check_order(dataset, UserMostFrequent(), key)


def test_user_last(dataset: Dataset) -> None:
    def key(plain: Plain, row: int, v: int) -> tuple[int, int]:
        last = max((r for r in plain.past(row) if plain.items[r] == v), default=-1)
        return last, plain.popularity[v] if last < 0 else 0

    check_order(dataset, UserLast(), key)


@pytest.mark.parametrize("known", [(), ("time",)])
def test_popular_in_hour_of_week(dataset: Dataset, known: tuple[str, ...]) -> None:
    plain, rows = Plain(dataset), dataset.targets(TEST)
    scores = scores_of(PopularInHourOfWeek(strength=7.0, known=known), dataset, rows)
    hours = [t // 3600 % 168 for t in plain.local]
    for b, row in enumerate(rows.tolist()):
        hour = hours[row if known else plain.reads(row)[-1]]
        counted = [r for r in plain.train if hours[r] == hour]
        for v in plain.catalogue:
            prior = plain.popularity[v] / len(plain.train)
            here = sum(plain.items[r] == v for r in counted)
            assert scores[b, v] == pytest.approx((here + 7 * prior) / (len(counted) + 7), rel=1e-5)


@pytest.mark.parametrize("known", [(), ("time",)])
def test_markov(dataset: Dataset, known: tuple[str, ...]) -> None:
    plain, rows = Plain(dataset), dataset.targets(TEST)
    baseline = Markov(own=2.0, user=3.0, chain=5.0, memory=11.0, gain=4.0, width=2.5, known=known)
    scores = scores_of(baseline, dataset, rows)

    def smoothed(prior: dict[int, float], seen: list[tuple[int, float]], s: float) -> dict[int, float]:
        total = sum(weight for _, weight in seen) + s
        return {v: (sum(weight for item, weight in seen if item == v) + s * prior[v]) / total for v in prior}

    def weight(row: int, r: int) -> float:
        value = math.exp(-sum(later > r for later in plain.reads(row)) / 11.0)
        if known:
            apart = abs(plain.local[row] - plain.local[r]) % 86_400 / 3600
            value *= 1 + 4 * math.exp(-0.5 * (min(apart, 24 - apart) / 2.5) ** 2)
        return value

    followed = 0
    for b, row in enumerate(rows.tolist()):
        reads, past = plain.reads(row), plain.past(row)
        current = plain.items[reads[-1]]
        train = set(plain.train)
        chain = [
            (plain.items[r], 1.0)
            for r in plain.train
            if r - 1 in train and plain.users[r - 1] == plain.users[r] and plain.items[r - 1] == current
        ]
        visits = [(plain.items[r], weight(row, r)) for r in past]
        own = [
            (plain.items[r], weight(row, r))
            for before, r in pairwise(reads)
            if plain.items[before] == current >= FIRST and plain.items[r] >= FIRST
        ]
        followed += len(own)
        prior = {v: plain.popularity[v] / len(plain.train) for v in plain.catalogue}
        expected = smoothed(smoothed(smoothed(prior, chain, 5), visits, 3), own, 2)
        np.testing.assert_allclose(scores[b, FIRST:], list(expected.values()), rtol=1e-4)
        assert scores[b, FIRST:].sum() == pytest.approx(1, rel=1e-5)
    assert followed > 0


EVERY = (
    *all_baselines(),
    ItemKNN(),
    ItemKNN(3, half_life=2.0),
    IALS(factors=4, iterations=3),
    BPR(4, epochs=2),
)


@pytest.mark.parametrize("baseline", [*EVERY, *all_baselines(("time",))], ids=repr)
def test_what_comes_later_changes_no_score(baseline: Any, tmp_path: Path) -> None:
    log, protocol = make_log(1), GlobalTemporal(0.2, 0.3)
    before = make_dataset(tmp_path / "before", log, protocol)
    start = next(
        k
        for k, t in enumerate(log["times"])
        if t >= before.store.columns["time"][before.split.targets(TEST)].min()
    )
    late, random = slice(start, None), np.random.default_rng(2)
    altered = {name: list(values) for name, values in log.items()}
    altered["items"][late] = random.permutation(altered["items"][late]).tolist()
    altered["utc_offsets"][late] = random.permutation(altered["utc_offsets"][late]).tolist()
    after = make_dataset(tmp_path / "after", altered, protocol)
    rows = before.targets(VALID)
    assert np.array_equal(after.targets(VALID), rows)
    assert not np.array_equal(before.items(slice(None)), after.items(slice(None)))
    assert np.array_equal(scores_of(baseline, before, rows), scores_of(baseline, after, rows))


@pytest.mark.parametrize("baseline", EVERY, ids=repr)
def test_the_target_itself_is_not_read(baseline: Any, tmp_path: Path) -> None:
    log, protocol = make_log(3), GlobalTemporal(0.2, 0.3)
    before = make_dataset(tmp_path / "before", log, protocol)
    rows = before.targets(TEST)
    for k in range(0, len(rows), 29):
        row, column = int(rows[k]), before.store.columns
        altered = {name: list(values) for name, values in log.items()}
        here = next(
            n
            for n in range(EVENTS)
            if (log["users"][n], log["times"][n])
            == (int(before.store.vocabulary("user")[int(column["user"][row]) - FIRST]), column["time"][row])
        )
        altered["items"][here] = (altered["items"][here] + 1) % ITEMS
        after = make_dataset(tmp_path / f"after-{k}", altered, protocol)
        one = rows[k : k + 1]
        assert after.items(one) != before.items(one)
        assert np.array_equal(scores_of(baseline, before, one), scores_of(baseline, after, one))


def test_histories_beyond_the_window_count(dataset: Dataset) -> None:
    for baseline in all_baselines():
        short = evaluate(baseline.fit(dataset), dataset, TEST, length=1, block=5)
        long = evaluate(baseline.fit(dataset), dataset, TEST, length=64, block=64)
        assert np.array_equal(short.rank, long.rank)


def test_time_is_read_only_where_declared(dataset: Dataset) -> None:
    plain = [evaluate(b.fit(dataset), dataset, TEST) for b in all_baselines(("scene",))]
    timed = [evaluate(b.fit(dataset), dataset, TEST) for b in all_baselines(("place", "time"))]
    assert [r.known for r in plain] == [()] * 5
    assert [r.known for r in timed] == [(), ("time",), (), (), ("time",)]
    rows = dataset.targets(TEST)
    differ = [
        not np.array_equal(scores_of(a, dataset, rows), scores_of(b, dataset, rows))
        for a, b in zip(all_baselines(), all_baselines(("time",)), strict=True)
    ]
    assert differ == [False, True, False, False, True]
    assert len({r.name for r in plain}) == 5


@pytest.mark.parametrize("kind", get_args(Baseline))
def test_each_may_take_the_place_of_a_model(kind: Any, dataset: Dataset) -> None:
    check_query(kind(), dataset)  # it says what it reads of the request


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"own": 0.0}, "own=0.0 must be above 0"),
        ({"chain": -1.0}, "chain=-1.0 must be above 0"),
        ({"memory": 0.0}, "memory=0.0 must be above 0 events"),
        ({"gain": math.nan}, "gain=nan must be at least 0"),
        ({"known": ("time", "place")}, r"no use for \['place'\], only \('time',\)"),
    ],
)
def test_settings_that_would_give_no_scores(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Markov(**settings)
    with pytest.raises(ConfigError, match=r"strength=0\.0 must be above 0"):
        PopularInHourOfWeek(strength=0.0)


def test_a_learnable_chain_is_learnt(tmp_path: Path) -> None:
    cycle = [0, 3, 1, 4, 2]
    users = [u for u in range(7) for _ in range(23)]
    items = [cycle[(u + k) % 5] for u in range(7) for k in range(23)]
    times = [1000 * k + u for u in range(7) for k in range(23)]
    store = make_store(tmp_path / "s", users, items, times)
    dataset = Dataset(store, LeaveOneOut()(store))
    assert evaluate(Markov().fit(dataset), dataset, TEST).mean("Acc@1") == 1
    assert evaluate(UserLast().fit(dataset), dataset, TEST).mean("Acc@1") == 0


def test_pairs_agree_with_loops() -> None:
    random = np.random.default_rng(4)
    left, right = random.integers(7, size=101), random.integers(2, 13, size=101)
    pairs = PairCounts.of(left, right, 13)
    asked = np.asarray([3, 6, 3, 9])
    assert np.array_equal(PairCounts.of(*pairs.coordinates[:2], 13).key, pairs.key)
    owner, item, count = pairs.of_left(asked)
    found = {(int(o), int(v)): int(n) for o, v, n in zip(owner, item, count, strict=True)}
    truth = Counter(zip(left.tolist(), right.tolist(), strict=True))
    assert found == {(o, v): n for o, k in enumerate(asked) for (u, v), n in truth.items() if u == k}
