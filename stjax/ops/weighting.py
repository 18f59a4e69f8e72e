"""From logits to the weights of a sum: softmax, or SiLU without normalising; and back.

A logit that may not be read is `NEVER`, and both make a weight of zero of it, with no gradient: so a mask is
applied once, to the logits.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from stjax.ops.attention import NEVER
from stjax.ops.product import product

HARDLY = NEVER / 2  # below every logit that may be read


class Softmax(NamedTuple):
    """Weights exp(s - lse). Over blocks of keys it keeps a running maximum and sum.

    Shapes: s (B, H, q, k), v (B, H, k, D), sums and what is saved (B, H, q, 1). A query that may read nothing
    gets zeros.
    """

    def start(self, q: jax.Array) -> tuple[jax.Array, ...]:
        top = jnp.full((*q.shape[:-1], 1), HARDLY)
        return top, jnp.zeros_like(top), jnp.zeros(q.shape, jnp.float32)

    def add(self, carry: tuple[jax.Array, ...], s: jax.Array, v: jax.Array) -> tuple[jax.Array, ...]:
        """What is carried, after one more block of keys."""
        top, total, y = carry
        new = jnp.maximum(top, s.max(axis=-1, keepdims=True))
        weights = jnp.exp(s - new)
        rescale = jnp.exp(top - new)
        total = total * rescale + weights.sum(axis=-1, keepdims=True)
        return new, total, y * rescale + product("bhqk,bhkd->bhqd", weights.astype(v.dtype), v)

    def finish(self, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        """The output, and what the backward pass needs: the log of the sum."""
        top, total, y = carry
        some = jnp.where(total > 0, total, 1.0)
        return y / some, top + jnp.log(some)

    def whole(self, s: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        """As `finish`, of all keys at once."""
        top = jnp.maximum(s.max(axis=-1, keepdims=True), HARDLY)
        weights = jnp.exp(s - top)
        total = weights.sum(axis=-1, keepdims=True)
        return self.finish((top, total, product("bhqk,bhkd->bhqd", weights.astype(v.dtype), v)))

    def weights(self, s: jax.Array, saved: jax.Array) -> jax.Array:
        return jnp.exp(s - saved)

    def cotangent(
        self, s: jax.Array, weights: jax.Array, d_weights: jax.Array, delta: jax.Array
    ) -> jax.Array:
        """Of the logits. delta: (B, H, q, 1), the product of the output and its cotangent."""
        return weights * (d_weights - delta)


class SiLU(NamedTuple):
    """Weights silu(s); see `Softmax` for shapes."""

    def start(self, q: jax.Array) -> tuple[jax.Array, ...]:
        return (jnp.zeros(q.shape, jnp.float32),)

    def add(self, carry: tuple[jax.Array, ...], s: jax.Array, v: jax.Array) -> tuple[jax.Array, ...]:
        return (carry[0] + product("bhqk,bhkd->bhqd", jax.nn.silu(s).astype(v.dtype), v),)

    def finish(self, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        return carry[0], carry[0][..., :1]

    def whole(self, s: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = product("bhqk,bhkd->bhqd", jax.nn.silu(s).astype(v.dtype), v)
        return y, y[..., :1]

    def weights(self, s: jax.Array, saved: jax.Array) -> jax.Array:
        return jax.nn.silu(s)

    def cotangent(
        self, s: jax.Array, weights: jax.Array, d_weights: jax.Array, delta: jax.Array
    ) -> jax.Array:
        gate = jax.nn.sigmoid(s)
        return d_weights * (gate + weights * (1.0 - gate))


SOFTMAX, SILU = Softmax(), SiLU()
