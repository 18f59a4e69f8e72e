"""Movement: how far, in which direction and how fast the user came from the place before."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Catalogue, Events
from stjax.nn.base import Encoder, State
from stjax.nn.layers import Dense
from stjax.nn.space.place import DISTANCE_BUCKETS, event_place, last_known_at
from stjax.ops import gaps, geo, sequence
from stjax.ops import time as ops


class MovementEmbed(Encoder):
    """Distance (bucketed and log), bearing and log speed from the last event whose place is known.

    No such event, or no place now, is learned, and so is the speed of two events at the same second.
    """

    @nn.compact
    def embed(
        self, place: jax.Array, time: jax.Array, place_before: jax.Array, time_before: jax.Array
    ) -> jax.Array:
        """Features of places (..., 2) and times (...), and the ones before; places may be unknown (NaN)."""
        both = geo.known(place) & geo.known(place_before)
        here, there = geo.fill(place), geo.fill(place_before)
        km = jnp.where(both, geo.distance_km(there, here), 0.0)
        seconds = ops.elapsed(time, time_before)
        at_once = both & (seconds == 0)
        speed = jnp.where(both & ~at_once, geo.speed_kmh(km, seconds), 0.0)
        way = jnp.where(both[..., None], geo.bearing(there, here), 0.0) * faded(km)
        bucket = jnp.where(both, geo.distance_bucket(km, DISTANCE_BUCKETS), DISTANCE_BUCKETS)
        numbers = [0.2 * jnp.log1p(km), 0.2 * jnp.log1p(speed), at_once.astype(km.dtype)]
        # One product; the columns of ones are rows of a table.
        table = jax.nn.one_hot(bucket, DISTANCE_BUCKETS + 1)
        x = jnp.concatenate([table, jnp.stack(numbers, axis=-1), way], axis=-1)
        return Dense(self.features, float32="product")(x.reshape(-1, x.shape[-1])).reshape(
            *km.shape, self.features
        )

    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        place = event_place(events, catalogue)
        return self.embed(place, events.time, *last_known_at(place, events.time))

    def init_state(self, batch: int) -> State:
        return jnp.full((batch, 2), jnp.nan), jnp.zeros(batch, jnp.int32)

    def step(self, state: State, event: Events, catalogue: Catalogue) -> tuple[State, jax.Array]:
        place = event_place(event, catalogue)
        x = self.embed(place, event.time, *state)
        known = geo.known(place)
        return (sequence.select(known, place, state[0]), sequence.select(known, event.time, state[1])), x


def faded(km: jax.Array) -> jax.Array:
    """Weight of a direction over so many km: (...) -> (..., 1), 0 for none, 1 for far."""
    return (km / (km + gaps.BLUR_KM))[..., None]
