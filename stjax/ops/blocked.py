"""Causal attention within a sliding window, in whichever blocks are fastest: one result, three programs.

Short histories are one block, whose weights are kept for the backward pass. On CPU those of middle length go
by strips of queries and groups of rows that fit a core's cache. Others go by tiles, in memory linear in L.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops import attention, strips, tiles
from stjax.ops.attention import NEVER
from stjax.ops.moments import Bias, Moments, pair_gaps
from stjax.ops.weighting import SILU, SOFTMAX, SiLU, Softmax, product

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
    q = q * q.shape[-1] ** -0.5
    return _by_platform(SOFTMAX, q, k, v, events, bias, params, window, block)


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
    total = jnp.cumsum(events.valid, axis=1, dtype=jnp.int32)
    read = total - jnp.pad(total, ((0, 0), (window, 0)))[:, : total.shape[1]]
    y = _by_platform(SILU, q, k, v, events, bias, params, window, block)
    return y / jnp.maximum(read, 1).astype(y.dtype)[..., None, None]


def _by_platform(
    kind: Softmax | SiLU, q, k, v, events: Moments, bias: Bias, params: Any, window: int, block: int | None
) -> jax.Array:
    of = {"kind": kind, "bias": bias, "window": window}
    by_tiles = partial(tiles.attention, block=block, **of)
    if block is not None:
        return by_tiles(q, k, v, events, params)
    whole, by_strips = partial(_whole, **of), partial(strips.attention, **of)
    length = q.shape[1]
    default = whole if length <= PLAIN_LENGTH else by_tiles
    cpu = whole if length <= CPU_PLAIN_LENGTH else by_strips if length <= STRIPS_LENGTH else by_tiles
    if cpu is default:
        return cpu(q, k, v, events, params)
    return jax.lax.platform_dependent(q, k, v, events, params, cpu=cpu, default=default)


def _whole(
    q, k, v, events: Moments, params: Any, kind: Softmax | SiLU, bias: Bias, window: int
) -> jax.Array:
    """Without blocks; as `stjax.ops.tiles.attention`."""
    position = np.arange(q.shape[1], dtype=np.int32)
    lag = position[:, None] - position[None, :]
    mask = attention.causal_mask(q.shape[1], window) & events.valid[:, None, None, :]
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    s = product("bhqd,bhkd->bhqk", q, k) + bias(params, lag, *pair_gaps(events, events))
    return kind.whole(jnp.where(mask, s, NEVER), v)[0].astype(v.dtype).swapaxes(1, 2)
