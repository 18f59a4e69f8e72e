"""Attention over events: causal within a window, safe where a row has nothing to attend to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops.product import product


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
    scaled logits, broadcast likewise. Products are of q's dtype, the softmax is float32. Returns
    (B, Lq, H, D); zeros for queries whose mask is empty.
    """
    scale = q.shape[-1] ** -0.5
    logits = product("blhd,bmhd->bhlm", q * scale, k)
    if bias is not None:
        logits = logits + bias
    return product("bhlm,bmhd->blhd", masked_softmax(logits, mask), v, q.dtype).astype(q.dtype)


def causal_mask(length: int, window: int) -> jax.Array:
    """True where position l may read position m: 0 <= l - m < window. (L, L)."""
    lag = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    return (lag >= 0) & (lag < window)


def attend_silu(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """Pointwise attention, silu(q k^T + bias) v / n, without softmax (HSTU, Zhai et al., ICML 2024).

    Arguments and result as in `attend`. n is the number of keys that the query's mask leaves.
    """
    logits = product("blhd,bmhd->bhlm", q, k)
    if bias is not None:
        logits = logits + bias
    n = jnp.maximum(mask.sum(axis=-1, keepdims=True), 1).astype(jnp.float32)
    weights = jnp.where(mask, jax.nn.silu(logits), 0.0) / n
    return product("bhlm,bmhd->blhd", weights, v, q.dtype).astype(q.dtype)


def lag_bias(table: jax.Array, lag: jax.Array | np.ndarray) -> jax.Array:
    """A learned logit for each lag: table (H, W) and lag (q, k) int32 to (H, q, k).

    lag[a, b] must be lag[0, 0] + a - b, with lag[0, 0] from 0 to W + k - 1, as a NumPy array where it is
    static. Lags outside 0..W - 1 read zero.
    """
    # There are only q + k - 1 different numbers. Laid out by reshaping, its gradient sums diagonals; a
    # gather's would scatter, which made the whole attention a third slower on CPU.
    heads, (rows, columns) = table.shape[0], lag.shape
    span = rows + columns - 1
    padded = jnp.pad(table, ((0, 0), (columns, rows + columns)))
    first = int(lag[0, 0]) if isinstance(lag, np.ndarray) else lag[0, 0]
    line = jax.lax.dynamic_slice_in_dim(padded, first + 1, span, axis=1)[:, ::-1]
    # Entry (a, b) is line[rows - 1 - a + b]: rows span + 1 wide, read span wide, step back by one each.
    line = jnp.pad(line, ((0, 0), (0, 1)))
    flat = jnp.broadcast_to(line[:, None], (heads, rows, span + 1)).reshape(heads, -1)
    flat = flat[:, rows - 1 : rows - 1 + rows * span]
    # Written out once: fused into a sum over all rows of a batch, indices would be found for each of them.
    return jax.lax.optimization_barrier(flat.reshape(heads, rows, span)[:, :, :columns])


def bucket_bias(table: jax.Array, bucket: jax.Array) -> jax.Array:
    """A learned logit for each bucket: table (H, C) and bucket (B, q, k) int32 to (B, H, q, k).

    A gather and, as its gradient, a scatter: XLA on CPU fuses both; masked sums and one-hot products over
    26 buckets were 3 to 6 times slower there.
    """
    return jnp.moveaxis(table[:, bucket], 0, 1)


def decay_bias(weight: jax.Array, scale: jax.Array, x: jax.Array) -> jax.Array:
    """A power law per head, -weight * log(1 + x / scale): (H,), (H,) and x (B, q, k) to (B, H, q, k)."""
    weight, scale = weight[:, None, None], scale[:, None, None]
    return -weight * jnp.log1p(x[:, None] / scale)
