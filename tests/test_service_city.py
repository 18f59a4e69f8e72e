"""What the page of the example service shows: items and recent events, as the log has them."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest

from examples.service.city import City, Log, Recent
from examples.service.nearby import Nearby
from stjax.data.dataset import Dataset
from stjax.data.log import LogColumns
from stjax.data.prepare import prepare
from stjax.data.protocols import LeaveOneOut
from stjax.data.store import EventStore
from stjax.errors import ConfigError
from stjax.ops.geo import distance_km
from stjax.serving import Event
from stjax.serving.load import Trained
from stjax.serving.vocabulary import vocabularies
from tests.counting import Counts

ITEMS = {  # latitude, longitude, kind, colour
    "bar": (40.5, -74.25, "drink", "red"),
    "café": (40.75, -74.0, "drink", "blue"),
    "museum": (40.25, -73.5, "sight", "red"),
    "attic": (None, None, None, "blue"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Of two users; only the last event of each is not for training."""
    rows = [("ann", item, 1_360_000_000 + 60 * k) for k, item in enumerate([*ITEMS, "bar", "café"])]
    rows += [("bob/1", item, 1_360_000_500 + 60 * k) for k, item in enumerate(["museum", "bar", "bar"])]
    log = [(*row, *ITEMS[row[1]]) for row in rows]
    names = ["user", "item", "time", "latitude", "longitude", "kind", "colour"]
    columns = LogColumns(
        time_format="seconds",
        utc_offset=-18_000,
        latitude="latitude",
        longitude="longitude",
        item_categorical=("kind", "colour"),
    )
    out = tmp_path_factory.mktemp("city") / "store"
    prepare(pl.DataFrame(log, names, orient="row").cast({"time": pl.String}), columns, out)
    store = EventStore.open(out)
    dataset = Dataset(store, LeaveOneOut()(store))
    catalogue = jax.tree.map(np.asarray, dataset.catalogue)
    return Trained("two", Counts(("time",)), {}, catalogue, vocabularies(dataset), dataset)


def test_items_have_their_place_and_kind(trained: Trained) -> None:
    for kind, at in ((None, 2), ("kind", 2), ("colour", 3)):
        city = City.of(trained, kind=kind)
        found = city.items()
        assert sorted(found["id"]) == sorted(ITEMS)
        for item, place, own in zip(found["id"], found["place"], found["kind"], strict=True):
            assert place == (None if item == "attic" else list(ITEMS[item][:2]))
            assert (found["kinds"][own] if own >= 0 else None) == ITEMS[item][at]
        assert city.reads == ("time",)
    with pytest.raises(ConfigError, match=r"kind='smell' .* \['colour', 'kind'\]"):
        City.of(trained, kind="smell")


def test_recent_events_are_those_of_the_log(trained: Trained) -> None:
    recent = City.of(trained).recent
    events = recent.of("bob/1")
    assert [(e.item, e.time, e.utc_offset) for e in events] == [
        (item, 1_360_000_500 + 60 * k, -18_000) for k, item in enumerate(["museum", "bar", "bar"])
    ]
    assert [e.place for e in recent.of("ann")][2:4] == [(40.25, -73.5), None]
    assert [e.item for e in Log(trained.dataset.store, each=2)("ann")] == ["bar", "café"]
    assert recent.of("nobody") == []
    assert City.of(trained, history=False).recent.of("ann") == []


def test_new_events_are_kept_within_bounds_and_over_restarts(trained: Trained, tmp_path: Path) -> None:
    recent = Recent(Log(trained.dataset.store), each=3, users=2)
    recent.keep(tmp_path / "recent.jsonl")
    new = [
        Event("bob/1", f"n{k}", 1_360_000_700.5 + k, place=(1.0, 2.0), context={"a": [1]}) for k in range(2)
    ]
    recent.add(new)
    assert recent.of("bob/1")[1:] == new
    recent.add([Event("eve", f"n{k}", k) for k in (5, 3, 4, 6)])
    assert [e.time for e in recent.of("eve")] == [3, 4, 6]  # what came first went, whatever its time
    with (tmp_path / "recent.jsonl").open("a") as file:
        file.write('["eve", "cut')  # the process was killed as it wrote
    for _ in range(2):
        again = Recent(each=3, users=2)
        again.keep(tmp_path / "recent.jsonl")
        assert again.of("bob/1") == new
        assert again.of("eve") == recent.of("eve")
        again.close()
    recent.add([Event("zoe", "n", 1)])  # one user too many: who came longest ago
    assert [e.item for e in recent.of("bob/1")] == ["museum", "bar", "bar"]
    assert len(recent.of("eve")) == 3
    recent.close()


def test_the_file_of_new_events_stays_small(tmp_path: Path) -> None:
    file, recent = tmp_path / "recent.jsonl", Recent()
    recent.keep(file, most=1000)
    for k in range(100):
        recent.add([Event("ann", f"n{k}", k), Event("bob", f"n{k}", k)])
        assert sum(kept.stat().st_size for kept in tmp_path.iterdir()) < 2500
    recent.close()
    again = Recent()
    again.keep(file, most=1000)
    kept = [e.time for e in again.of("ann")]
    assert kept == list(range(100 - len(kept), 100))
    assert len(kept) >= 7
    again.close()


def test_places_are_moved_by_the_mean_distance_in_all_directions() -> None:
    place = np.tile(np.float32([[60.0, 10.0]]), (20_000, 1))
    place[-1] = np.nan
    moved = Nearby(km=0.7)._moved(place)
    assert np.isnan(moved[-1]).all()
    far = np.asarray(distance_km(place[:-1], moved[:-1]))
    np.testing.assert_allclose([far.mean(), far.std()], 0.7, rtol=0.03)
    shift = (moved - place)[:-1] * np.cos(np.radians([0.0, 60.0]))
    np.testing.assert_allclose(shift.mean(axis=0), 0, atol=2e-4)
    np.testing.assert_allclose(shift[:, 0].std(), shift[:, 1].std(), rtol=0.05)
    assert (Nearby(km=0.7)._moved(place)[:-1] == moved[:-1]).all()
    assert (Nearby(km=0.7, seed=1)._moved(place)[:-1] != moved[:-1]).any()
