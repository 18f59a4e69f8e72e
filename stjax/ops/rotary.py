"""Rotary positions (RoFormer, Su et al., 2021): queries and keys turned by their position, so that products
depend on the lag alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

BASE = 10_000.0


def rotate(x: jax.Array, position: np.ndarray, index: jax.Array | None = None) -> jax.Array:
    """Turn each pair of features by position * BASE^(-2i/D): (B, L, H, D) and ints (L,) to (B, L, H, D).

    index: int32 (B, L), where positions differ by user: which of `position`, then of any length, is whose.

    rotate(q, l) . rotate(k, m) depends on l - m, so a memory may keep keys unturned and turn them by minus
    their lag when it reads them: positions never grow. The angles are made while tracing, in float64, and
    stay exact for any length. Raises ValueError if D is odd.
    """
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"rotary positions need an even number of features a head, got {d}")
    angle = position[:, None] * BASE ** (-np.arange(d // 2) / (d // 2))
    cos, sin = (jnp.asarray(f(angle)[:, None], jnp.float32) for f in (np.cos, np.sin))  # (L, 1, D/2)
    if index is not None:
        cos, sin = cos[index], sin[index]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)
