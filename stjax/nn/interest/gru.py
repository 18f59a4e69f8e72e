"""Gated recurrent interest (GRU4Rec, Hidasi et al., ICLR 2016), with residual connections between layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.nn.base import State
from stjax.nn.interest.movement import GateName
from stjax.nn.interest.recurrent import Recurrent, project
from stjax.ops import recurrence


class GRULayer(nn.Module):
    """One layer: pre-norm, recurrence, residual. State: (B, D)."""

    gates: tuple[GateName, ...] = ()

    @nn.compact
    def __call__(
        self, x: jax.Array, valid: jax.Array, h: jax.Array, features: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, jax.Array]:
        """x (B, L, D) is the parallel form, x (B, D) the step form. Returns the last state and outputs."""
        d = x.shape[-1]
        projected, write = project(x, features, self.gates, 3)
        w_hidden = self.param("w_hidden", nn.initializers.orthogonal(), (d, 3 * d))
        b_hidden = self.param("b_hidden", nn.initializers.zeros, (d,))
        run = recurrence.gru if x.ndim == 3 else recurrence.gru_step
        h, y = run(projected, h, valid, w_hidden, b_hidden, write)
        return h, x + y.astype(x.dtype)


class GRU(Recurrent):
    """A stack of gated recurrent layers. State: (B, D) floats a layer, whatever the history's length.

    With gates h' = h + w (1 - z) (n - h), w as in `GapGates`: the coupled form of Time-LSTM (its third).
    """

    def layer(self, name: str) -> GRULayer:
        return GRULayer(self.gates, name=name)

    def empty(self, batch: int, features: int) -> State:
        return jnp.zeros((batch, features))
