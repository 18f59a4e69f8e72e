"""Random events and catalogues for tests of modules: irregular gaps, missing places, padding."""

from __future__ import annotations

import numpy as np

from stjax.events import FIRST, Attributes, Catalogue, Events, Field, Schema

SCHEMA = Schema(
    items=23,
    users=7,
    epoch=345_600,
    place=True,
    fields=(
        Field("category", "categorical", "item", 5),
        Field("price", "numeric", "item"),
        Field("text", "vector", "item", 4),
        Field("genres", "multi", "item", 7, width=3),
        Field("group", "categorical", "user", 4),
        Field("hobbies", "multi", "user", 5, width=2),
        Field("age", "numeric", "user"),
        Field("face", "vector", "user", 2),
        Field("scene", "categorical", "event", 6),
        Field("rating", "numeric", "event"),
        Field("mood", "vector", "event", 3),
    ),
)


def random_catalogue(seed: int = 0, schema: Schema = SCHEMA) -> Catalogue:
    """Attributes for every item of the schema; some places and prices are missing."""
    rng = np.random.default_rng(seed)
    v = schema.items
    place = random_places(rng, (v,))
    place[:FIRST] = np.nan
    return Catalogue(
        place,
        schema,
        items=random_attributes(rng, schema, "item", v),
        users=random_attributes(rng, schema, "user", schema.users),
    )


def random_attributes(rng: np.random.Generator, schema: Schema, role: str, rows: int) -> Attributes:
    """Attributes of so many ids; ids PADDING and UNSEEN have none, and some of the others lack some."""

    def some(values: np.ndarray, missing: float) -> np.ndarray:
        values[:FIRST] = missing
        return values

    def ids(f: Field, *width: int) -> np.ndarray:
        values = np.sort(rng.integers(0, f.size, (rows, *width)).astype(np.int32))
        return some(values[:, ::-1] if width else values[rng.permutation(rows)], 0)

    return Attributes(
        categorical={f.name: ids(f) for f in schema.select(role, "categorical")},
        multi={f.name: ids(f, f.width) for f in schema.select(role, "multi")},
        numeric={f.name: some(random_numbers(rng, (rows,)), np.nan) for f in schema.select(role, "numeric")},
        vector={
            f.name: some(rng.normal(size=(rows, f.size)).astype("f4"), np.nan)
            for f in schema.select(role, "vector")
        },
    )


def random_events(
    batch: int, length: int, seed: int = 0, schema: Schema = SCHEMA, full: bool = False
) -> Events:
    """Sequences of 1..length valid events (all of them with `full`), as a store's gather would give them."""
    rng = np.random.default_rng(seed)
    shape = (batch, length)
    valid = np.arange(length) < rng.integers(1, length + 1, (batch, 1))
    valid |= full
    gap = np.exp(rng.uniform(0, np.log(30 * 86_400), shape)).astype(np.int32)
    gap[rng.random(shape) < 0.1] = 0  # ties in time

    def ids(size: int) -> np.ndarray:
        return np.where(valid, rng.integers(0, size, shape), 0).astype(np.int32)

    return Events(
        item=np.where(valid, rng.integers(1, schema.items, shape), 0).astype(np.int32),
        user=np.broadcast_to(rng.integers(1, schema.users, (batch, 1)).astype(np.int32), shape),
        time=np.where(valid, np.cumsum(gap, axis=1) + 10_000_000, 0).astype(np.int32),
        utc_offset=np.where(valid, rng.choice([-14_400, 0, 19_800], shape), 0).astype(np.int32),
        place=np.where(valid[..., None], random_places(rng, shape), np.nan).astype(np.float32),
        valid=valid,
        categorical={f.name: ids(f.size) for f in schema.select("event", "categorical")},
        numeric={
            f.name: np.where(valid, random_numbers(rng, shape), np.nan).astype(np.float32)
            for f in schema.select("event", "numeric")
        },
        vector={
            f.name: np.where(_some(rng, valid)[..., None], rng.normal(size=(*shape, f.size)), np.nan).astype(
                "f4"
            )
            for f in schema.select("event", "vector")
        },
    )


def _some(rng: np.random.Generator, valid: np.ndarray) -> np.ndarray:
    return valid & (rng.random(valid.shape) < 0.8)


def random_places(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Places within a city, a fifth of them unknown: (*shape, 2) float32."""
    place = rng.normal((40.7, -74.0), 0.05, (*shape, 2)).astype(np.float32)
    place[rng.random(shape) < 0.2] = np.nan
    return place


def random_numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers, a fifth of them missing."""
    values = rng.normal(3.0, 10.0, shape).astype(np.float32)
    values[rng.random(shape) < 0.2] = np.nan
    return values
