"""Dropout whose random bits are a hash of each value's position: made where they are used, never stored."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops.hashing import mix


def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Zero a share of the values and scale the others so that the mean stays (Srivastava et al., 2014).

    rate: 0 <= rate < 1, to a multiple of 2^-32. A few integer operations a value fuse with the product, where
    JAX's own generators write their bits out first.
    """
    if rate == 0:
        return x
    keep = random_bits(key, x.shape) >= np.uint32(round(rate * 2**32))
    return jnp.where(keep, x * (1 / (1 - rate)), jnp.zeros_like(x))


def random_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform uint32 of a shape: the hash of (key, position) by `stjax.ops.hashing.mix`.

    Not for cryptography, and arrays of more than 2^32 values repeat themselves.
    """
    before, between = jax.random.bits(key, (2,), jnp.uint32)
    x = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = np.uint32(math.prod(shape[axis + 1 :]) % 2**32)
        x = x + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    return mix(x, before, between)
