"""Attention over events: causal within a window, safe where a row has nothing to attend to."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def masked_softmax(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax over the last axis among the True entries, in float32; zeros where there are none."""
    logits = jnp.where(mask, logits.astype(jnp.float32), -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - jnp.where(jnp.isfinite(top), top, 0.0))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1.0)


NEVER = -(2.0**100)  # log of a probability of zero: finite, so that sums and gradients stay so


def masked_logsumexp(x: jax.Array, mask: jax.Array) -> jax.Array:
    """log sum exp over the last axis among the True entries; NEVER, with zero gradient, where none is."""
    top = jax.lax.stop_gradient(jnp.max(x, axis=-1, where=mask, initial=NEVER))
    total = jnp.sum(jnp.exp(jnp.where(mask, x - top[..., None], NEVER)), axis=-1)
    some = total > 0
    return jnp.where(some, top + jnp.log(jnp.where(some, total, 1.0)), NEVER)


def masked_log_softmax(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Log-softmax over the last axis among the True entries, NEVER at the others."""
    total = masked_logsumexp(logits, mask)[..., None]
    return jnp.where(mask, logits - jnp.where(total > NEVER, total, 0.0), NEVER)


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al., 2017).

    q: (B, Lq, H, D). k, v: (B, Lk, H, D). mask: bool, broadcast to (B, H, Lq, Lk). bias: added to the
    scaled logits, broadcast likewise. Returns (B, Lq, H, D); zeros for queries whose mask is empty.
    """
    scale = q.shape[-1] ** -0.5
    logits = jnp.einsum("blhd,bmhd->bhlm", q * scale, k)
    if bias is not None:
        logits = logits + bias
    weights = masked_softmax(logits, mask).astype(v.dtype)
    return jnp.einsum("bhlm,bmhd->blhd", weights, v)


def causal_mask(length: int, window: int) -> jax.Array:
    """True where position l may read position m: 0 <= l - m < window. (L, L)."""
    lag = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    return (lag >= 0) & (lag < window)
