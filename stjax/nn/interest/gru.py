"""Gated recurrent interest (GRU4Rec, Hidasi et al., ICLR 2016), with residual connections between layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Events
from stjax.nn.base import Interest, State
from stjax.nn.dropout import Dropout
from stjax.ops import recurrence


class GRULayer(nn.Module):
    """One layer: pre-norm, recurrence, residual. State: (B, D)."""

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x (B, L, D) is the parallel form, x (B, D) the step form. Returns the last state and outputs."""
        d = x.shape[-1]
        projected = nn.Dense(3 * d, name="input")(nn.LayerNorm(name="norm")(x))
        w_hidden = self.param("w_hidden", nn.initializers.orthogonal(), (d, 3 * d))
        b_hidden = self.param("b_hidden", nn.initializers.zeros, (d,))
        run = recurrence.gru if x.ndim == 3 else recurrence.gru_step
        h, y = run(projected, h, valid, w_hidden, b_hidden)
        return h, x + y


class GRU(Interest):
    """A stack of gated recurrent layers. State: (B, D) floats a layer, whatever the history's length."""

    layers: int = 1
    dropout: float = 0.0

    def __call__(self, x: jax.Array, events: Events, train: bool = False) -> jax.Array:
        return self._stack(self.init_state(x.shape[0], x.shape[-1]), x, events.valid, train)[1]

    def step(self, state: State, x: jax.Array, event: Events) -> tuple[State, jax.Array]:
        return self._stack(state, x, event.valid, False)

    def init_state(self, batch: int, features: int) -> State:
        return tuple(jnp.zeros((batch, features)) for _ in range(self.layers))

    @nn.compact
    def _stack(self, state: State, x: jax.Array, valid: jax.Array, train: bool) -> tuple[State, jax.Array]:
        following = []
        for i, h in enumerate(state):
            h, x = GRULayer(name=f"layer_{i}")(x, valid, h)
            x = Dropout(self.dropout)(x, train)
            following.append(h)
        return tuple(following), x
