"""Time2Vec (Kazemi et al., 2019): sinusoids whose periods are learned."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from stjax.events import Catalogue, Events
from stjax.nn.base import Encoder, State
from stjax.nn.last import Last
from stjax.ops import time as ops

UNIT = 32  # days, a power of two: frequencies are learned in cycles per unit, see Time2Vec


class Time2Vec(Encoder):
    """One linear term, then sin(2 pi (f_i local + phase_i)) for D - 1 learned frequencies and phases.

    The linear term is of the log of the gap from the event before, not of time itself as in the paper: that
    grows without bound, so that serving would always lie outside what training has seen. A first event
    has a learned value instead. The sinusoids are of local time, as exact at the end of decades as at their
    start (see `stjax.ops.time.cycles`).

    Frequencies are parameters in cycles per 32 days: a step of 0.001 by the optimizer then turns the phase
    of an event a year after the epoch by 0.01 cycles, and not by 0.4 as it would in cycles per day.

    shortest, longest: seconds, between which the initial periods lie, evenly in their logarithm.
    """

    shortest: int = 6 * ops.HOUR
    longest: int = 90 * ops.DAY

    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        return self._see(events, Last.of(events))

    def init_state(self, batch: int) -> State:
        return Last.none(batch)

    def step(self, state: State, event: Events, catalogue: Catalogue) -> tuple[State, jax.Array]:
        return state.read(event), self._see(event, state)

    @nn.compact
    def _see(self, events: Events, last: Last) -> jax.Array:
        k = self.features - 1
        periods = np.geomspace(self.shortest, self.longest, k)
        initial = jnp.asarray(UNIT * ops.DAY / periods, jnp.float32)
        frequency = self.param("frequency", lambda _: initial)
        phase = self.param("phase", nn.initializers.uniform(1.0), (k,))
        slope, bias, first = self.param("linear", nn.initializers.normal(1.0), (3,))
        gap = ops.log_gap(last.gap(events.time))
        linear = jnp.where(last.exists, slope * gap + bias, first)[..., None]
        cycles = ops.cycles(events.time + events.utc_offset, frequency / UNIT) + phase
        return jnp.concatenate([linear, jnp.sin(2 * jnp.pi * cycles)], axis=-1)
