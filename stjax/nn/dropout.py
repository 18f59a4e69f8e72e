"""Dropout as a module, so that its randomness comes from the `dropout` stream."""

from __future__ import annotations

import jax
from flax import linen as nn

from stjax.ops import dropout as ops


class Dropout(nn.Module):
    """Drops values in training, nothing otherwise. rate: share of the values, 0 <= rate < 1."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not 0 <= self.rate < 1:
            raise ValueError(f"dropout={self.rate} must be at least 0 and below 1")
        if not train or self.rate == 0:
            return x
        return ops.dropout(x, self.rate, self.make_rng("dropout"))
