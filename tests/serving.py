"""What tests of the engine share: a model with random parameters, its vocabularies, streams of events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from stjax.events import FIRST, Catalogue, Events, Query, Schema
from stjax.nn import (
    ConcatFusion,
    Distance,
    Encoder,
    Fusion,
    Interest,
    ItemEmbed,
    Pointer,
    Recommender,
    Retrieval,
)
from stjax.serving import Engine, Event, Request, Settings, Shapes
from stjax.serving.codec import Codec
from stjax.serving.vocabulary import Vocabulary
from tests.library import ENCODERS, FUSIONS, INTERESTS, WINDOW
from tests.models import random_batch, random_parameters, run
from tests.random_events import SCHEMA

KNOWN = ("time", "place", "scene")
SHAPES = Shapes(batches=(1, 3), chunks=(1, 4), tops=(5, SCHEMA.items - FIRST))
ALL = SCHEMA.items - FIRST
START = SCHEMA.epoch + 10_000_000


def build(
    encoders: Mapping[str, Encoder] = ENCODERS,
    fusion: Fusion = FUSIONS["convolution"],
    interest: Interest = INTERESTS["gru"],
    known: tuple[str, ...] = KNOWN,
) -> Recommender:
    """A model of many small parts."""
    head = Retrieval(known=known, pointer=Pointer(5, window=WINDOW), distance=Distance())
    return Recommender(ItemEmbed(6), encoders, fusion, interest, head)


def plain(interest: Interest = INTERESTS["gru"], known: tuple[str, ...] = ()) -> Recommender:
    """A model of few parts, which compiles fast."""
    return Recommender(
        ItemEmbed(6), {"context": ENCODERS["context"]}, ConcatFusion(8), interest, Retrieval(known)
    )


def vocabularies(schema: Schema = SCHEMA) -> dict[str, Vocabulary]:
    """Texts such as item7 for the ids of a schema."""
    sizes = {"item": schema.items, "user": schema.users}
    sizes |= {f.name: f.size for f in schema.fields if f.kind in ("categorical", "multi")}
    return {name: Vocabulary([f"{name}{k}" for k in range(FIRST, size)]) for name, size in sizes.items()}


def parts(
    model: Recommender, seed: int = 0, schema: Schema = SCHEMA
) -> tuple[Recommender, Any, Catalogue, dict[str, Vocabulary]]:
    """Model, parameters, catalogue and vocabularies, as an engine takes them."""
    batch, catalogue = random_batch(2, 3, seed, schema)
    params = random_parameters(model, batch, catalogue, method="loss", seed=seed)["params"]
    return model, params, jax.tree.map(np.array, catalogue), vocabularies(schema)


def start(made: Sequence[Any], clock: float = 2e9, folder: Any = None, **settings: Any) -> Engine:
    """An engine of what `parts` gave."""
    settings = {"shapes": SHAPES, "sync": False, "users": 50} | settings
    return Engine(*made, settings=Settings(**settings), folder=folder, clock=lambda: clock)


def stream(
    count: int, users: int = 7, seed: int = 0, ties: float = 0.1, items: int = SCHEMA.items
) -> list[Event]:
    """Events of several users in the order of time; some users, items, scenes and places are unknown."""
    random = np.random.default_rng(seed)
    gap = np.exp(random.uniform(0, np.log(86_400), count)).astype(int)
    gap[random.random(count) < ties] = 0
    times = START + np.cumsum(gap)

    def maybe(value: Any, missing: Any = None) -> Any:
        return value if random.random() < 0.8 else missing

    return [
        Event(
            user=f"user{random.integers(FIRST, FIRST + users)}",  # some of them are new
            item=f"item{random.integers(FIRST, items + 1)}",
            time=int(time),
            utc_offset=int(random.choice([-14_400, 0, 19_800])),
            place=maybe(tuple(random.normal((40.7, -74.0), 0.05).tolist())),
            context={
                "scene": maybe(f"scene{random.integers(FIRST, 7)}"),
                "rating": maybe(float(random.normal())),
                "mood": maybe(random.normal(size=3).tolist()),
            },
        )
        for time in times.tolist()
    ]


def delayed(events: list[Event], most: int, seed: int) -> list[Event]:
    """The events in the order in which they arrive, each up to `most` seconds after its time."""
    random = np.random.default_rng(seed)
    arrival = [event.time + random.integers(0, most + 1) for event in events]
    return [events[k] for k in np.argsort(arrival, kind="stable")]


def request(user: str, seed: int = 0, **more: Any) -> Request:
    """A request some time after the stream."""
    random = np.random.default_rng(seed)
    place = tuple(random.normal((40.7, -74.0), 0.05).tolist())
    scene = f"scene{random.integers(FIRST, 6)}"
    return Request(user, START + 5_000_000 + seed, -14_400, place, {"scene": scene}, **more)


def whole(made: Sequence[Any], events: Sequence[Event], asked: Request) -> dict[str, float]:
    """log p of every item by the model's forward pass over the user's events, in the order of time."""
    model, params, catalogue, vocabulary = made
    codec = Codec(catalogue.schema, vocabulary)
    own = sorted((event for event in events if event.user == asked.user), key=lambda event: event.time)
    length = -(-(len(own) + 1) // 32) * 32  # few shapes, for few compilations
    rows = np.full((1, length), codec.missing, codec.row)
    for k, event in enumerate(own):
        rows[0, k] = codec.event(event, 0)
    history: Events = codec.events(rows, np.arange(length)[None] < len(own))
    query = Query(
        np.asarray([codec.time(asked.time)], np.int32),
        np.asarray([asked.utc_offset], np.int32),
        np.asarray([codec.place(asked.place)], np.float32),
        {"scene": np.asarray([codec.context("scene", asked.context.get("scene"))], np.int32)},
    )
    query = Query(
        query.time if "time" in model.known else None,
        query.utc_offset if "time" in model.known else None,
        query.place if "place" in model.known else None,
        query.categorical if "scene" in model.known else {},
    )
    scores = np.asarray(run(model, {"params": params}, history, query, catalogue, method="scores"))[0]
    return dict(zip(vocabulary["item"].texts, scores[FIRST:].tolist(), strict=True))


def assert_equal(
    engine: Engine, made: Sequence[Any], events: Sequence[Event], requests: Sequence[Request]
) -> None:
    """The engine's answers are those of the forward pass, best first."""
    for asked, found in zip(requests, engine.recommend(requests, ALL), strict=True):
        expected = whole(made, events, asked)
        assert sorted(found.items) == sorted(expected)
        np.testing.assert_allclose(found.scores, [expected[item] for item in found.items], atol=1e-4)
        assert (np.diff(found.scores) <= 0).all()
