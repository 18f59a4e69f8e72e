"""Encoders of space against plain NumPy, event by event, and what must not change what they say."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.events import Catalogue, Events
from stjax.nn.base import Encoder
from stjax.nn.space import CellEmbed, HomeEmbed, MovementEmbed, PlaceEmbed, SpaceEmbed, event_place, located
from stjax.nn.space.home import DISTANCE_BUCKETS
from stjax.ops import cells, geo
from stjax.ops.gaps import BLUR_KM
from tests.random_events import random_catalogue, random_events
from tests.strict import strict
from tests.test_ops_geo import frame64, unit64

pytestmark = strict

B, L, D = 3, 11, 6
HALF_LIFE = 40 * 86_400
ENCODERS = {
    "space2vec": SpaceEmbed(D, scales=3),
    "sphere2vec": SpaceEmbed(D, scales=3, encoding="sphere2vec"),
    "harmonics": SpaceEmbed(D, encoding="harmonics", degree=3),
    "cells": CellEmbed(D, levels=(5, 14), buckets=13),
    "movement": MovementEmbed(D),
    "home": HomeEmbed(D, half_life=HALF_LIFE),
}
every_encoder = pytest.mark.parametrize("name", ENCODERS)
# Where turning the Earth about its axis changes nothing.
RELATIVE = ("movement", "home")


@jax.jit
def as_arrays(tree):
    return tree


def history(seed: int = 0, full: bool = False) -> Events:
    """Every third event of each row from the third on lacks a place, and so does half of the items."""
    events = random_events(B, L, seed, full=full)
    place = np.array(events.place)
    place[:, 2::3] = np.nan
    return as_arrays(events.replace(place=place))


CATALOGUE: Catalogue = random_catalogue()
CATALOGUE.place[::2] = np.nan


def parameters(encoder: Encoder, events: Events):
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), events, CATALOGUE)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes)


@partial(jax.jit, static_argnames="encoder")
def run(encoder: Encoder, variables, events: Events, catalogue: Catalogue):
    return encoder.apply(variables, events, catalogue)


@partial(jax.jit, static_argnames="encoder")
def run_step(encoder: Encoder, variables, state, event: Events, catalogue: Catalogue):
    return encoder.apply(variables, state, event, catalogue, method="step")


@every_encoder
@pytest.mark.parametrize("where", ["city", "date line", "pole"])
def test_step_by_step_equals_the_whole_sequence(name: str, where: str) -> None:
    encoder, events = ENCODERS[name], history()
    known = np.asarray(geo.known(event_place(events, CATALOGUE)))
    valid = np.asarray(events.valid)
    # Known, unknown, known again: what a state must carry over.
    assert any(
        known[b, i] and valid[b, j] and not known[b, j] and known[b, j + 1 :].any()
        for b in range(B)
        for i in range(L)
        for j in range(i + 1, L)
    )
    move = {"city": (0.0, 0.0), "date line": (-58.0, -106.0), "pole": (49.2, 20.0)}[where]

    def moved(place):
        place = place + jnp.asarray(move)
        east = (place[..., 1] + 180) % 360 - 180
        return jnp.stack([jnp.minimum(place[..., 0], 90.0), east], axis=-1)

    events = events.replace(place=moved(events.place))
    catalogue = dataclasses.replace(CATALOGUE, place=moved(CATALOGUE.place))
    variables = parameters(encoder, events)
    whole = run(encoder, variables, events, catalogue)
    assert whole.shape == (B, L, D) and whole.dtype == jnp.float32
    state = encoder.init_state(B)
    for position in range(L):
        event = events[:, position]
        before = state
        state, x = run_step(encoder, variables, state, event, catalogue)
        np.testing.assert_allclose(x, whole[:, position], atol=1e-4)
        for new, old in zip(jax.tree.leaves(state), jax.tree.leaves(before), strict=True):
            assert new.shape == old.shape and new.dtype == old.dtype and new.shape[0] == B
            np.testing.assert_array_equal(new[~event.valid], old[~event.valid])


@every_encoder
def test_padding_and_the_future_change_nothing(name: str) -> None:
    encoder, events = ENCODERS[name], history(2)
    variables = parameters(encoder, events)
    other = history(9, full=True)

    def mix(keep: jax.Array) -> Events:
        def leaf(a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.where(keep.reshape(keep.shape + (1,) * (a.ndim - 2)), a, b)

        return jax.tree.map(leaf, events, other)

    expected = np.asarray(run(encoder, variables, events, CATALOGUE))
    valid = np.asarray(events.valid)
    assert not valid.all()
    refilled = run(encoder, variables, mix(events.valid).replace(valid=events.valid), CATALOGUE)
    np.testing.assert_array_equal(np.asarray(refilled)[valid], expected[valid])
    early = np.broadcast_to(np.arange(L) < 4, (B, L))
    changed = np.asarray(run(encoder, variables, mix(jnp.asarray(early)), CATALOGUE))
    np.testing.assert_array_equal(changed[early], expected[early])
    assert (changed[~early & valid] != expected[~early & valid]).any()


@every_encoder
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    """Also those of places, among them unknown ones, one visited twice in a row and one visited at once."""
    encoder, events = ENCODERS[name], history(3, full=True)
    place = events.place.at[:, 4:6].set(events.place[:, :1]).at[:, 0].set(40.0)
    events = events.replace(place=place, time=events.time.at[:, 7].set(events.time[:, 6]))
    variables = parameters(encoder, events)

    @jax.jit
    def gradients(variables, place: jax.Array, catalogue: jax.Array):
        def loss(variables, place: jax.Array, catalogue: jax.Array) -> jax.Array:
            items = dataclasses.replace(CATALOGUE, place=catalogue)
            return (encoder.apply(variables, events.replace(place=place), items) ** 2).sum()

        return jax.grad(loss, argnums=(0, 1, 2))(variables, place, catalogue)

    of_variables, *of_places = gradients(variables, events.place, jnp.asarray(CATALOGUE.place))
    for path, g in jax.tree_util.tree_leaves_with_path(of_variables):
        assert np.isfinite(g).all(), path
        assert (np.asarray(g) != 0).any(), path
    for g in of_places:
        assert np.isfinite(g).all()
    assert name == "cells" or (np.asarray(of_places[0]) != 0).any()


@every_encoder
def test_located_events_give_the_same(name: str) -> None:
    encoder, events = ENCODERS[name], history()
    variables = parameters(encoder, events)
    once = located(events, CATALOGUE)
    assert np.isfinite(once.place).sum() > np.isfinite(events.place).sum()
    np.testing.assert_array_equal(event_place(once, CATALOGUE), once.place)
    nothing = dataclasses.replace(CATALOGUE, place=np.full_like(CATALOGUE.place, np.nan))
    expected = run(encoder, variables, events, CATALOGUE)
    np.testing.assert_array_equal(run(encoder, variables, once, nothing), expected)


@pytest.mark.parametrize("name", RELATIVE)
def test_turning_the_earth_changes_no_relation(name: str) -> None:
    """By steps that float32 adds exactly, over the date line too."""
    encoder, events = ENCODERS[name], history(4, full=True)
    variables = parameters(encoder, events)

    def turned(degrees: float):
        def of(place):
            rounded = jnp.round(place * 4096) / 4096
            return rounded.at[..., 1].set((rounded[..., 1] + degrees + 180) % 360 - 180)

        return events.replace(place=of(events.place)), dataclasses.replace(
            CATALOGUE, place=of(jnp.asarray(CATALOGUE.place))
        )

    expected = run(encoder, variables, *turned(0.0))
    for degrees in (90.0, -106.0):
        np.testing.assert_allclose(run(encoder, variables, *turned(degrees)), expected, atol=1e-4)


def test_the_clock_is_read_by_differences_only() -> None:
    for name in RELATIVE:
        encoder, events = ENCODERS[name], history(5, full=True)
        variables = parameters(encoder, events)
        later = events.replace(time=events.time + 1_900_000_000)
        expected = run(encoder, variables, events, CATALOGUE)
        np.testing.assert_array_equal(run(encoder, variables, later, CATALOGUE), expected)


def test_movement_is_that_of_numpy() -> None:
    encoder, events = ENCODERS["movement"], history(6, full=True)
    events = events.replace(time=events.time.at[:, 4:7].set(events.time[:, 4:5]))
    variables = parameters(encoder, events)
    place, time = np.asarray(event_place(events, CATALOGUE)), np.asarray(events.time)
    features = np.zeros((B, L, DISTANCE_BUCKETS + 6))
    kinds = set()
    for row in range(B):
        last = None
        for i in range(L):
            x = features[row, i]
            known = np.isfinite(place[row, i]).all()
            if last is None or not known:
                x[DISTANCE_BUCKETS] = 1
                kinds.add("none")
            else:
                km, way = relation(unit64(place[row, last][None])[0], unit64(place[row, i][None])[0])
                x[int(np.clip(np.floor(np.log2(max(km, 1e-6))) + 5, 0, DISTANCE_BUCKETS - 1))] = 1
                gap = time[row, i] - time[row, last]
                kinds.add("at once" if gap == 0 else "moved")
                speed = 0 if gap == 0 else km / (gap / 3600)
                x[DISTANCE_BUCKETS + 1 :] = [
                    0.2 * np.log1p(km),
                    0.2 * np.log1p(speed),
                    gap == 0,
                    *way * km / (km + BLUR_KM),
                ]
            last = i if known else last
    assert kinds == {"none", "at once", "moved"}
    compare(encoder, variables, events, features)


def test_home_is_that_of_numpy() -> None:
    encoder, events = ENCODERS["home"], history(7)
    variables = parameters(encoder, events)
    place, time = np.asarray(event_place(events, CATALOGUE)), np.asarray(events.time)
    features = np.zeros((B, L, DISTANCE_BUCKETS + 6))
    for row in range(B):
        known = np.isfinite(place[row]).all(axis=-1)
        for i in range(L):
            x = features[row, i]
            past = np.flatnonzero(known[:i])
            if not len(past):
                x[DISTANCE_BUCKETS + 1] = 1
                continue
            weight = 2.0 ** (-(time[row, i] - time[row, past]) / HALF_LIFE)
            points = unit64(place[row, past])
            mean = weight @ points / weight.sum()
            square = weight @ ((points - mean) ** 2).sum(axis=1) / weight.sum()
            x[DISTANCE_BUCKETS + 3] = 0.2 * np.log1p(geo.EARTH_RADIUS_KM * np.sqrt(square))
            if not known[i]:
                x[DISTANCE_BUCKETS] = 1
                continue
            km, way = relation(mean / np.linalg.norm(mean), unit64(place[row, i][None])[0])
            x[int(np.clip(np.floor(np.log2(max(km, 1e-6))) + 5, 0, DISTANCE_BUCKETS - 1))] = 1
            x[DISTANCE_BUCKETS + 2] = 0.2 * np.log1p(km)
            x[DISTANCE_BUCKETS + 4 :] = way * km / (km + BLUR_KM)
    assert features[..., DISTANCE_BUCKETS].any() and features[..., DISTANCE_BUCKETS + 1].any()
    compare(encoder, variables, events, features)


def relation(start: np.ndarray, end: np.ndarray) -> tuple[float, np.ndarray]:
    """Kilometres, and cosine and sine of the bearing, between unit vectors in float64."""
    east, north, _ = frame64(start[None])[0] @ (end - start)
    km = 2 * geo.EARTH_RADIUS_KM * np.arcsin(np.linalg.norm(end - start) / 2)
    return km, np.asarray([north, east]) / max(np.hypot(north, east), 1e-30)


def compare(encoder: Encoder, variables, events: Events, features: np.ndarray) -> None:
    dense = variables["params"]["Dense_0"]
    valid = np.asarray(events.valid)
    expected = features @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    np.testing.assert_allclose(
        np.asarray(run(encoder, variables, events, CATALOGUE))[valid], expected[valid], atol=1e-4
    )


def test_cells_are_sums_of_rows_and_near_places_share_the_coarse_ones() -> None:
    encoder, events = ENCODERS["cells"], history(8)
    params = parameters(encoder, events)["params"]
    place = np.asarray(event_place(events, CATALOGUE))
    known = np.isfinite(place).all(axis=-1)
    expected = np.broadcast_to(params["missing"], (B, L, D)).copy()
    expected[known] = sum(
        np.asarray(params["cells"])[
            np.asarray(cells.bucket(cells.quadkey(jnp.asarray(place[known]), z), z, 13)) + 13 * i
        ]
        for i, z in enumerate((5, 14))
    )
    np.testing.assert_allclose(run(encoder, {"params": params}, events, CATALOGUE), expected, atol=1e-6)
    table = np.asarray(params["cells"]).copy()
    table[13:] = 0  # without the fine level a city is one cell
    coarse = np.asarray(run(encoder, {"params": {**params, "cells": table}}, events, CATALOGUE))[known]
    np.testing.assert_array_equal(coarse, np.broadcast_to(coarse[:1], coarse.shape))


@pytest.mark.parametrize("encoding", ["space2vec", "sphere2vec", "harmonics"])
def test_each_encoding_is_one_function_on_the_sphere(encoding) -> None:
    """Poles and the date line have one value, an unknown place its own, and other places others."""
    model = PlaceEmbed(D, scales=5, shortest_km=50.0, encoding=encoding, degree=4)
    nan = float("nan")
    place = jnp.asarray(
        [
            [[90.0, 0.0], [10.0, 180.0], [nan, nan], [0.0, 0.0]],
            [[90.0, 99.0], [10.0, -180.0], [nan, 3.0], [9, 9]],
        ]
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), place)
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes)
    x = jax.jit(model.apply)(variables, place)
    assert x.shape == (2, 4, D)
    np.testing.assert_allclose(x[0, :3], x[1, :3], atol=1e-3)
    np.testing.assert_array_equal(x[0, 2], variables["params"]["missing"])
    assert np.abs(np.asarray(x[0, 3] - x[1, 3])).max() > 1e-2
    assert np.abs(np.asarray(x[0, 3] - x[0, 2])).max() > 1e-2


def test_an_encoding_that_does_not_exist_is_refused() -> None:
    model = PlaceEmbed(encoding="geohash")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"'geohash'.*sphere2vec"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 2)))
