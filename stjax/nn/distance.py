"""How far the candidates are from here, as part of their score."""

from __future__ import annotations

import jax
from flax import linen as nn

from stjax.nn.layers import Dense
from stjax.ops.near import Near


class Distance(nn.Module):
    """Weights of a spline of log distance, which depend on the request: who walks and who drives differ.

    knots: kilometres where the slope may change.
    """

    knots: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 300.0)

    @nn.compact
    def __call__(self, u: jax.Array, here: jax.Array, there: jax.Array) -> Near:
        """u: (N, D) requests. here: (N, 2), there: (V, 2) degrees, NaN where unknown."""
        if list(self.knots) != sorted(self.knots) or not self.knots or self.knots[0] <= 0:
            raise ValueError(f"knots={self.knots} must be kilometres above 0, ascending")
        small = nn.initializers.normal(0.01)
        weights = Dense(len(self.knots) + 1, kernel_init=small, float32="result", name="weights")(u)
        return Near.of(weights, here, there, self.knots)
