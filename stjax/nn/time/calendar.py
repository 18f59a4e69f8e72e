"""Time of an event: the local calendar, rhythms of day, week and year, and the gap from the one before."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Catalogue, Events
from stjax.nn.base import Encoder, State
from stjax.nn.checks import check_counts
from stjax.nn.last import Last
from stjax.nn.layers import Dense
from stjax.ops import time as ops


class TimeEmbed(Encoder):
    """Calendar tables, Fourier features of day, week and year, bucketed and continuous gap; summed.

    day_harmonics, week_harmonics, year_harmonics: order of the Fourier series; 0 leaves it out.
    gap_buckets: powers of two of a second, up to 2^gap_buckets; a first event has a bucket of its own.
    minute_of_day, day_of_month, month, weekend: further calendar tables.
    """

    day_harmonics: int = 4
    week_harmonics: int = 4
    gap_buckets: int = 26
    minute_of_day: bool = False
    day_of_month: bool = False
    month: bool = False
    weekend: bool = False
    year_harmonics: int = 0

    def setup(self) -> None:
        super().setup()
        check_counts(self, "gap_buckets")
        check_counts(self, "day_harmonics", "week_harmonics", "year_harmonics", least=0)
        self.hour = nn.Embed(24, self.features)
        self.weekday = nn.Embed(7, self.features)
        self.gap = nn.Embed(self.gap_buckets + 1, self.features)
        self.project = Dense(self.features, float32="product")
        if self.minute_of_day:
            self.minutes = nn.Embed(1_440, self.features)
        if self.day_of_month:
            self.days = nn.Embed(31, self.features)
        if self.month:
            self.months = nn.Embed(12, self.features)
        if self.weekend:
            self.weekends = nn.Embed(2, self.features)

    @property
    def dated(self) -> bool:
        """Whether anything here depends on the date, and so on where the epoch lies."""
        return self.day_of_month or self.month or self.year_harmonics > 0

    def embed(
        self,
        time: jax.Array,
        utc_offset: jax.Array,
        before: jax.Array,
        exists: jax.Array,
        epoch: int | None = None,
    ) -> jax.Array:
        """Features of moments: their time, and the time of the event before where one exists.

        epoch: `Schema.epoch`, read for day_of_month, month and year_harmonics only. Raises ValueError
        where one of them is on and epoch is None.
        """
        local = time + utc_offset
        gap = ops.elapsed(time, before)
        bucket = jnp.where(exists, ops.log_bucket(gap, self.gap_buckets), self.gap_buckets)
        x = self.hour(ops.hour_of_day(local)) + self.weekday(ops.day_of_week(local))
        if self.minute_of_day:
            x = x + self.minutes(ops.minute_of_day(local))
        if self.weekend:
            x = x + self.weekends(ops.is_weekend(local).astype(jnp.int32))
        waves = [
            ops.fourier(local, ops.DAY, self.day_harmonics),
            ops.fourier(local, ops.WEEK, self.week_harmonics),
        ]
        if self.dated:
            if epoch is None:
                raise ValueError("day_of_month, month and year_harmonics need epoch=schema.epoch, not None")
            date = ops.date(local, epoch)
            if self.day_of_month:
                x = x + self.days(date.day - 1)
            if self.month:
                x = x + self.months(date.month - 1)
            waves.append(ops.fourier_year(local, epoch, self.year_harmonics))
        waves.append(jnp.where(exists, ops.log_gap(gap), 0.0)[..., None])
        return x + self.gap(bucket) + self.project(jnp.concatenate(waves, axis=-1))

    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        return self._see(events, Last.of(events), catalogue)

    def init_state(self, batch: int) -> State:
        return Last.none(batch)

    def step(self, state: State, event: Events, catalogue: Catalogue) -> tuple[State, jax.Array]:
        return state.read(event), self._see(event, state, catalogue)

    def _see(self, events: Events, last: Last, catalogue: Catalogue) -> jax.Array:
        return self.embed(events.time, events.utc_offset, *last, epoch=catalogue.schema.epoch)
