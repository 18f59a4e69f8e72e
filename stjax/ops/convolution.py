"""Causal convolution over events, after its products: what events add to themselves and later ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stjax.ops.sequence import select, shift


def causal(z: jax.Array) -> jax.Array:
    """y_l = sum_j z[l - j, j]: (B, L, W, D) to float32 (B, L, D).

    z[m, j] is what event m adds to event m + j.
    """
    y = z[:, :, 0].astype(jnp.float32)
    for j in range(1, z.shape[2]):
        y = y + shift(z[:, :, j], by=j).astype(jnp.float32)
    return y


def causal_step(pending: jax.Array, z: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One event of `causal`.

    pending: (B, W-1, D), what the events so far add to the next ones. z: (B, W, D). valid: (B,), False leaves
    `pending` as it is. Returns the next pending and y (B, D).
    """
    total = jnp.pad(pending, ((0, 0), (0, 1), (0, 0))) + z.astype(pending.dtype)
    return select(valid, total[:, 1:], pending), total[:, 0]
