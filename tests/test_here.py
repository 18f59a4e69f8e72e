"""Popularity by map cell and hour against plain loops; where events are; what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stjax.baselines import MostPopular, PopularHere, reading
from stjax.baselines.here import places
from stjax.data.dataset import Dataset
from stjax.data.protocols import TEST, TRAIN, VALID, GlobalTemporal, Split
from stjax.errors import ConfigError
from stjax.evaluation import evaluate
from stjax.events import FIRST
from tests.histories import Drawn, readable
from tests.stores import make_store
from tests.test_baselines import Plain, make_log, scores_of

LEVELS = (9, 12)
SPOTS = np.random.default_rng(0).uniform([40.5, -74.2], [40.9, -73.7], size=(11, 2))


def make_dataset(path: Path, protocol: Any, event_places: bool = True) -> Dataset:
    """Every tenth event does not say where it was; without `event_places` only items do, all but one."""
    log, random = make_log(11), np.random.default_rng(1)
    spots = SPOTS[log["items"]] + random.normal(scale=0.01, size=(len(log["items"]), 2))
    if not event_places:
        spots = SPOTS[log["items"]]
        spots[np.asarray(log["items"]) == 4] = math.nan
    spots[random.random(len(spots)) < 0.1] = math.nan
    store = make_store(path, **log, places=[tuple(spot) for spot in spots.tolist()])
    if not event_places:
        columns = {name: column for name, column in store.columns.items() if name != "place"}
        store = type(store)(
            store.path,
            store.schema,
            store.offsets,
            columns,
            store.items,
            store.user_fields,
            store.fingerprint,
        )
    return Dataset(store, protocol(store))


@pytest.fixture(scope="module", params=["temporal", "items", "session", "unordered"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    drawn = request.param in ("session", "unordered")
    protocol = Drawn(request.param) if drawn else GlobalTemporal(0.2, 0.2)
    return make_dataset(tmp_path_factory.mktemp("log") / "store", protocol, request.param != "items")


def place(dataset: Dataset, row: int) -> tuple[float, float] | None:
    """Where an event was: by itself, else by its item."""
    own = dataset.store.columns.get("place")
    item = dataset.store.items["place"][dataset.store.columns["item"][row]]
    if int(dataset.items(np.asarray([row]))[0]) < FIRST:
        item = np.full(2, math.nan)  # training does not know it
    spot = item if own is None or np.isnan(own[row]).any() else own[row]
    return None if np.isnan(spot).any() else (float(spot[0]), float(spot[1]))


def cell(spot: tuple[float, float], level: int) -> tuple[int, int]:
    """Column and row of a Web-Mercator tile in double precision."""
    latitude = math.radians(spot[0])
    north = math.asinh(math.tan(latitude)) / math.pi
    return int((spot[1] + 180) / 360 * 2**level), int((1 - north) / 2 * 2**level)


@pytest.mark.parametrize("known", [(), ("time",), ("place",), ("time", "place")])
def test_popular_here(dataset: Dataset, known: tuple[str, ...]) -> None:
    plain, rows = Plain(dataset), dataset.targets(TEST)
    baseline = PopularHere(LEVELS, cell=2.0, day=3.0, week=5.0, known=known)
    scores = scores_of(baseline, dataset, rows)
    hours = [t // 3600 % 168 for t in plain.local]
    spots = {row: place(dataset, row) for row in range(len(plain.items))}
    own = dataset.store.columns.get("place")
    nowhere = small = 0
    for b, row in enumerate(rows.tolist()):
        last = readable(dataset.store, dataset.split, row)[-1]
        hour, spot = hours[row if "time" in known else last], spots[last]
        if "place" in known:
            spot = None if own is None or np.isnan(own[row]).any() else tuple(own[row].tolist())
        p = {v: plain.popularity[v] / len(plain.train) for v in plain.catalogue}
        somewhere = [r for r in plain.train if spots[r] is not None]
        inside: list[tuple[list[int], float]] = []
        if spot is not None:
            for level in LEVELS:
                here = [r for r in somewhere if cell(spots[r], level) == cell(spot, level)]
                inside.append((here, 2.0))
            inside.append(([r for r in here if hours[r] % 24 == hour % 24], 3.0))
            inside.append(([r for r in here if hours[r] == hour], 5.0))
            small += len(inside[-1][0]) > 0
        nowhere += spot is None
        for counted, strength in inside:
            count = {v: sum(plain.items[r] == v for r in counted) for v in p}
            p = {v: (count[v] + strength * p[v]) / (len(counted) + strength) for v in p}
        np.testing.assert_allclose(scores[b, FIRST:], list(p.values()), rtol=1e-4)
        assert scores[b, FIRST:].sum() == pytest.approx(1, rel=1e-5)
    assert small > 0 or own is None
    assert nowhere > 0 or (own is not None and "place" not in known)


def test_items_say_where_events_were_that_do_not(dataset: Dataset) -> None:
    rows = np.arange(len(dataset.store))
    for row, found in zip(rows.tolist(), places(dataset, rows), strict=True):
        expected = place(dataset, row)
        assert np.isnan(found).all() if expected is None else tuple(found.tolist()) == expected


def test_what_is_popular_depends_on_the_spot(tmp_path: Path) -> None:
    """Two towns at the ends of the world, each with a favourite; people move now and then."""
    random = np.random.default_rng(3)
    town = [int(t) for t in (random.random((7, 29)) < 0.3).cumsum(axis=1).ravel() % 2]
    items = [2 * int(k) + t for t, k in zip(town, random.geometric(0.5, 7 * 29).clip(max=5), strict=True)]
    spots = [((60.0, 170.0), (-33.0, -179.5))[t] for t in town]
    users = [u for u in range(7) for _ in range(29)]
    store = make_store(tmp_path / "s", users, items, list(range(7 * 29)), places=spots)
    label = np.full(7 * 29, TRAIN, np.int8)
    label[28::29], label[27::29] = TEST, VALID
    dataset = Dataset(store, Split(label, "by hand", {}))
    here = PopularHere(levels=(1, 5), known=("place",)).fit(dataset)
    found = evaluate(here, dataset, TEST).mean("MRR")
    assert found > evaluate(MostPopular().fit(dataset), dataset, TEST).mean("MRR")


def test_it_knows_what_a_model_knows() -> None:
    assert reading(PopularHere(LEVELS, day=2.0), ("scene", "place")) == PopularHere(
        LEVELS, day=2.0, known=("place",)
    )
    assert reading(PopularHere(known=("time",)), ()) == PopularHere()
    assert reading(MostPopular(), ("time",)) == MostPopular()


def test_a_log_without_places_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", **make_log(0))
    with pytest.raises(ConfigError, match=r"PopularHere needs places.*latitude and longitude"):
        PopularHere().fit(Dataset(store, GlobalTemporal()(store)))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"levels": ()}, r"levels=\(\)"),
        ({"levels": (3, 3)}, r"levels=\(3, 3\) must be at least one, ascending"),
        ({"levels": (9, 17)}, "from 0 to 16"),
        ({"levels": (-1, 4)}, "from 0 to 16"),
        ({"cell": 0.0}, "cell=0.0"),
        ({"day": math.nan}, "day=nan"),
        ({"week": math.inf}, "week=inf"),
    ],
)
def test_impossible_settings_are_refused(settings: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        PopularHere(**settings)
