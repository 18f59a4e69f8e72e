"""A synthetic city where people's tastes change one day: what learning beside serving gains there, on later
events, over a frozen model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest

from stjax.data.city import City, World, simulate
from stjax.events import FIRST, Attributes, Batch, Catalogue, Events, Field, Schema
from stjax.nn import GRU, ConcatFusion, ItemEmbed, Recommender, Retrieval, TimeEmbed
from stjax.serving import Engine, Event, Request, Settings, Shapes
from stjax.serving.vocabulary import Vocabulary

CITY = City(users=151, events_per_user=80, items=83, categories=11, archetypes=3, cells=5, seed=5)


def changed(seed: int) -> World:
    """The city with the tastes of another one: venues, homes, hours and favourites are as they were."""
    other = World.of(dataclasses.replace(CITY, seed=seed))
    return dataclasses.replace(World.of(CITY), taste=other.taste)


def log(world: World) -> list[Event]:
    """Times and all draws are the same in each world: they are hashes of user and event."""
    logs = simulate(world, 0, CITY.users)
    owner = np.repeat(np.arange(CITY.users), logs.length).tolist()
    rows = zip(owner, logs.item.tolist(), logs.time.tolist(), strict=True)
    return [Event(f"u{user}", f"v{item}", time, 0) for user, item, time in rows]


def untrained() -> tuple[Recommender, Any, Catalogue, dict[str, Vocabulary]]:
    """A small model with random parameters, which reads items, their categories and the time."""
    kind = Field("category", "categorical", "item", CITY.categories + FIRST)
    schema = Schema(CITY.items + FIRST, CITY.users + FIRST, 0, place=False, fields=(kind,))
    category = np.concatenate([[0, 0], World.of(CITY).category + FIRST]).astype(np.int32)
    nowhere = np.full((schema.items, 2), np.nan, np.float32)
    catalogue = Catalogue(nowhere, schema, Attributes(categorical={"category": category}))
    encoders, head = {"time": TimeEmbed(8)}, Retrieval(known=("time",))
    model = Recommender(ItemEmbed(24), encoders, ConcatFusion(32), GRU(), head)
    ids = np.full((1, 3), FIRST, np.int32)
    events = Events(ids, ids, ids, 0 * ids, np.full((1, 3, 2), np.nan, np.float32), ids > 0)
    initial = jax.jit(model.init, static_argnames="method")
    params = initial(jax.random.key(0), Batch(events, np.ones((1, 2))), catalogue, method="loss")["params"]
    sizes = {"item": ("v", CITY.items), "user": ("u", CITY.users), "category": ("c", CITY.categories)}
    words = {name: Vocabulary([f"{sign}{k}" for k in range(n)]) for name, (sign, n) in sizes.items()}
    return model, params, catalogue, words


def served(made: Sequence[Any], params: Any) -> Engine:
    shapes = Shapes((256,), (1, 16), (CITY.items,))
    return Engine(made[0], params, *made[2:], settings=Settings(256, CITY.users, shapes=shapes))


def reciprocal_ranks(engine: Engine, events: Sequence[Event]) -> np.ndarray:
    """Each user's mean, (U,): every event is asked for at its time, and then told."""
    by_user: dict[str, list[Event]] = {}
    for event in events:
        by_user.setdefault(event.user, []).append(event)
    found: dict[str, list[float]] = {user: [] for user in by_user}
    while now := [own.pop(0) for own in by_user.values() if own]:
        asked = [Request(event.user, event.time, 0) for event in now]
        for event, answer in zip(now, engine.recommend(asked, CITY.items), strict=True):
            found[event.user].append(1 / (1 + answer.items.index(event.item)))
        engine.observe(now)
    return np.asarray([np.mean(own) for own in found.values()])


def error(values: np.ndarray) -> float:
    """Standard error of the mean, by the bootstrap."""
    draws = np.random.default_rng(0).integers(len(values), size=(1_009, len(values)))
    return float(values[draws].mean(axis=1).std())


@pytest.mark.slow
def test_learning_beside_serving_gains_where_tastes_change() -> None:
    """Over a frozen model, and more than the same steps gain where nothing changes: user by user, each with
    more than two standard errors."""
    made, gain = untrained(), {}
    worlds = {"as before": log(World.of(CITY)), "changed": log(changed(6))}
    day, later = np.quantile([event.time for event in worlds["as before"]], [0.5, 0.8]).tolist()
    before = [event for event in worlds["as before"] if event.time < day]
    teacher = served(made, made[1])
    assert teacher.fine_tune(before, groups=tuple(made[1]), epochs=10, learning_rate=0.02).swapped
    params = teacher._core.weights.params
    for name, events in worlds.items():
        known = before + [event for event in events if day <= event.time < later]
        rest = [event for event in events if event.time >= later]
        frozen, learning = served(made, params), served(made, params)
        for engine in (frozen, learning):
            engine.observe(known)
        assert learning.fine_tune(known, since=day, epochs=3, learning_rate=5e-3).swapped
        assert frozen.version == teacher.version != learning.version
        gain[name] = reciprocal_ranks(learning, rest) - reciprocal_ranks(frozen, rest)
    drifted, more = gain["changed"], gain["changed"] - gain["as before"]
    assert len(drifted) > 80
    assert drifted.mean() > 2 * error(drifted) > 0
    assert more.mean() > 2 * error(more) > 0
