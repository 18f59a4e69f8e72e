"""Long short-term memory as interest (Hochreiter and Schmidhuber, Neural Computation 1997)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.nn.base import State
from stjax.nn.interest.movement import GateName
from stjax.nn.interest.recurrent import Recurrent, project
from stjax.ops import recurrence


class LSTMLayer(nn.Module):
    """One layer: pre-norm, recurrence, residual. State: h and c, (B, D) each."""

    gates: tuple[GateName, ...] = ()

    @nn.compact
    def __call__(
        self, x: jax.Array, valid: jax.Array, state: State, features: tuple[jax.Array, ...]
    ) -> tuple[State, jax.Array]:
        """x (B, L, D) is the parallel form, x (B, D) the step form. Returns the last state and outputs."""
        d = x.shape[-1]
        projected, write = project(x, features, self.gates, 4, _remember)
        w_hidden = self.param("w_hidden", nn.initializers.orthogonal(), (d, 4 * d))
        run = recurrence.lstm if x.ndim == 3 else recurrence.lstm_step
        state, y = run(projected, state, valid, w_hidden, write)
        return state, x + y.astype(x.dtype)


class LSTM(Recurrent):
    """A stack of LSTM layers. State: 2 (B, D) floats a layer, whatever the history's length.

    With gates c' = f c + w i g, w as in `GapGates`: STGN's first time and distance gates.
    """

    def layer(self, name: str) -> LSTMLayer:
        return LSTMLayer(self.gates, name=name)

    def empty(self, batch: int, features: int) -> State:
        return jnp.zeros((batch, features)), jnp.zeros((batch, features))


def _remember(key: jax.Array, shape: tuple[int], dtype: Any = jnp.float32) -> jax.Array:
    """Biases in the order i, f, o, g: 1 for f (Jozefowicz et al., ICML 2015), so that it starts slow."""
    return jnp.zeros((4, shape[0] // 4), dtype).at[1].set(1.0).reshape(-1)
