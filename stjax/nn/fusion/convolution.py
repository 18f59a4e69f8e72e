"""Fusion by a causal convolution over positions and modalities."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Events
from stjax.nn.base import Fusion, State
from stjax.nn.checks import check_counts
from stjax.nn.fusion.rows import as_rows, joined
from stjax.nn.layers import Dense, LayerNorm
from stjax.nn.precision import compute
from stjax.ops import convolution


class ConvolutionFusion(Fusion):
    """A kernel over the last `width` events mixes all their modalities; with a residual of the event's own.

        F_l = LayerNorm(R [parts_l] + gelu(b + sum_(j < width) W_j [parts_(l-j)]))

    Convolution of an event sequence: Tang and Wang, Caser, WSDM 2018; causal: Yuan et al., NextItNet, WSDM
    2019. Before the first event are zeros. Padding comes last in a sequence, so no event looks back on it.
    State: what the events read so far add to the next width - 1 ones, (B, width - 1, D).

    width: at least 1, ValueError otherwise.
    """

    width: int = 3

    def setup(self) -> None:
        super().setup()
        check_counts(self, "width")

    def __call__(self, parts: Mapping[str, jax.Array], events: Events) -> jax.Array:
        return self._fuse(None, parts, events.valid)[1]

    def step(self, state: State, parts: Mapping[str, jax.Array], event: Events) -> tuple[State, jax.Array]:
        return self._fuse(state, parts, event.valid)

    def init_state(self, batch: int, names: tuple[str, ...]) -> State:
        del names
        return jnp.zeros((batch, self.width - 1, self.features))

    @nn.compact
    def _fuse(
        self, state: State, parts: Mapping[str, jax.Array], valid: jax.Array
    ) -> tuple[State, jax.Array]:
        """Without a state, the parallel form; with one, the step form."""
        rows, lead = as_rows(parts)
        u, d = joined(rows), self.features
        own = Dense(d, name="own")(u).reshape(*lead, d)
        # All offsets in one product, shifted afterwards: no copy of the inputs for each offset.
        scale = nn.initializers.variance_scaling(1 / self.width, "fan_in", "truncated_normal")
        z = Dense(self.width * d, use_bias=False, kernel_init=scale, name="kernel")(u)
        z = z.reshape(*lead, self.width, d)
        if state is None:
            y = convolution.causal(z)
        else:
            state, y = convolution.causal_step(state, z, valid)
        bias = self.param("bias", nn.initializers.zeros, (d,))
        return state, LayerNorm(name="norm")(own + compute(nn.gelu(y + bias)))
