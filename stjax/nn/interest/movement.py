"""The event before, as interest models keep it, and gates that read the gap to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Events
from stjax.nn.last import Last
from stjax.nn.layers import Dense
from stjax.ops import gaps
from stjax.ops.sequence import select, shift

GateName = Literal["time", "distance"]
FEATURES = {"time": gaps.time_features, "distance": gaps.distance_features}


class Before(NamedTuple):
    """When the event before was, and its place (..., 2), NaN where unknown: (B, L), or (B,) as a state."""

    last: Last
    place: jax.Array

    @classmethod
    def none(cls, batch: int) -> Before:
        """The state before the first event."""
        return cls(Last.none(batch), jnp.full((batch, 2), jnp.nan))

    @classmethod
    def of(cls, events: Events) -> Before:
        """Of every event of whole sequences."""
        return cls(Last.of(events), shift(events.place, jnp.nan))

    def gap(self, event: Events) -> gaps.Gap:
        """From it to the event."""
        return gaps.between(self.last.time, self.place, self.last.exists, event.time, event.place)

    def read(self, event: Events) -> Before:
        """The state after one more event."""
        return Before(self.last.read(event), select(event.valid, event.place, self.place))


class GapGates(nn.Module):
    """Time and distance gates (Time-LSTM, Zhu et al., IJCAI 2017; STGN, Zhao et al., AAAI 2019).

        w = product over q of sigmoid(x W_q + sigmoid(gap_q V_q + a_q) + b_q)

    where gap_q is the log gap or the log distance from the event before; where there is none, or a place is
    unknown, a learned vector takes the place of gap_q V_q. Those papers gate by the interval to the next
    event; here it is the one from the previous, so that nothing of the next is read.
    """

    gates: tuple[GateName, ...]

    @nn.compact
    def __call__(self, x: jax.Array, features: Sequence[jax.Array]) -> jax.Array:
        """x: (N, D). features: (N, 2) of each gate, in order. Returns (N, D), 0..1, how much to write."""
        write = jnp.ones(x.shape)
        for name, feature in zip(self.gates, features, strict=True):
            inner = nn.sigmoid(Dense(x.shape[-1], float32="product", name=f"{name}_gap")(feature))
            # Open at first: the layer starts as one without gates.
            open_bias = nn.initializers.constant(2.0)
            own = Dense(x.shape[-1], bias_init=open_bias, float32="result", name=f"{name}_input")(x)
            write = write * nn.sigmoid(own + inner)
        return write


def gate_features(gap: gaps.Gap, gates: tuple[GateName, ...]) -> tuple[jax.Array, ...]:
    """What each gate reads: (..., 2). Raises ValueError for a gate that does not exist."""
    if unknown := set(gates) - set(FEATURES):
        raise ValueError(f"gates: {sorted(unknown)} does not exist; choose from {sorted(FEATURES)}")
    return tuple(FEATURES[name](gap) for name in gates)
