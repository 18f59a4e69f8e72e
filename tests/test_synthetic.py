"""The synthetic city: its log is reproducible, and its oracle tells the truth about it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import stjax.data.oracle
from stjax.data.city import City, World
from stjax.data.city.chance import AliasTable, uniforms, user_keys
from stjax.data.city.people import people
from stjax.data.city.world import HABIT, HOME, SLOT, WORK
from stjax.data.dataset import Dataset
from stjax.data.oracle import Oracle
from stjax.data.protocols import TEST, GlobalTemporal
from stjax.data.store import EventStore, StoreError
from stjax.data.synthetic import generate, write_city
from stjax.errors import UserError
from stjax.evaluation import evaluate
from stjax.events import FIRST, UNSEEN, Query
from tests.stores import make_store

CITY = City(users=331, events_per_user=61, items=211, categories=7, archetypes=3, cells=5, seed=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return write_city(CITY, tmp_path_factory.mktemp("city") / "store", block=97)


@pytest.fixture(scope="module")
def rows(store: EventStore) -> np.ndarray:
    """Every event but each user's first."""
    return np.setdiff1d(np.arange(len(store)), store.offsets[:-1])


@pytest.fixture(scope="module")
def known(store: EventStore, rows: np.ndarray) -> np.ndarray:
    """P(item) with the time of the target."""
    return Oracle.of(store, time=True).probabilities(rows, _local(store, rows))


def _local(store: EventStore, rows: np.ndarray) -> np.ndarray:
    return store.columns["time"][rows] + store.columns["utc_offset"][rows]


def _of_target(p: np.ndarray, store: EventStore, rows: np.ndarray) -> np.ndarray:
    return p[np.arange(len(rows)), store.columns["item"][rows]]


def _log_likelihood(p: np.ndarray, store: EventStore, rows: np.ndarray) -> float:
    return float(np.log(_of_target(p, store, rows) + 1e-12).mean())


def test_alias_table_is_exact_and_draws_by_it() -> None:
    p = np.random.default_rng(0).dirichlet(np.full(13, 0.3), 5)
    p[0], p[1] = 1 / 13, np.eye(13)[4]
    table = AliasTable.of(p)
    implied = np.zeros_like(p)
    for r in range(5):
        for k in range(13):  # each column keeps `accept` of its mass and gives away the rest
            implied[r, k] += table.accept[r, k] / 13
            implied[r, table.alias[r, k]] += (1 - table.accept[r, k]) / 13
    np.testing.assert_allclose(implied, p, atol=1e-7)
    grid = (np.arange(130_000) + 0.5) / 130_000
    drawn = table.draw(np.full(len(grid), 3), grid)
    np.testing.assert_allclose(np.bincount(drawn, minlength=13) / len(grid), p[3], atol=2e-4)


def test_uniforms_follow_splitmix64_and_differ_by_user_and_index() -> None:
    mask, state = (1 << 64) - 1, 1234567
    expected = []
    for _ in range(3):  # the published algorithm, in plain integers
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        expected.append(z ^ (z >> 31))
    high, low = uniforms(np.array([1234567], np.uint64), np.arange(3))
    np.testing.assert_array_equal(high * 2.0**32, [word >> 32 for word in expected])
    np.testing.assert_array_equal(low * 2.0**32, [word & 0xFFFFFFFF for word in expected])
    u, v = uniforms(user_keys(0, np.arange(20_000)), 5)
    assert abs(u.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(u, v)[0, 1]) < 0.03


def test_log_is_sorted_and_within_its_schema(store: EventStore) -> None:
    user, time = store.columns["user"], store.columns["time"]
    assert len(store) == len(user) == store.offsets[-1]
    np.testing.assert_array_equal(user, np.repeat(np.arange(331) + FIRST, np.diff(store.offsets)))
    same = user[1:] == user[:-1]
    assert (np.diff(time)[same] > 0).all()
    assert time.min() >= 0
    counts = np.diff(store.offsets)
    assert counts.min() >= 30
    assert counts.max() <= 92
    assert abs(counts.mean() - 61) < 4
    for name, size in {"item": store.schema.items, "device": 5, "scene": 5, "archetype": 5}.items():
        column = store.columns[name]
        assert column.min() >= FIRST
        assert column.max() == size - 1
        assert len(store.vocabulary(name)) == size - FIRST
    assert [f.name for f in store.schema.fields if f.role == "meta"] == ["archetype"]
    np.testing.assert_array_equal(store.columns["place"], store.items["place"][store.columns["item"]])


def test_same_seed_same_bits_whatever_the_block_and_the_number_of_users(store: EventStore) -> None:
    offsets, columns = generate(CITY, block=31)
    np.testing.assert_array_equal(offsets, store.offsets)
    fewer_offsets, fewer = generate(dataclasses.replace(CITY, users=53))
    for name, column in columns.items():
        np.testing.assert_array_equal(column, store.columns[name])
        np.testing.assert_array_equal(fewer[name], column[: fewer_offsets[-1]])
    _, other = generate(dataclasses.replace(CITY, seed=4))
    assert len(other["item"]) != len(columns["item"]) or (other["item"] != columns["item"]).any()


def test_users_live_by_day_and_week(store: EventStore) -> None:
    folk = people(World.of(CITY), store.columns["user"] - FIRST)
    item = store.columns["item"] - FIRST
    local = _local(store, np.arange(len(store)))
    hour, weekend = local // 3600 % 24, local // 86_400 % 7 >= 5
    works, day_worker = item == folk.work, folk.rhythm == 0
    office = day_worker & (hour >= 9) & (hour < 17)
    assert works[office & ~weekend].mean() > 0.5
    assert works[office & weekend].mean() < 0.01
    assert (item == folk.home)[day_worker & ~weekend & (hour >= 21)].mean() > 0.5
    night = (hour >= 1) & (hour < 6)
    assert night[day_worker].mean() < 0.05 < night[folk.rhythm == 1].mean()


def test_world_probabilities_are_distributions() -> None:
    world = World.of(CITY)
    for table in (world.taste, world.gap, world.arrival, world.device, world.move):
        np.testing.assert_allclose(table.sum(axis=-1), 1)
        assert (table >= 0).all()
    by_category = np.add.reduceat(world.venue, world.start[:-1], axis=-1)
    np.testing.assert_allclose(by_category, 1)
    assert world.anchor.sum(axis=-1).max() <= 1
    assert (world.taste[..., [HOME, WORK]] == 0).all()


def _loop(event: dict[str, int], slot: int) -> np.ndarray:
    """P(venue | event before, half hour of the next one), term by term."""
    world, folk = World.of(CITY), people(World.of(CITY), np.array([event["user"]]))
    p = np.zeros(CITY.items)
    now = (24 if slot // 48 % 7 in (5, 6) else 0) + slot % 48 // 2
    home, work = world.anchor[folk.rhythm[0], now]
    p[folk.home[0]] += home
    p[folk.work[0]] += work
    habit = HABIT[event["device"]]
    venues = world.venue[event["scene"], world.cell[event["item"]]]
    for archetype in range(CITY.archetypes):
        chance = CITY.drift / CITY.archetypes
        chance += (1 - CITY.drift) * (archetype == event["archetype"])
        taste = world.taste[archetype, now, world.category[event["item"]]]
        for c in range(CITY.categories):
            wish = (1 - home - work) * chance * taste[c]
            p[folk.favourite[0, c]] += wish * habit
            here = world.category == c
            p[here] += wish * (1 - habit) * venues[here]
    return p


def test_probabilities_by_a_plain_loop(store: EventStore, rows: np.ndarray) -> None:
    """One event at a time, gap by gap, archetype by archetype: an independent sum."""
    some = rows[[0, 1_009, 7_001]]
    with_time = Oracle.of(store, time=True).probabilities(some, _local(store, some))
    without = Oracle.of(store).probabilities(some)
    gaps = [1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 72, 96]
    for b, row in enumerate(some):
        names = ("user", "item", "archetype", "device", "scene")
        event = {name: int(store.columns[name][row - 1]) - FIRST for name in names}
        now, last = (int(_local(store, r)) // SLOT for r in (row, row - 1))
        np.testing.assert_allclose(with_time[b, FIRST:], _loop(event, now), atol=1e-12)
        rhythm = people(World.of(CITY), np.array([event["user"]])).rhythm[0]
        chances = World.of(CITY).gap[rhythm, last % 336]
        mixed = sum(c * _loop(event, last + gap) for c, gap in zip(chances, gaps, strict=True))
        np.testing.assert_allclose(without[b, FIRST:], mixed, atol=1e-12)


@pytest.mark.parametrize("time", [False, True])
def test_oracle_is_calibrated(store: EventStore, rows: np.ndarray, time: bool) -> None:
    """What it calls likely happens as often as it says: a z-score per group of predictions."""
    oracle = Oracle.of(store, time=time)
    p = oracle.probabilities(rows, _local(store, rows) if time else None)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert (_of_target(p, store, rows) > 0).all()
    happened = np.zeros(p.shape, bool)
    happened[np.arange(len(rows)), store.columns["item"][rows]] = True
    edges = [1e-5, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.2, 0.4, 0.6, 1]
    group = np.digitize(p, edges)
    z = []
    for g in np.unique(group):
        q, hit = p[group == g], happened[group == g]
        variance = (q * (1 - q)).sum()
        if variance > 10:
            z.append((hit.sum() - q.sum()) / np.sqrt(variance))
    assert len(z) >= 7
    assert np.square(z).sum() < 30  # chi-square with at most 10 degrees: p = 0.001
    hit = p.argmax(axis=1) == store.columns["item"][rows]
    best = p.max(axis=1)
    error = np.sqrt((best * (1 - best)).sum()) / len(rows)
    assert abs(hit.mean() - best.mean()) < 3 * error


def test_each_cause_is_as_frequent_as_it_should_be(
    store: EventStore, rows: np.ndarray, known: np.ndarray
) -> None:
    """Visits to home, work, favourites, each category, and drifts of taste: z-scores below 4."""
    world = World.of(CITY)
    folk = people(world, store.columns["user"][rows] - FIRST)
    target, row = store.columns["item"][rows], np.arange(len(rows))
    for place in (folk.home, folk.work, *folk.favourite.T[2:]):
        q = known[row, place + FIRST]
        z = ((target == place + FIRST).sum() - q.sum()) / np.sqrt((q * (1 - q)).sum())
        assert abs(z) < 4
    for c in range(CITY.categories):
        q = known[:, FIRST:][:, world.category == c].sum(axis=1)
        hits = (world.category[target - FIRST] == c).sum()
        assert abs(hits - q.sum()) < 4 * np.sqrt((q * (1 - q)).sum())
    taste = store.columns["archetype"]
    switch = CITY.drift * (1 - 1 / CITY.archetypes)
    moved = (taste[rows] != taste[rows - 1]).mean()
    assert abs(moved - switch) < 4 * np.sqrt(switch * (1 - switch) / len(rows))
    assert np.bincount(taste - FIRST, minlength=CITY.archetypes).min() > len(taste) / 4


def test_time_space_and_every_other_cause_carry_information(
    store: EventStore, rows: np.ndarray, known: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An oracle that ignores one of them has a lower likelihood, and clearly so."""
    oracle, now, world = Oracle.of(store, time=True), _local(store, rows), World.of(CITY)
    best = _log_likelihood(known, store, rows)
    blind = _log_likelihood(Oracle.of(store).probabilities(rows), store, rows)
    assert blind < best - 0.1

    def without(**table: np.ndarray) -> float:
        changed = dataclasses.replace(oracle, world=dataclasses.replace(world, **table))
        return _log_likelihood(changed.probabilities(rows, now), store, rows)

    def flat(table: np.ndarray, *axes: int) -> np.ndarray:
        return np.broadcast_to(table.mean(axis=axes, keepdims=True), table.shape)

    assert without(venue=flat(world.venue, 1)) < best - 0.3  # distance
    assert without(venue=flat(world.venue, 0)) < best - 0.03  # scene
    assert without(anchor=flat(world.anchor, 1), taste=flat(world.taste, 1)) < best - 0.2  # hour
    assert without(taste=flat(world.taste, 0)) < best - 0.02  # archetype
    assert without(taste=flat(world.taste, 2)) < best - 0.02  # last category
    monkeypatch.setattr(stjax.data.oracle, "HABIT", np.full(3, HABIT.mean()))
    assert _log_likelihood(oracle.probabilities(rows, now), store, rows) < best - 0.02  # device


def test_oracle_as_a_scorer_reads_the_time_only_where_declared(
    store: EventStore, rows: np.ndarray, known: np.ndarray
) -> None:
    some = rows[[3, 500, 9_001]]
    oracle = Oracle.of(store, time=True)
    query = Query(time=store.columns["time"][some], utc_offset=store.columns["utc_offset"][some])
    scores = oracle(None, query, some)  # type: ignore[arg-type]  # it reads no history
    expected = oracle.probabilities(some, _local(store, some))
    np.testing.assert_allclose(np.exp(scores), expected, rtol=1e-5)
    assert scores.dtype == np.float32
    assert oracle.known == ("time",)
    blind = Oracle.of(store)
    assert blind.known == ()
    np.testing.assert_array_equal(blind(None, Query(), some), blind(None, query, some))  # type: ignore[arg-type]  # as above


def test_oracle_in_the_ids_of_a_training_part(store: EventStore, rows: np.ndarray) -> None:
    """Items that training has not seen share the column UNSEEN."""
    p = Oracle.of(store).probabilities(rows[:19])
    remap = np.full(store.schema.items, UNSEEN, np.int32)
    seen = np.flatnonzero(np.arange(store.schema.items) % 3 == 0)[1:]
    remap[seen] = np.arange(len(seen)) + FIRST
    remap[0] = 0
    oracle = dataclasses.replace(Oracle.of(store), remap=remap, items=len(seen) + FIRST)
    small = oracle.probabilities(rows[:19])
    assert small.shape == (19, len(seen) + FIRST)
    np.testing.assert_array_equal(small[:, FIRST:], p[:, seen])
    np.testing.assert_allclose(small.sum(axis=1), 1)
    assert (small[:, UNSEEN] > 0).all()


@pytest.mark.parametrize("time", [False, True])
def test_the_evaluator_finds_the_accuracy_that_the_oracle_expects(store: EventStore, time: bool) -> None:
    """Through a protocol with training ids, as any model; targets unseen in training are left out."""
    dataset = Dataset(store, GlobalTemporal()(store))
    oracle = Oracle.of(dataset, time=time)
    report = evaluate(oracle, dataset, TEST, block=101, length=3)
    rows = dataset.targets(TEST)
    p = oracle.probabilities(rows, _local(store, rows) if time else None)[:, FIRST:]
    best = p.max(axis=1) / p.sum(axis=1)
    error = np.sqrt((best * (1 - best)).sum()) / len(rows)
    assert abs(report.mean("Acc@1") - best.mean()) < 3 * error
    np.testing.assert_array_equal(report.row, rows)
    assert report.known == oracle.known


def test_a_default_city_is_neither_trivial_nor_hopeless(tmp_path: Path) -> None:
    store = write_city(City(users=200), tmp_path / "city")
    position = np.arange(len(store)) - np.repeat(store.offsets[:-1], np.diff(store.offsets))
    rows = np.flatnonzero(position >= 20)[::7]
    target = store.columns["item"][rows]
    for time, low, high in ((False, 0.30, 0.42), (True, 0.38, 0.52)):
        p = Oracle.of(store, time=time).probabilities(rows, _local(store, rows) if time else None)
        rank = (p > _of_target(p, store, rows)[:, None]).sum(axis=1)
        gain = np.where(rank < 10, 1 / np.log2(rank + 2), 0).mean()
        assert low < (rank == 0).mean() < high
        assert 0.48 < gain < 0.66
    popular = np.bincount(store.columns["item"]).argmax()
    assert (target == popular).mean() < 0.05


def test_impossible_parameters_and_other_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"City.users is 0; choose a value in 1 to"):
        City(users=0)
    with pytest.raises(UserError, match=r"City.items is 20; choose a value in 64"):
        City(items=20)
    other = make_store(tmp_path / "log", ["a", "a"], ["x", "y"], [1, 2])
    with pytest.raises(StoreError, match="not a synthetic city"):
        Oracle.of(other)
