"""Fusion of modalities: what behaviour, time, space and context say of one event, as one vector."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Events
from stjax.nn.base import Fusion


class ConcatFusion(Fusion):
    """Concatenation, a linear map and a layer norm."""

    @nn.compact
    def __call__(self, parts: Mapping[str, jax.Array], events: Events) -> jax.Array:
        x = jnp.concatenate([parts[name] for name in sorted(parts)], axis=-1)
        return nn.LayerNorm()(nn.Dense(self.features)(x))


class GatedFusion(Fusion):
    """Each modality is projected and weighted by a gate that sees all of them (gated multimodal unit).

    F = LayerNorm(sum_m sigmoid(W_m [parts]) * U_m parts_m)      Arevalo et al., 2017
    """

    @nn.compact
    def __call__(self, parts: Mapping[str, jax.Array], events: Events) -> jax.Array:
        names = sorted(parts)
        everything = jnp.concatenate([parts[name] for name in names], axis=-1)
        gates = jax.nn.sigmoid(nn.Dense(len(names) * self.features, name="gates")(everything))
        gates = jnp.split(gates, len(names), axis=-1)
        x = sum(
            gate * nn.Dense(self.features, name=f"part_{name}")(parts[name])
            for name, gate in zip(names, gates, strict=True)
        )
        return nn.LayerNorm()(x)
