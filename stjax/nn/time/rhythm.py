"""The user's own rhythm: at which hours of day and week the past events lay, and how this one fits in."""

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
from stjax.ops.sequence import select, shift


class RhythmEmbed(Encoder):
    """Fourier spectrum of the local times of the user's events before this one, fading with age.

    For each harmonic of day and week, with S the faded sum of e^(-i w local) over past events and N their
    faded count: the power |S / N|^2, and the phase of this event against it, Re and Im of
    (S / N) e^(i w local). Beside them log(1 + N), which says how much of a past the rest rests on. A first
    event has no rhythm, but a learned vector. Only differences of local time enter: a user whose whole
    life lies some hours later looks the same.

    day_harmonics, week_harmonics: order of the series; week_harmonics up to 6, the 7th is the day's first.
    half_life: seconds. State: 1 + 2K numbers, and the time of the last event.
    """

    day_harmonics: int = 4
    week_harmonics: int = 4
    half_life: int = 4 * ops.WEEK

    def setup(self) -> None:
        super().setup()
        check_counts(self, "day_harmonics", "week_harmonics", least=0)

    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        # Without the barrier XLA works the sines out twice: to sum them up, and to compare with the sum.
        last, waves = Last.of(events), jax.lax.optimization_barrier(self._waves(events))
        faded = rhythm.fade(last.gap(events.time), (self.half_life,))
        own = jnp.where(events.valid[..., None], waves, 0.0)
        after = linear_recurrence(faded, own, jnp.zeros_like(own[:, 0]))
        return self._see(shift(after), waves, faded, last.exists)

    def init_state(self, batch: int) -> State:
        return Last.none(batch), jnp.zeros((batch, 1 + 2 * (self.day_harmonics + self.week_harmonics)))

    def step(self, state: State, event: Events, catalogue: Catalogue) -> tuple[State, jax.Array]:
        (last, after), waves = state, self._waves(event)
        faded = rhythm.fade(last.gap(event.time), (self.half_life,))
        x = self._see(after, waves, faded, last.exists)
        return (last.read(event), select(event.valid, faded * after + waves, after)), x

    def _waves(self, events: Events) -> jax.Array:
        return rhythm.waves(events.time + events.utc_offset, self.day_harmonics, self.week_harmonics)

    @nn.compact
    def _see(self, past: jax.Array, now: jax.Array, faded: jax.Array, exists: jax.Array) -> jax.Array:
        count = jnp.log1p(faded * past[..., :1])
        spectrum = rhythm.spectrum(past, now)
        x = Dense(self.features, float32="product", name="project")(
            jnp.concatenate([count, spectrum], axis=-1)
        )
        first = self.param("first", nn.initializers.normal(0.02), (self.features,))
        return jnp.where(exists[..., None], x, first)
