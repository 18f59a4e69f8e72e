"""Causal attention by strips of queries and groups of rows, whose logits fit a core's cache: for CPUs.

A strip is a block of queries against all the keys that it may read, so a softmax needs no running sums and
the lags of a strip are static. Logits are made again in the backward pass. XLA on CPU works through one
operation after the other: what one writes must still be in the cache when the next reads it.
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

STRIP = 64  # queries
PART_ENTRIES = 40_000  # logits of a group of rows in the longest strip; measured with 512 KiB of cache a core


@dataclass(frozen=True)
class _Plan:
    """What is static: the kind of attention, the bias function and the window."""

    kind: Softmax | SiLU
    bias: Bias
    window: int


@dataclass(frozen=True)
class _Strip:
    """Queries first..stop - 1 and the keys that they may read, start..stop - 1."""

    start: int
    first: int
    stop: int

    @property
    def lag(self) -> np.ndarray:
        """(q, k) int32."""
        queries = np.arange(self.first, self.stop, dtype=np.int32)[:, None]
        return queries - np.arange(self.start, self.stop, dtype=np.int32)[None, :]

    def queries(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: x[:, :, self.first : self.stop], tree)

    def keys(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: x[:, :, self.start : self.stop], tree)

    def moments(self, events: Moments) -> tuple[Moments, Moments]:
        here = jax.tree.map(lambda x: x[..., self.first : self.stop], events)
        return here, jax.tree.map(lambda x: x[..., self.start : self.stop], events)

    def logits(self, plan: _Plan, events: Moments, q: jax.Array, k: jax.Array, params: Any) -> jax.Array:
        """q (B, H, q, D), k (B, H, k, D) to (B, H, q, k)."""
        here, there = self.moments(events)
        lag = self.lag
        mask = (lag >= 0) & (lag < plan.window) & there.valid[:, None, None, :]
        s = product("bhqd,bhkd->bhqk", q, k) + plan.bias(params, lag, *pair_gaps(here, there))
        return jnp.where(mask, s, NEVER)


def _strips(length: int, window: int) -> list[_Strip]:
    firsts = range(0, length, STRIP)
    return [_Strip(max(first - window + 1, 0), first, min(first + STRIP, length)) for first in firsts]


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    events: Moments,
    params: Any,
    kind: Softmax | SiLU,
    bias: Bias,
    window: int,
) -> jax.Array:
    """Weighted sums of v (B, L, H, D), by the logits q k^T + bias, without the scale of a softmax.

    The same as `stjax.ops.tiles.attention`. Returns (B, L, H, D).
    """
    rows, length, heads, _ = q.shape
    plan = _Plan(kind, bias, min(window, length))
    groups = -(-rows * heads * min(STRIP, length) * length // PART_ENTRIES)
    group = -(-rows // min(groups, rows))
    fill = -rows % group  # rows without a valid event

    def cut(x: jax.Array, axis: int) -> jax.Array:  # the axis of rows to (groups, group) in front
        x = jnp.moveaxis(x, axis, 0)
        x = jnp.pad(x, ((0, fill), *((0, 0) for _ in x.shape[1:]))).reshape(-1, group, *x.shape[1:])
        return jnp.moveaxis(x, 1, axis + 1)

    parts = [cut(x.swapaxes(1, 2), 0) for x in (q, k, v)]
    y = _attention(plan, *parts, jax.tree.map(lambda x: cut(x, x.ndim - 2), events), params)
    return y.reshape(-1, *y.shape[2:])[:rows].swapaxes(1, 2)


def _forward(plan: _Plan, q, k, v, events: Moments, params):
    """q, k, v: (groups, rows, H, L, D); events likewise."""

    def part(_, inputs):
        q, k, v, events = inputs
        done = []
        for strip in _strips(q.shape[2], plan.window):
            s = strip.logits(plan, events, strip.queries(q), strip.keys(k), params)
            done.append(plan.kind.whole(s, strip.keys(v)))
        y, saved = (jnp.concatenate(x, axis=2) for x in zip(*done, strict=True))
        return None, (y.astype(v.dtype), saved)

    _, (y, saved) = jax.lax.scan(part, None, (q, k, v, events))
    return y, (q, k, v, events, params, y, saved)


def _backward(plan: _Plan, residuals, dy: jax.Array):
    q, k, v, events, params, y, saved = residuals
    delta = (dy.astype(jnp.float32) * y.astype(jnp.float32)).sum(axis=-1, keepdims=True)

    def part(d_params, inputs):
        q, k, v, events, saved, dy, delta = inputs
        dq, dk, dv = [], jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
        for strip in _strips(q.shape[2], plan.window):
            logits = partial(strip.logits, plan, events)
            s, pull = jax.vjp(logits, strip.queries(q), strip.keys(k), params)
            weights = plan.kind.weights(s, strip.queries(saved))
            dy_here = strip.queries(dy)
            d_weights = product("bhqd,bhkd->bhqk", dy_here, strip.keys(v))
            ds = plan.kind.cotangent(s, weights, d_weights, strip.queries(delta))
            dq_here, dk_there, d_here = pull(ds)
            dv_there = product("bhqk,bhqd->bhkd", weights.astype(dy.dtype), dy_here)
            dq.append(dq_here)
            there = np.s_[:, :, strip.start : strip.stop]
            dk = dk.at[there].add(dk_there.astype(dk.dtype))
            dv = dv.at[there].add(dv_there)
            d_params = jax.tree.map(jnp.add, d_params, d_here)
        d_qkv = jnp.concatenate(dq, axis=2), dk.astype(k.dtype), dv.astype(v.dtype)
        return d_params, d_qkv

    zeros = jax.tree.map(jnp.zeros_like, params)
    d_params, (dq, dk, dv) = jax.lax.scan(part, zeros, (q, k, v, events, saved, dy, delta))
    return dq, dk, dv, None, d_params


def _plain(plan: _Plan, q, k, v, events: Moments, params) -> jax.Array:
    return _forward(plan, q, k, v, events, params)[0]


_attention = jax.custom_vjp(_plain, nondiff_argnums=(0,))
_attention.defvjp(_forward, _backward)
