"""Time of an event: the local calendar, the rhythm of day and week, and the gap from the event before."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Catalogue, Events
from stjax.nn.base import Encoder, State, previous_time
from stjax.ops import time as ops
from stjax.ops.sequence import select


class TimeEmbed(Encoder):
    """Calendar tables, Fourier features of day and week, bucketed and continuous gap; summed.

    day_harmonics, week_harmonics: order of the Fourier series; 0 leaves it out.
    gap_buckets: powers of two of a second, up to 2^gap_buckets; a first event has a bucket of its own.
    """

    day_harmonics: int = 4
    week_harmonics: int = 4
    gap_buckets: int = 26

    def setup(self) -> None:
        self.hour = nn.Embed(24, self.features)
        self.weekday = nn.Embed(7, self.features)
        self.gap = nn.Embed(self.gap_buckets + 1, self.features)
        self.project = nn.Dense(self.features)

    def embed(
        self, time: jax.Array, utc_offset: jax.Array, before: jax.Array, exists: jax.Array
    ) -> jax.Array:
        """Features of moments: their time, and the time of the event before where one exists."""
        local = time + utc_offset
        gap = ops.elapsed(time, before)
        bucket = jnp.where(exists, ops.log_bucket(gap, self.gap_buckets), self.gap_buckets)
        waves = jnp.concatenate(
            [
                ops.fourier(local, ops.DAY, self.day_harmonics),
                ops.fourier(local, ops.WEEK, self.week_harmonics),
                jnp.where(exists, ops.log_gap(gap), 0.0)[..., None],
            ],
            axis=-1,
        )
        tables = self.hour(ops.hour_of_day(local)) + self.weekday(ops.day_of_week(local))
        return tables + self.gap(bucket) + self.project(waves)

    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        before, exists = previous_time(events)
        return self.embed(events.time, events.utc_offset, before, exists)

    def init_state(self, batch: int) -> State:
        return jnp.zeros(batch, jnp.int32), jnp.zeros(batch, bool)

    def step(self, state: State, event: Events, catalogue: Catalogue) -> tuple[State, jax.Array]:
        before, exists = state
        x = self.embed(event.time, event.utc_offset, before, exists)
        return (select(event.valid, event.time, before), exists | event.valid), x
