"""Fusion by concatenation."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from flax import linen as nn

from stjax.events import Events
from stjax.nn.base import Fusion
from stjax.nn.fusion.rows import as_rows, joined
from stjax.nn.layers import Dense, LayerNorm


class ConcatFusion(Fusion):
    """Concatenation, a linear map and a layer norm."""

    @nn.compact
    def __call__(self, parts: Mapping[str, jax.Array], events: Events) -> jax.Array:
        rows, lead = as_rows(parts)
        return LayerNorm()(Dense(self.features)(joined(rows))).reshape(*lead, self.features)
