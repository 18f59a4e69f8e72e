"""How much a user has done lately: counts in sliding windows, and counts that fade."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Catalogue, Events
from stjax.nn.base import Encoder, State
from stjax.nn.checks import check_counts
from stjax.nn.last import Last
from stjax.nn.layers import Dense
from stjax.ops import rhythm
from stjax.ops import time as ops
from stjax.ops.recurrence import linear_recurrence
from stjax.ops.sequence import push, select, shift


class WindowCounts(Encoder):
    """How many events of the user lie within each window before this one, as log(1 + count).

    This event is not counted. An event exactly a window ago is not in it; one at the same time but
    earlier in the sequence is. Counts are exact up to `at_most`, at least 1: no more of the last events are
    looked at, which bounds the state; `DecayedCounts` has no such bound.

    windows: seconds.
    """

    windows: tuple[int, ...] = (ops.HOUR, 6 * ops.HOUR, ops.DAY, ops.WEEK, 30 * ops.DAY)
    at_most: int = 256

    def setup(self) -> None:
        super().setup()
        check_counts(self, "at_most")

    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        return self._see(rhythm.window_counts(events.time, self.windows, self.at_most))

    def init_state(self, batch: int) -> State:
        shape = (batch, self.at_most)
        return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool)

    def step(self, state: State, event: Events, catalogue: Catalogue) -> tuple[State, jax.Array]:
        times, real = state
        x = self._see(rhythm.memory_counts(event.time, times, real, self.windows))
        return (push(times, event.time, event.valid), push(real, event.valid, event.valid)), x

    @nn.compact
    def _see(self, counts: jax.Array) -> jax.Array:
        scaled = jnp.log1p(counts.astype(jnp.float32)) / jnp.log1p(jnp.float32(self.at_most))
        return Dense(self.features, float32="product", name="project")(scaled)


class DecayedCounts(Encoder):
    """log(1 + n) of the user's events before this one, each counted 2^(-age / half_life), for each half-life.

    half_lives: seconds. State: one number for each of them, and the time of the last event.
    """

    half_lives: tuple[int, ...] = (ops.HOUR, ops.DAY, ops.WEEK, 30 * ops.DAY)

    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        faded = rhythm.fade(Last.of(events).gap(events.time), self.half_lives)
        own = events.valid[..., None].astype(jnp.float32)
        after = linear_recurrence(faded, own, jnp.zeros((faded.shape[0], faded.shape[-1])))
        return self._see(faded * shift(after))

    def init_state(self, batch: int) -> State:
        return Last.none(batch), jnp.zeros((batch, len(self.half_lives)))

    def step(self, state: State, event: Events, catalogue: Catalogue) -> tuple[State, jax.Array]:
        last, after = state
        counts = rhythm.fade(last.gap(event.time), self.half_lives) * after
        return (last.read(event), select(event.valid, counts + 1.0, after)), self._see(counts)

    @nn.compact
    def _see(self, counts: jax.Array) -> jax.Array:
        return Dense(self.features, float32="product", name="project")(jnp.log1p(counts))
