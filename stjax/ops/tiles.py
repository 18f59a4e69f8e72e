"""Causal attention tile by tile: no (B, H, L, L) array exists, forward or backward.

A tile is a block of queries against a block of keys; only tiles that the window reaches are visited. The bias
of a tile is made inside it from lags, time gaps and distances, and made again in the backward pass, so memory
is linear in L. Softmax attention keeps a running maximum and sum (Rabe and Staats, 2021; Dao et al.,
NeurIPS 2022); pointwise attention (HSTU, Zhai et al., ICML 2024) needs neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops.attention import NEVER
from stjax.ops.moments import Bias, Moments, pair_gaps
from stjax.ops.product import product
from stjax.ops.weighting import SiLU, Softmax

TILE_ENTRIES = 1 << 16  # logits alive at a time, of all rows and heads: what was fastest on CPU
LEAST_BLOCK, LARGEST_BLOCK = 64, 256


@dataclass(frozen=True)
class _Plan:
    """What is static: the kind of attention, the bias function, the window and the size of a block."""

    kind: Softmax | SiLU
    bias: Bias
    window: int
    block: int

    def tiles(self, blocks: int) -> np.ndarray:
        """(T, 2): each block of queries with each block of keys that its window reaches."""
        reach = -(-(self.window - 1) // self.block)
        return np.array([(i, j) for i in range(blocks) for j in range(max(i - reach, 0), i + 1)], np.int32)

    def mask(self, i: jax.Array, j: jax.Array, there: Moments) -> tuple[jax.Array, jax.Array]:
        """Lag (q, k) and mask (B, 1, q, k) of a tile."""
        step = jnp.arange(self.block, dtype=jnp.int32)
        lag = (i - j) * self.block + step[:, None] - step[None, :]
        return lag, (lag >= 0) & (lag < self.window) & there.valid[:, None, None, :]


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    events: Moments,
    params: Any,
    kind: Softmax | SiLU,
    bias: Bias,
    window: int,
    block: int | None = None,
) -> jax.Array:
    """Weighted sums of v (B, L, H, D), by the logits q k^T + bias, without the scale of a softmax.

    block: positions a tile; by default by TILE_ENTRIES. Returns float32 or v's dtype, (B, L, H, D).
    """
    rows, length, heads, width = q.shape
    block = min(_block_size(rows * heads) if block is None else block, length)
    plan = _Plan(kind, bias, min(window, length), block)

    def cut(x: jax.Array) -> jax.Array:  # (B, L, H, D) to (blocks, B, H, block, D)
        x = jnp.pad(x, ((0, 0), (0, -length % block), (0, 0), (0, 0)))
        return x.reshape(rows, -1, block, heads, width).transpose(1, 0, 3, 2, 4)

    def cut_moment(x: jax.Array) -> jax.Array:  # (..., L) to (blocks, ..., block)
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -length % block)])
        return jnp.moveaxis(x.reshape(*x.shape[:-1], -1, block), -2, 0)

    y = _attention(plan, cut(q), cut(k), cut(v), jax.tree.map(cut_moment, events), params)
    return y.transpose(1, 0, 3, 2, 4).reshape(rows, -1, heads, width)[:, :length]


def _block_size(rows: int) -> int:
    side = (TILE_ENTRIES / rows) ** 0.5
    return int(np.clip(2 ** np.floor(np.log2(side)), LEAST_BLOCK, LARGEST_BLOCK))


def _at(tree: Any, i: jax.Array) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False), tree)


def _put(tree: Any, part: Any, i: jax.Array) -> Any:
    return jax.tree.map(lambda x, p: jax.lax.dynamic_update_index_in_dim(x, p, i, 0), tree, part)


def _logits(plan: _Plan, q: jax.Array, k: jax.Array, params: Any, lag, mask, gaps) -> jax.Array:
    s = product("bhqd,bhkd->bhqk", q, k) + plan.bias(params, lag, *gaps)
    return jnp.where(mask, s, NEVER)


def _forward(plan: _Plan, q, k, v, events: Moments, params):
    def tile(carry, pair):
        i, j = pair
        here, there = _at(events, i), _at(events, j)
        lag, mask = plan.mask(i, j, there)
        s = _logits(plan, _at(q, i), _at(k, j), params, lag, mask, pair_gaps(here, there))
        return _put(carry, plan.kind.add(_at(carry, i), s, _at(v, j)), i), None

    start = plan.kind.start(q)
    carry, _ = jax.lax.scan(tile, start, tuple(plan.tiles(q.shape[0]).T))
    y, saved = plan.kind.finish(carry)
    y = y.astype(v.dtype)
    return y, (q, k, v, events, params, y, saved)


def _backward(plan: _Plan, residuals, dy: jax.Array):
    q, k, v, events, params, y, saved = residuals
    delta = (dy.astype(jnp.float32) * y.astype(jnp.float32)).sum(axis=-1, keepdims=True)

    def tile(carry, pair):
        i, j = pair
        (dq, dk, dv), d_params = carry
        here, there = _at(events, i), _at(events, j)
        lag, mask = plan.mask(i, j, there)
        gaps = pair_gaps(here, there)
        s, pull = jax.vjp(partial(_logits, plan, lag=lag, mask=mask, gaps=gaps), _at(q, i), _at(k, j), params)
        weights = plan.kind.weights(s, _at(saved, i))
        dy_i = _at(dy, i)
        d_weights = product("bhqd,bhkd->bhqk", dy_i, _at(v, j))
        ds = plan.kind.cotangent(s, weights, d_weights, _at(delta, i))
        dq_i, dk_j, d_tile = pull(ds)
        dv_j = product("bhqk,bhqd->bhkd", weights.astype(dy.dtype), dy_i)
        dq = _put(dq, _at(dq, i) + dq_i.astype(jnp.float32), i)
        dk = _put(dk, _at(dk, j) + dk_j.astype(jnp.float32), j)
        dv = _put(dv, _at(dv, j) + dv_j, j)
        return ((dq, dk, dv), jax.tree.map(jnp.add, d_params, d_tile)), None

    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
    start = (zeros, jax.tree.map(jnp.zeros_like, params))
    (d_qkv, d_params), _ = jax.lax.scan(tile, start, tuple(plan.tiles(q.shape[0]).T))
    dq, dk, dv = (d.astype(x.dtype) for d, x in zip(d_qkv, (q, k, v), strict=True))
    return dq, dk, dv, None, d_params


def _plain(plan: _Plan, q, k, v, events: Moments, params) -> jax.Array:
    return _forward(plan, q, k, v, events, params)[0]


_attention = jax.custom_vjp(_plain, nondiff_argnums=(0,))
_attention.defvjp(_forward, _backward)
