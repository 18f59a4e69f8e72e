"""Interest without order: what the user does on the whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Events
from stjax.nn.base import Interest
from stjax.nn.layers import Dense

State = tuple[jax.Array, jax.Array]


class Mean(Interest):
    """The mean of all events read, each through one hidden layer; the same whatever their order.

    State: the sum (B, D) and the number of events (B,). Source: Deep Sets, Zaheer et al., NeurIPS 2017.
    """

    def __call__(self, x: jax.Array, events: Events, train: bool = False) -> jax.Array:
        del train
        return self._read(self.init_state(x.shape[0], x.shape[-1]), x, events.valid)[1]

    def others(self, x: jax.Array, events: Events, train: bool = False) -> jax.Array:
        del train
        return self._read(self.init_state(x.shape[0], x.shape[-1]), x, events.valid, others=True)[1]

    def init_state(self, batch: int, features: int) -> State:
        return jnp.zeros((batch, features)), jnp.zeros(batch)

    def step(self, state: State, x: jax.Array, event: Events) -> tuple[State, jax.Array]:
        return self._read(state, x, event.valid)

    @nn.compact
    def _read(
        self, state: State, x: jax.Array, valid: jax.Array, others: bool = False
    ) -> tuple[State, jax.Array]:
        """x (B, L, D) is the parallel form, or that of all others; x (B, D) the step form."""
        total, count = state
        valid = valid.astype(jnp.float32)
        hidden = valid[..., None] * nn.gelu(Dense(x.shape[-1], float32="result", name="inside")(x))
        if others:
            total = total[:, None] + hidden.sum(axis=1, keepdims=True) - hidden
            count = count[:, None] + valid.sum(axis=1, keepdims=True) - valid
        elif x.ndim == 3:
            total, count = (
                total[:, None] + jnp.cumsum(hidden, axis=1),
                count[:, None] + jnp.cumsum(valid, axis=1),
            )
        else:
            total, count = total + hidden, count + valid
        mean = total / jnp.maximum(count, 1.0)[..., None]
        return (total, count), Dense(x.shape[-1], name="outside")(mean)
