"""A synthetic city as an event store: any size, never through a text file, with known probabilities."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from stjax.data.city import City, World, simulate
from stjax.data.city.people import lengths
from stjax.data.city.world import DEVICES, HOME, MOVES, WORK
from stjax.data.store import EventStore, StoreError, write_store
from stjax.events import FIRST, Field, Schema

EPOCH = 1_704_067_200  # 2024-01-01 00:00 UTC, a Monday
UTC_OFFSET = 3_600
_START = 7 * 86_400  # of local time: a week after the epoch, so that UTC never precedes it
_BLOCK = 16_384  # users simulated together; the log does not depend on it

_CHUNK = 1 << 22  # rows

_COLUMNS = {
    "user": np.int32,
    "item": np.int32,
    "time": np.int32,
    "utc_offset": np.int32,
    "place": np.float32,
    "device": np.int32,
    "scene": np.int32,
    "archetype": np.int32,
}


def generate(city: City, *, block: int = _BLOCK) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The city's log in memory: offsets int64 (U+1,) and the event store's columns, (N,) or (N, 2)."""
    offsets = _offsets(city)
    columns = {name: np.empty(_shape(name, offsets[-1]), dtype) for name, dtype in _COLUMNS.items()}
    _fill(city, offsets, columns, block)
    return offsets, columns


def write_city(
    city: City, path: str | os.PathLike[str], *, overwrite: bool = False, block: int = _BLOCK
) -> EventStore:
    """Simulate a city into an event store, `block` users at a time, in bounded memory.

    Event fields `device` and `scene` (how the user moves on); item field `category`; meta field
    `archetype`, the hidden taste, from which `Oracle` computes the true probabilities. The city's
    parameters are kept in the quality report. Raises StoreError as `write_store` does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    offsets, world = _offsets(city), World.of(city)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.columns-") as scratch:
        columns = {
            name: np.lib.format.open_memmap(f"{scratch}/{name}.npy", "w+", dtype, _shape(name, offsets[-1]))
            for name, dtype in _COLUMNS.items()
        }
        _fill(city, offsets, columns, block)
        empty = np.full((FIRST, 2), np.nan, np.float32)
        return write_store(
            path,
            schema=_schema(city),
            offsets=offsets,
            columns=columns,
            items={
                "place": np.concatenate([empty, world.place]),
                "category": np.concatenate([[0, 0], world.category + FIRST]).astype(np.int32),
            },
            vocabulary=_vocabulary(city),
            quality=_quality(city, offsets, columns),
            overwrite=overwrite,
        )


def city_of(store: EventStore) -> City:
    """The parameters from which a store was simulated. Raises StoreError for any other store."""
    if (parameters := store.quality.get("synthetic_city")) is None:
        raise StoreError(f"{store.path} is not a synthetic city, so its probabilities are unknown")
    return City(**parameters)


def _offsets(city: City) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths(city, np.arange(city.users)))]).astype(np.int64)


def _shape(name: str, events: int) -> tuple[int, ...]:
    return (int(events), 2) if name == "place" else (int(events),)


def _fill(city: City, offsets: np.ndarray, columns: Mapping[str, np.ndarray], block: int) -> None:
    world = World.of(city)
    for first in range(0, city.users, block):
        stop = min(first + block, city.users)
        logs = simulate(world, first, stop)
        rows = slice(offsets[first], offsets[stop])
        columns["user"][rows] = np.repeat(np.arange(first, stop) + FIRST, logs.length)
        columns["item"][rows] = logs.item + FIRST
        columns["time"][rows] = logs.time + (_START - UTC_OFFSET)
        columns["utc_offset"][rows] = UTC_OFFSET
        columns["place"][rows] = world.place[logs.item]
        columns["device"][rows] = logs.device + FIRST
        columns["scene"][rows] = logs.move + FIRST
        columns["archetype"][rows] = logs.taste + FIRST


def _quality(city: City, offsets: np.ndarray, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A report in the form of `stjax.data.quality`: nothing is missing, dropped, repaired or tied."""
    events = int(offsets[-1])
    visits = np.zeros(city.items + FIRST, np.int64)
    for first in range(0, events, _CHUNK):
        visits += np.bincount(columns["item"][first : first + _CHUNK], minlength=len(visits))
    times = (int(columns["time"].min()), int(columns["time"].max()))
    ends = [datetime.fromtimestamp(t + EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for t in times]
    return {
        "rows": {"read": events, "kept": events, "dropped": 0},
        "dropped": {},
        "repaired": {},
        "examples": {},
        "users": city.users,
        "items": city.items,
        "time": {"first": ends[0], "last": ends[1]},
        "ties": 0,
        "missing": {"events": {}, "items": {}},
        "items with several values": {},
        "events per user": _spread(np.diff(offsets)),
        "events per item": _spread(visits[FIRST:]),
        "synthetic_city": dataclasses.asdict(city),
    }


def _spread(counts: np.ndarray) -> dict[str, float]:
    middle = {f"{q:.0%}": float(np.quantile(counts, q)) for q in (0.05, 0.5, 0.95)}
    return {"min": int(counts.min()), **middle, "max": int(counts.max()), "mean": counts.mean().item()}


def _schema(city: City) -> Schema:
    return Schema(
        items=city.items + FIRST,
        users=city.users + FIRST,
        epoch=EPOCH,
        place=True,
        fields=(
            Field("device", "categorical", "event", len(DEVICES) + FIRST),
            Field("scene", "categorical", "event", len(MOVES) + FIRST),
            Field("category", "categorical", "item", city.categories + FIRST),
            Field("archetype", "categorical", "meta", city.archetypes + FIRST),
        ),
    )


def _vocabulary(city: City) -> dict[str, pl.Series]:
    def numbered(word: str, count: int) -> pl.Series:
        return pl.select(pl.lit(f"{word} ") + pl.int_range(count).cast(pl.String)).to_series()

    category = [f"category {c}" for c in range(city.categories)]
    category[HOME], category[WORK] = "home", "work"
    return {
        "user": numbered("user", city.users),
        "item": numbered("venue", city.items),
        "device": pl.Series(DEVICES),
        "scene": pl.Series(MOVES),
        "category": pl.Series(category),
        "archetype": numbered("archetype", city.archetypes),
    }
