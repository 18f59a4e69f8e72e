"""Softmax over a large catalogue, in tiles of positions by items: temporary memory does not depend on V.

The logits of a tile are made, used and forgotten, forward and backward, as tiles of attention are: the sum of
exponentials is kept running over the items (Milakov and Gimelshein, 2018). That is 4 products where the plain
formula has 3. What grows with V is the table, and its gradient.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from stjax.ops.near import Near, for_rows, rows_of
from stjax.ops.product import product

ROWS, ITEMS = 512, 2_048  # of a tile: 4 MiB of float32, about a core's share of cache


def log_prob(
    h: jax.Array, table: jax.Array, bias: jax.Array, near: Near | None, target: jax.Array, first: int
) -> jax.Array:
    """As `stjax.ops.softmax.catalogue_log_prob`: (N, D), (V, D), (V,), (N,) ids to (N,) float32."""
    own = product("nd,nd->n", h, table[target]) + bias[target]
    if near is not None:
        own += near.logits_at(target)
    total = _log_total(h, table, bias, near, first, (min(ROWS, h.shape[0]), min(ITEMS, table.shape[0])))
    return jnp.where(target >= first, own - total, -jnp.inf)


def _logits(h: jax.Array, tile: Any, near: Near | None, ids: jax.Array) -> jax.Array:
    rows, bias, new = tile
    logits = product("nd,vd->nv", h, rows) + bias
    if near is not None:
        logits += near.of_items(ids).logits()
    return jnp.where(new, logits, -jnp.inf)


def _tile(k: jax.Array, table: jax.Array, bias: jax.Array, first: int, size: int) -> tuple[jax.Array, Any]:
    """Ids of the k-th tile, and its rows, biases and which of them count.

    The last tile ends with the table: of what it shares with the one before nothing counts again.
    """
    begin = k * size
    start = jnp.minimum(begin, table.shape[0] - size)
    ids = start + jnp.arange(size, dtype=jnp.int32)
    rows, own = (jax.lax.dynamic_slice_in_dim(x, start, size) for x in (table, bias))
    return ids, (rows, own, ids >= jnp.maximum(begin, first))


def _cut(tree: Any, rows: int) -> Any:
    """Each (N, ...) as (ceil(N / rows), rows, ...), filled up with zeros."""

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, -x.shape[0] % rows)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, rows, *x.shape[1:])

    return jax.tree.map(cut, tree)


def _joined(tree: Any, n: int) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], tree)


def _forward(h, table, bias, near, first, sizes):
    """log sum exp of the logits (N, V) over the ids from `first` on: (N,)."""
    count = -(-table.shape[0] // sizes[1])

    def block(args: Any) -> jax.Array:
        h, rows = args
        here = for_rows(near, rows)

        def add(k: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            top, total = carry
            ids, tile = _tile(k, table, bias, first, sizes[1])
            logits = _logits(h, tile, here, ids)
            new = jnp.maximum(top, logits.max(axis=-1))
            safe = jnp.where(new > -jnp.inf, new, 0.0)  # a tile may hold no candidate
            return new, total * jnp.exp(top - safe) + jnp.exp(logits - safe[:, None]).sum(axis=-1)

        start = jnp.full(h.shape[0], -jnp.inf), jnp.zeros(h.shape[0])
        top, total = jax.lax.fori_loop(0, count, add, start)
        return top + jnp.log(total)

    total = _joined(jax.lax.map(block, _cut((h, rows_of(near)), sizes[0])), h.shape[0])
    return total, (h, table, bias, near, total)


def _backward(first, sizes, saved, g):
    h, table, bias, near, total = saved
    size = sizes[1]

    def over_items(k: jax.Array, carry: Any) -> Any:
        d_table, d_bias, d_rows = carry
        ids, tile = _tile(k, table, bias, first, size)

        def block(carry: Any, args: Any) -> tuple[Any, Any]:
            (h, rows, total, g), (d_h, d_near) = args
            here = for_rows(near, rows)
            # At most 1, also on the rows that fill up the last block, whose total is not theirs.
            p = jnp.exp(jnp.minimum(_logits(h, tile, here, ids) - total[:, None], 0.0))
            d = g[:, None] * p
            d_tile = carry[0] + product("nv,nd->vd", d, h, h.dtype)
            d_h = d_h + product("nv,vd->nd", d, tile[0], h.dtype)
            if here is not None:
                d_near = d_near + here.of_items(ids).weights_gradient(d)
            return (d_tile, carry[1] + d.sum(axis=0)), (d_h, d_near)

        zeros = jnp.zeros(tile[0].shape, jnp.float32), jnp.zeros(size, jnp.float32)
        (d_tile, d_own), d_rows = jax.lax.scan(block, zeros, (blocks, d_rows))
        put = jax.lax.dynamic_update_slice_in_dim
        here = ids[0]
        d_table = put(d_table, jax.lax.dynamic_slice_in_dim(d_table, here, size) + d_tile, here, 0)
        d_bias = put(d_bias, jax.lax.dynamic_slice_in_dim(d_bias, here, size) + d_own, here, 0)
        return d_table, d_bias, d_rows

    blocks = _cut((h, rows_of(near), total, g), sizes[0])
    start_near = None if near is None else jnp.zeros(near.weights.shape, jnp.float32)
    d_rows = _cut((jnp.zeros(h.shape, jnp.float32), start_near), sizes[0])
    start = jnp.zeros(table.shape, jnp.float32), jnp.zeros(bias.shape, jnp.float32), d_rows
    d_table, d_bias, d_rows = jax.lax.fori_loop(0, -(-table.shape[0] // size), over_items, start)
    d_h, d_near = _joined(d_rows, h.shape[0])
    d_near = None if near is None else near.no_gradient(d_near)
    return d_h.astype(h.dtype), d_table.astype(table.dtype), d_bias.astype(bias.dtype), d_near


def _plain(h, table, bias, near, first, sizes) -> jax.Array:
    return _forward(h, table, bias, near, first, sizes)[0]


_log_total = jax.custom_vjp(_plain, nondiff_argnums=(4, 5))
_log_total.defvjp(_forward, _backward)
