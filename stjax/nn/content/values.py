"""Values of one kind as vectors: ids, sets of ids, numbers, vectors; each with a way of being missing."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import FIRST, MISSING
from stjax.nn.layers import Dense


def vocabulary_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Small random rows, but zeros for the ids below FIRST: where training never meets a missing or an
    unseen value, its row stays neutral instead of random."""
    rows = nn.initializers.normal(0.02)(key, shape, dtype)
    return jnp.where(jnp.arange(shape[0])[:, None] < FIRST, jnp.zeros_like(rows), rows)


class MultiEmbed(nn.Module):
    """Several ids of one vocabulary (..., W), filled up with MISSING, to (..., D).

    The sum of the n values' rows over sqrt(n), so that many values weigh as much as one: the sum of n
    independent vectors has the length of sqrt(n). Without any value, the row MISSING.
    Source: the `sqrtn` combiner of TensorFlow's embedding lookups (Cheng et al., Wide & Deep, DLRS 2016).

    size: number of ids with MISSING and UNSEEN counted.
    """

    size: int
    features: int = 32

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        table = self.param("embedding", vocabulary_init, (self.size, self.features))
        known = ids != MISSING
        count = known.sum(axis=-1, keepdims=True)
        # The first slot of a row without values holds MISSING: it alone counts there.
        first = (jnp.arange(ids.shape[-1]) == 0) & (count == 0)
        weight = jnp.where(known | first, jax.lax.rsqrt(jnp.maximum(count, 1).astype(jnp.float32)), 0.0)
        out = jnp.zeros((*ids.shape[:-1], self.features))
        for w in range(ids.shape[-1]):  # one value at a time: never (..., W, D)
            out = out + weight[..., w, None] * table[ids[..., w]]
        return out


class NumericEmbed(nn.Module):
    """Numbers (..., N), NaN where missing, to (..., D): signed log scale, and a flag for missing."""

    features: int = 32

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        missing = jnp.isnan(values)
        values = jnp.where(missing, 0.0, values)
        scaled = jnp.sign(values) * jnp.log1p(jnp.abs(values))
        return Dense(self.features, float32="product")(
            jnp.concatenate([scaled, missing.astype(scaled.dtype)], axis=-1)
        )


class VectorEmbed(nn.Module):
    """Vectors (..., N) to (..., D); a missing vector (NaN) is learned."""

    features: int = 32

    @nn.compact
    def __call__(self, vector: jax.Array) -> jax.Array:
        known = jnp.isfinite(vector).all(axis=-1, keepdims=True)
        missing = self.param("missing", nn.initializers.normal(0.02), (self.features,))
        return jnp.where(
            known, Dense(self.features, float32="result")(jnp.where(known, vector, 0.0)), missing
        )
