"""Causal attention within a sliding window, in whichever blocks are fastest: one result, three programs.

Short histories are one block, whose weights are kept for the backward pass. On CPU those of middle length go
by strips of queries and groups of rows that fit a core's cache. Others, and single rows, go by tiles, in
memory linear in L.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops import attention, strips, tiles
from stjax.ops.moments import Bias, Moments, pair_gaps
from stjax.ops.weighting import SILU, SOFTMAX

PLAIN_LENGTH = 128  # the longest history that is one block
CPU_PLAIN_LENGTH, STRIPS_LENGTH = 64, 512  # on CPU; and the longest that goes by strips


def softmax_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    events: Moments,
    bias: Bias,
    params: Any,
    window: int,
    block: int | None = None,
) -> jax.Array:
    """Position l reads positions m with 0 <= l - m < window by softmax(q k^T / sqrt(D) + bias) v.

    q, k, v: (B, L, H, D). bias, params: see `Bias`; gradients reach q, k, v and params. block: positions a
    tile; by default what is fastest at this length, on the platform of the program. Returns (B, L, H, D);
    zeros where there is no valid event to read.
    """
    return _by_platform(attention.attend, _softmax, (q, k, v, events, params), bias, window, block)


def silu_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    events: Moments,
    bias: Bias,
    params: Any,
    window: int,
    block: int | None = None,
) -> jax.Array:
    """Position l reads positions m with 0 <= l - m < window by silu(q k^T + bias) v / n.

    n is the number of valid events that l reads, so padding does not count. Arguments and result as in
    `softmax_attention`. Pointwise attention of HSTU (Zhai et al., ICML 2024).
    """
    return _by_platform(attention.attend_silu, _silu, (q, k, v, events, params), bias, window, block)


def _by_platform(plain, in_blocks, inputs, bias: Bias, window: int, block: int | None) -> jax.Array:
    """plain: of `stjax.ops.attention`. in_blocks: the same, given the attention of strips or tiles."""
    of = {"bias": bias, "window": window}
    by_tiles = partial(in_blocks, partial(tiles.attention, block=block), **of)
    if block is not None:
        return by_tiles(*inputs)
    by_strips, whole = partial(in_blocks, strips.attention, **of), partial(_whole, plain, **of)
    rows, length = inputs[0].shape[:2]
    default = whole if length <= PLAIN_LENGTH else by_tiles
    if length <= CPU_PLAIN_LENGTH:
        cpu = whole
    else:
        cpu = by_strips if length <= STRIPS_LENGTH and rows > 1 else by_tiles
    if cpu is default:
        return cpu(*inputs)
    return jax.lax.platform_dependent(*inputs, cpu=cpu, default=default)


def _whole(plain, q, k, v, events: Moments, params: Any, bias: Bias, window: int) -> jax.Array:
    length = q.shape[1]
    position = np.arange(length, dtype=np.int32)
    mask = attention.causal_mask(length, window) & events.valid[:, None, None, :]
    lag = position[:, None] - position[None, :]
    return plain(q, k, v, mask, bias(params, lag, *pair_gaps(events, events)))


def _softmax(form, q, k, v, events: Moments, params: Any, bias: Bias, window: int) -> jax.Array:
    return form(q * q.shape[-1] ** -0.5, k, v, events, params, SOFTMAX, bias, window)


def _silu(form, q, k, v, events: Moments, params: Any, bias: Bias, window: int) -> jax.Array:
    y = form(q, k, v, events, params, SILU, bias, window)
    y = y.astype(jnp.float32) / count_read(events.valid, window).astype(jnp.float32)[..., None, None]
    return y.astype(q.dtype)


def count_read(valid: jax.Array, window: int) -> jax.Array:
    """How many valid events each position reads, at least 1: (B, L) bool to int32."""
    total = jnp.cumsum(valid, axis=1, dtype=jnp.int32)
    return jnp.maximum(total - jnp.pad(total, ((0, 0), (window, 0)))[:, : total.shape[1]], 1)
