"""Causal attention within a sliding window, tile by tile: no (B, H, L, L) array exists, forward or backward.

A tile is a block of queries against a block of keys; only tiles that the window reaches are visited. The bias
of a tile is made inside it from lags, time gaps and distances, and made again in the backward pass, so memory
is linear in L. Softmax attention keeps a running maximum and sum (Rabe and Staats, 2021; Dao et al.,
NeurIPS 2022); pointwise attention (HSTU, Zhai et al., ICML 2024) needs neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops import attention, geo
from stjax.ops import time as ops

TILE_ENTRIES = 1 << 16  # logits alive at a time, of all rows and heads: what was fastest on CPU
LEAST_BLOCK, LARGEST_BLOCK = 64, 256
PLAIN_LENGTH = 128  # histories up to this length are one tile, whose weights are kept for the backward pass

# (parameters, lag, seconds, km) to logits that broadcast to (B, H, q, k). lag (q, k) int32 is
# lag[0, 0] + a - b, a NumPy array where it is static. seconds (B, q, k) int32 and km (B, q, k) float32
# (negative where a place is unknown) are None where `Moments` lacks them. It is hashable and reads no arrays
# but its arguments.
Bias = Callable[[Any, Any, jax.Array | None, jax.Array | None], jax.Array]


class Moments(NamedTuple):
    """What attention reads of events: whether they are valid, and when and where they were.

    valid: (B, L) bool. time: (B, L) int32 seconds, or None. place: (3, B, L) float32 on the unit sphere and
    (B, L) bool, whether it is known; or None. Nothing here has a gradient.
    """

    valid: jax.Array
    time: jax.Array | None = None
    place: tuple[jax.Array, jax.Array] | None = None


def moments(valid: jax.Array, time: jax.Array | None = None, place: jax.Array | None = None) -> Moments:
    """The moments of events (B, L) whose places (B, L, 2) are degrees, NaN where unknown."""
    if place is None:
        return Moments(valid, time)
    point = jnp.moveaxis(geo.unit_vector(geo.fill(place)), -1, 0)
    return Moments(valid, time, (jax.lax.stop_gradient(point), geo.known(place)))


def pair_gaps(here: Moments, there: Moments) -> tuple[jax.Array | None, jax.Array | None]:
    """Seconds since and kilometres (along the chord) to each event there: (B, q, k) each, or None."""
    seconds = km = None
    if here.time is not None and there.time is not None:
        seconds = ops.elapsed(here.time[:, :, None], there.time[:, None, :])
    if here.place is not None and there.place is not None:
        (point, known), (point_then, known_then) = here.place, there.place
        square = sum((a[:, :, None] - b[:, None, :]) ** 2 for a, b in zip(point, point_then, strict=True))
        both = known[:, :, None] & known_then[:, None, :]
        km = jnp.where(both, geo.EARTH_RADIUS_KM * jnp.sqrt(square), -1.0)
    return seconds, km


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
    tile; by default one tile up to PLAIN_LENGTH, else by TILE_ENTRIES. Returns (B, L, H, D); zeros where
    there is no valid event to read.
    """
    if block is None and q.shape[1] <= PLAIN_LENGTH:
        mask, logits = _whole(events, bias, params, window)
        return attention.attend(q, k, v, mask, logits)
    return _causal(SOFTMAX, q * q.shape[-1] ** -0.5, k, v, events, bias, params, window, block)


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
    if block is None and q.shape[1] <= PLAIN_LENGTH:
        mask, logits = _whole(events, bias, params, window)
        return attention.attend_silu(q, k, v, mask, logits)
    total = jnp.cumsum(events.valid, axis=1, dtype=jnp.int32)
    read = total - jnp.pad(total, ((0, 0), (window, 0)))[:, : total.shape[1]]
    y = _causal(SILU, q, k, v, events, bias, params, window, block)
    return y / jnp.maximum(read, 1).astype(y.dtype)[..., None, None]


def newest(here: Moments, there: Moments, bias: Bias, params: Any) -> tuple[jax.Array, jax.Array]:
    """Mask and bias with which an event (B, 1) reads a memory (B, W) that ends with it."""
    width = there.valid.shape[1]
    lag = width - 1 - np.arange(width, dtype=np.int32)[None, :]
    return there.valid[:, None, None, :], bias(params, lag, *pair_gaps(here, there))


def _whole(events: Moments, bias: Bias, params: Any, window: int) -> tuple[jax.Array, jax.Array]:
    length = events.valid.shape[1]
    position = np.arange(length, dtype=np.int32)
    lag = position[:, None] - position[None, :]
    mask = attention.causal_mask(length, window) & events.valid[:, None, None, :]
    return mask, bias(params, lag, *pair_gaps(events, events))


class _Softmax(NamedTuple):
    """Weights exp(s - lse), with a running maximum and sum; a masked logit is NEVER."""

    def start(self, q: jax.Array) -> tuple[jax.Array, ...]:
        top = jnp.full((*q.shape[:-1], 1), attention.NEVER)
        return top, jnp.zeros_like(top), jnp.zeros(q.shape, jnp.float32)

    def add(self, carry: tuple[jax.Array, ...], s: jax.Array, mask: jax.Array, v: jax.Array):
        top, total, y = carry
        new = jnp.maximum(top, jnp.where(mask, s, attention.NEVER).max(axis=-1, keepdims=True))
        weights = jnp.exp(jnp.where(mask, s - new, attention.NEVER))
        rescale = jnp.exp(top - new)
        total = total * rescale + weights.sum(axis=-1, keepdims=True)
        return new, total, y * rescale + _product("bhqk,bhkd->bhqd", weights.astype(v.dtype), v)

    def finish(self, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        """The output, and what the backward pass needs: the log of the sum."""
        top, total, y = carry
        some = jnp.where(total > 0, total, 1.0)
        return y / some, top + jnp.log(some)

    def weights(self, s: jax.Array, mask: jax.Array, lse: jax.Array) -> jax.Array:
        return jnp.exp(jnp.where(mask, s - lse, attention.NEVER))

    def cotangent(self, s: jax.Array, mask: jax.Array, weights: jax.Array, d_weights, delta) -> jax.Array:
        return weights * (d_weights - delta)


class _SiLU(NamedTuple):
    """Weights silu(s)."""

    def start(self, q: jax.Array) -> tuple[jax.Array, ...]:
        return (jnp.zeros(q.shape, jnp.float32),)

    def add(self, carry: tuple[jax.Array, ...], s: jax.Array, mask: jax.Array, v: jax.Array):
        weights = self.weights(s, mask, None)
        return (carry[0] + _product("bhqk,bhkd->bhqd", weights.astype(v.dtype), v),)

    def finish(self, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        return carry[0], carry[0][..., :1]

    def weights(self, s: jax.Array, mask: jax.Array, lse: jax.Array | None) -> jax.Array:
        return jnp.where(mask, jax.nn.silu(s), 0.0)

    def cotangent(self, s: jax.Array, mask: jax.Array, weights: jax.Array, d_weights, delta) -> jax.Array:
        gate = jax.nn.sigmoid(s)
        return jnp.where(mask, d_weights * (gate + weights * (1.0 - gate)), 0.0)


SOFTMAX, SILU = _Softmax(), _SiLU()


@dataclass(frozen=True)
class _Plan:
    """What is static: the kind of attention, the bias function, the window and the size of a block."""

    kind: _Softmax | _SiLU
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


def _causal(kind, q, k, v, events: Moments, bias: Bias, params, window: int, block: int | None) -> jax.Array:
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


def _product(formula: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(formula, a, b, preferred_element_type=jnp.float32)


def _at(tree: Any, i: jax.Array) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False), tree)


def _put(tree: Any, part: Any, i: jax.Array) -> Any:
    return jax.tree.map(lambda x, p: jax.lax.dynamic_update_index_in_dim(x, p, i, 0), tree, part)


def _logits(plan: _Plan, q: jax.Array, k: jax.Array, params: Any, lag, seconds, km) -> jax.Array:
    return _product("bhqd,bhkd->bhqk", q, k) + plan.bias(params, lag, seconds, km)


def _forward(plan: _Plan, q, k, v, events: Moments, params):
    def tile(carry, pair):
        i, j = pair
        here, there = _at(events, i), _at(events, j)
        lag, mask = plan.mask(i, j, there)
        s = _logits(plan, _at(q, i), _at(k, j), params, lag, *pair_gaps(here, there))
        return _put(carry, plan.kind.add(_at(carry, i), s, mask, _at(v, j)), i), None

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
        s, pull = jax.vjp(lambda q, k, p: _logits(plan, q, k, p, lag, *gaps), _at(q, i), _at(k, j), params)
        weights = plan.kind.weights(s, mask, _at(saved, i))
        dy_i = _at(dy, i)
        d_weights = _product("bhqd,bhkd->bhqk", dy_i, _at(v, j))
        ds = plan.kind.cotangent(s, mask, weights, d_weights, _at(delta, i))
        dq_i, dk_j, d_tile = pull(ds)
        dv_j = _product("bhqk,bhqd->bhkd", weights.astype(dy.dtype), dy_i)
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
