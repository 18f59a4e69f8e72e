"""Gaps alone: how long ago the event before was, in seconds and on the user's own scale."""

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


class GapEmbed(Encoder):
    """The gap bucketed by powers of two, its logarithm, and the gap scaled to the user; summed.

    The scaled gap is the number of times that the user's smallest interval above 0 fits into it, at most
    `clip`, as in TiSASRec (Li et al., WSDM 2020). They take the smallest interval of the whole sequence,
    which reads the future; here it is the smallest so far, this gap included. A first event has rows of
    its own in both tables.

    buckets: powers of two of a second. clip: the largest scaled gap told apart.
    """

    buckets: int = 26
    clip: int = 256

    def setup(self) -> None:
        super().setup()
        check_counts(self, "buckets", "clip")

    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        last = Last.of(events)
        gap = last.gap(events.time)
        return self._see(gap, last.exists, rhythm.smallest_gap(gap))

    def init_state(self, batch: int) -> State:
        return Last.none(batch), jnp.full(batch, rhythm.NEVER, jnp.int32)

    def step(self, state: State, event: Events, catalogue: Catalogue) -> tuple[State, jax.Array]:
        last, smallest = state
        gap = last.gap(event.time)
        now = jnp.minimum(smallest, rhythm.smallest_gap(gap[:, None])[:, 0])
        x = self._see(gap, last.exists, now)
        return (last.read(event), jnp.where(event.valid, now, smallest)), x

    @nn.compact
    def _see(self, gap: jax.Array, exists: jax.Array, smallest: jax.Array) -> jax.Array:
        bucket = jnp.where(exists, ops.log_bucket(gap, self.buckets), self.buckets)
        scaled = jnp.where(exists, ops.scaled_gap(gap, smallest, self.clip), self.clip + 1)
        x = nn.Embed(self.buckets + 1, self.features, name="bucket")(bucket)
        x = x + nn.Embed(self.clip + 2, self.features, name="scaled")(scaled)
        return x + Dense(self.features, float32="product", name="project")(ops.log_gap(gap)[..., None])
