"""The last event before each one: what encoders of gaps, and interest models, keep of the past."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from stjax.events import Events
from stjax.ops import time as ops
from stjax.ops.sequence import select, shift


class Last(NamedTuple):
    """Time of the event before, int32, and whether there is one, bool: (B, L), or (B,) as a state."""

    time: jax.Array
    exists: jax.Array

    @classmethod
    def none(cls, batch: int) -> Last:
        """The state before the first event."""
        return cls(jnp.zeros(batch, jnp.int32), jnp.zeros(batch, bool))

    @classmethod
    def of(cls, events: Events) -> Last:
        """Of every event of whole sequences."""
        exists = shift(events.valid, False) & events.valid
        return cls(jnp.where(exists, shift(events.time), events.time), exists)

    def gap(self, now: jax.Array) -> jax.Array:
        """Seconds since, int32, 0 where there is no event before."""
        return jnp.where(self.exists, ops.elapsed(now, self.time), 0)

    def read(self, event: Events) -> Last:
        """The state after one more event."""
        return Last(select(event.valid, event.time, self.time), self.exists | event.valid)
