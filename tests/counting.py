"""A model that counts, so that an event which is lost or read twice shows. And an engine of it to be killed:

`python -m tests.counting FOLDER` observes the events of `stream` from where the folder's engine stands, and
prints after each call how many are acknowledged. `python -m tests.counting FOLDER FIRST` observes them from
event FIRST on, whatever the engine has, each with an id of its own.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from stjax.events import FIRST, Catalogue, Events, Query, Schema
from stjax.ops.sequence import select
from stjax.serving import Engine, Event, Settings, Shapes
from stjax.serving.vocabulary import Vocabulary

ITEMS, USERS = 11, 5
SCHEMA = Schema(ITEMS + FIRST, USERS + FIRST, 345_600, place=True)
TEXTS = {
    "item": Vocabulary([f"i{k}" for k in range(ITEMS)]),
    "user": Vocabulary([f"u{k}" for k in range(USERS)]),
}


class Counts(nn.Module):
    """The score of an item is how often the user had it, plus 1 / 1000 where it was the last; of others 0."""

    known: tuple[str, ...] = ()

    def item_table(self, catalogue: Catalogue) -> jax.Array:
        return jnp.zeros((catalogue.place.shape[0], 1))

    def init_state(self, batch: int) -> Any:
        return jnp.zeros((batch, SCHEMA.items)), jnp.zeros(batch, jnp.int32)

    def step(self, state: Any, event: Events, catalogue: Catalogue, table: Any = None) -> Any:
        counts = state[0] + nn.one_hot(event.item, SCHEMA.items) * event.valid[:, None]
        return counts, select(event.valid, event.item, state[1])

    def read(self, state: Any, events: Events, catalogue: Catalogue, table: Any = None) -> Any:
        for k in range(events.item.shape[1]):
            state = self.step(state, events[:, k], catalogue)
        return state

    def answer(self, state: Any, query: Query, catalogue: Catalogue, table: Any = None) -> jax.Array:
        scores = state[0] + nn.one_hot(state[1], SCHEMA.items) / 1000
        return jnp.where(jnp.arange(SCHEMA.items) < FIRST, -jnp.inf, scores)


def counting(folder: Path | None = None, clock: Any = lambda: 2e9, **settings: Any) -> Engine:
    """An engine that counts."""
    places = np.random.default_rng(0).normal((40.7, -74.0), 0.05, (SCHEMA.items, 2)).astype(np.float32)
    places[:FIRST] = np.nan
    settings = {"users": 50, "capacity": 3, "shapes": Shapes((1, 3), (1, 4), (5, ITEMS))} | settings
    made = Counts(), {}, Catalogue(places, SCHEMA), TEXTS
    return Engine(*made, name="counts", settings=Settings(**settings), folder=folder, clock=clock)


def stream(count: int) -> list[Event]:
    """One user's events after the other's, in the order of time."""
    random = np.random.default_rng(3)
    return [
        Event(f"u{random.integers(USERS + 2)}", f"i{random.integers(ITEMS)}", 1_000_000 + k // 2)
        for k in range(count)
    ]


def counts(engine: Engine, user: str) -> dict[str, int]:
    """How often the state says that the user had each item."""
    from stjax.serving import Request

    found = engine.recommend([Request(user)], ITEMS)[0]
    pairs = zip(found.items, found.scores.tolist(), strict=True)
    return {item: int(score) for item, score in pairs if score >= 1}


def last(engine: Engine, user: str) -> str | None:
    """The item that the state has read last."""
    from stjax.serving import Request

    found = engine.recommend([Request(user)], ITEMS)[0]
    there = [item for item, score in zip(found.items, found.scores.tolist(), strict=True) if score % 1]
    return there[0] if there else None


def expected(events: Sequence[Event], user: str) -> dict[str, int]:
    """What `counts` should be."""
    own = [event.item for event in events if event.user == user]
    return {item: own.count(item) for item in set(own)}


def named(events: Sequence[Event]) -> list[Event]:
    """With ids of their own, by their positions."""
    return [dataclasses.replace(event, id=f"number {k}") for k, event in enumerate(events)]


def main(folder: str, first: str | None = None) -> None:
    engine, events = counting(Path(folder), snapshot_every=23), stream(100_000)
    at, random = engine.status()["events"], np.random.default_rng()
    if first is not None:
        at, events = int(first), named(events)
    print(at, flush=True)
    while True:
        call = events[at : at + int(random.integers(1, 6))]
        done = engine.observe(call)
        assert done.accepted + len(done.repeated) == len(call)
        at += len(call)
        print(at, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
