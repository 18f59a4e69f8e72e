"""Fusion by gates."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Events
from stjax.nn.base import Fusion
from stjax.nn.fusion.rows import as_rows, joined
from stjax.nn.layers import Dense, LayerNorm


class GatedFusion(Fusion):
    """Each modality is projected and weighted by a gate that sees all of them (gated multimodal unit).

    F = LayerNorm(sum_m sigmoid(W_m [parts]) * U_m parts_m)      Arevalo et al., 2017, without their tanh
    """

    @nn.compact
    def __call__(self, parts: Mapping[str, jax.Array], events: Events) -> jax.Array:
        rows, lead = as_rows(parts)
        gates = jax.nn.sigmoid(Dense(len(rows) * self.features, name="gates")(joined(rows)))
        gates = jnp.split(gates, len(rows), axis=-1)
        gated = [
            gate * Dense(self.features, name=f"part_{name}")(part)
            for (name, part), gate in zip(rows.items(), gates, strict=True)
        ]
        x = sum(gated[1:], start=gated[0])
        return LayerNorm()(x).reshape(*lead, self.features)
