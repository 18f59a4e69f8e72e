"""Home: how far from the middle of the user's places so far, and how widely those are spread."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Catalogue, Events
from stjax.nn.base import Encoder, State
from stjax.nn.layers import Dense
from stjax.nn.space.movement import faded
from stjax.nn.space.place import DISTANCE_BUCKETS, event_place
from stjax.ops import geo, sequence
from stjax.ops import time as ops


class HomeEmbed(Encoder):
    """Distance (bucketed and log) and bearing from home, and the radius of gyration, before the event.

    Home is the mean direction on the sphere of the places of the events before, each fading with time. No
    home yet, and no place now, are learned. State: an anchor (the first known place, from which offsets are
    measured, so that float32 keeps metres), the last time, and the running moments: 8 numbers a user.

    half_life: seconds in which a place loses half of its weight.
    """

    half_life: float = 30 * 86_400.0

    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        return self._read(self.init_state(events.item.shape[0]), events, catalogue)[1]

    def init_state(self, batch: int) -> State:
        return jnp.full((batch, 2), jnp.nan), jnp.zeros(batch, jnp.int32), geo.Roaming.none(batch)

    def step(self, state: State, event: Events, catalogue: Catalogue) -> tuple[State, jax.Array]:
        state, x = self._read(state, event[:, None], catalogue)
        return state, x[:, 0]

    def _read(self, state: State, events: Events, catalogue: Catalogue) -> tuple[State, jax.Array]:
        """The state and events (B, L) to the state after the last of them and features (B, L, D)."""
        anchor, last, moments = state
        place = event_place(events, catalogue)
        seen = geo.known(place)
        first = jnp.take_along_axis(place, jnp.argmax(seen, axis=1)[:, None, None], axis=1)[:, 0]
        anchor = sequence.select(geo.known(anchor), anchor, first)
        offset = geo.offset_km(geo.fill(anchor)[:, None], geo.fill(place))
        earlier = sequence.shift(events.time).at[:, 0].set(last)
        gap = ops.elapsed(events.time, earlier).astype(jnp.float32)
        decay = jnp.where(events.valid, jnp.exp2(gap * (-1.0 / self.half_life)), 1.0)
        before, after = geo.roam(offset, seen, decay, moments)
        # The anchor is known from the first event on, home only after it.
        past = sequence.shift(jnp.cumsum(seen.astype(jnp.int32), axis=1))
        exists = (past > 0) | geo.known(state[0])[:, None]
        x = self._embed(geo.fill(anchor)[:, None], offset, seen, exists, before)
        last = sequence.select(events.valid.any(axis=1), sequence.last(events.time, events.valid), last)
        return (anchor, last, jax.tree.map(lambda m: m[:, -1], after)), x

    @nn.compact
    def _embed(
        self,
        anchor: jax.Array,
        offset: jax.Array,
        seen: jax.Array,
        exists: jax.Array,
        moments: geo.Roaming,
    ) -> jax.Array:
        both = seen & exists
        km, way = moments.home_to(anchor, offset)
        km = jnp.where(both, km, 0.0)
        way = jnp.where(both[..., None], way, 0.0) * faded(km)
        nowhere = jnp.where(exists, DISTANCE_BUCKETS, DISTANCE_BUCKETS + 1)
        bucket = jnp.where(both, geo.distance_bucket(km, DISTANCE_BUCKETS), nowhere)
        radius = jnp.where(exists, moments.radius_km(), 0.0)
        numbers = 0.2 * jnp.stack([jnp.log1p(km), jnp.log1p(radius)], axis=-1)
        # One product; the columns of ones are rows of a table.
        x = jnp.concatenate([jax.nn.one_hot(bucket, DISTANCE_BUCKETS + 2), numbers, way], axis=-1)
        return Dense(self.features, float32="product")(x.reshape(-1, x.shape[-1])).reshape(
            *km.shape, self.features
        )
