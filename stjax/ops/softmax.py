"""Softmax over a whole catalogue, in blocks of positions, so that no (positions, V) array ever exists.

Two functions with one meaning. `catalogue_log_prob` is for losses that mix the softmax with something else:
its backward pass computes the logits again, 4 products where the plain formula has 3. `catalogue_loss` is
for the plain loss, whose cotangent is known in advance: its forward pass makes the gradients at once, with
3 products and one exponential.

On one device a catalogue of more than TILED_FROM items goes by tiles of positions and items
(`stjax.ops.softmax_tiles`), so that temporary memory does not depend on V; several devices that share a table
take blocks of positions by the items of their own.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from stjax.ops import devices, softmax_tiles
from stjax.ops.near import Near, for_rows, rows_of
from stjax.ops.product import product

BLOCK_ENTRIES = 1 << 20  # logits alive at a time on a device: 4 MiB of float32, a core's share of cache
LEAST_ROWS = 64  # a block of fewer positions would read the whole table for too little work
TILED_FROM = BLOCK_ENTRIES // LEAST_ROWS  # items

Mixture = tuple[jax.Array, jax.Array]


def catalogue_log_prob(
    h: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    target: jax.Array,
    first: int = 0,
    near: Near | None = None,
) -> jax.Array:
    """log softmax(h table^T + bias)[target] for each position, with gradients to h, table and bias.

    h: (N, D). table: (V, D). bias: (V,). target: (N,) int ids. first: ids below it are no candidates
    (padding and unseen); a target below it gives -inf with zero gradient. near: adds the distance from each
    position to each item to the logits, with gradients to its weights. Products are of h's dtype, all else is
    float32. Returns (N,) float32.
    """
    if _tiled(table):
        return softmax_tiles.log_prob(h, table, bias, near, target, first)
    return _log_prob(h, table, bias, near, target, first, _block_size(h, table))


def catalogue_loss(
    h: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    target: jax.Array,
    weight: jax.Array,
    first: int = 0,
    near: Near | None = None,
    mixture: Mixture | None = None,
) -> jax.Array:
    """Sum of -weight * `catalogue_log_prob` over positions; weight (N,) has no gradient.

    Positions of weight 0 count nothing, whatever their target. mixture: (log share of the catalogue, log
    share * probability of another model), (N,) each: then the loss is of their sum, with gradients to both.
    """
    if _tiled(table):
        log_prob = softmax_tiles.log_prob(h, table, bias, near, target, first)
        return _weighted(_mix(log_prob, mixture, weight)[0], weight)
    return _loss(h, table, bias, near, mixture, target, weight, first, _block_size(h, table))


def catalogue_logits(
    h: jax.Array, table: jax.Array, bias: jax.Array, first: int = 0, near: Near | None = None
) -> jax.Array:
    """The logits themselves, (N, V) float32, -inf for ids below `first`."""
    if h.shape[0] == 1:  # XLA on CPU passes over the table a third faster so
        logits = jax.lax.optimization_barrier(product("nd,dv->nv", h, table.T)) + bias
    else:
        logits = product("nd,vd->nv", h, table) + bias
    if near is not None:
        logits += near.logits()
    return jnp.where(jnp.arange(table.shape[0]) < first, -jnp.inf, logits) if first else logits


def _tiled(table: jax.Array) -> bool:
    return table.shape[0] > TILED_FROM and devices.alone()


def _weighted(log_prob: jax.Array, weight: jax.Array) -> jax.Array:
    return -jnp.where(weight > 0, weight * log_prob, 0.0).sum()


def _block_size(h: jax.Array, table: jax.Array) -> int:
    return min(h.shape[0], block_rows(table.shape[0]))


def block_rows(columns: int) -> int:
    """Positions of a block whose logits have so many columns.

    Each device that shares the positions has as many of a block as one alone would have, so that sums over
    devices, one a block at least, are few.
    """
    return max(LEAST_ROWS, BLOCK_ENTRIES // columns) * (devices.sharing() or 1)


def _blocks(block: int, tree: Any) -> Any:
    """Each (N, ...) as (ceil(N / block), block, ...), filled up with zeros.

    A block takes every n-th position, so that where devices share the positions, they share each block.
    """

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, -x.shape[0] % block)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(block, -1, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(cut, tree)


def _gradients(
    h: jax.Array, table: jax.Array, near: Near | None, p: jax.Array, target: jax.Array, g: jax.Array
) -> tuple[jax.Array, jax.Array, Any]:
    """Gradients of sum g * log p[target] to table, bias and (h, near's weights), for one block of
    probabilities p."""
    hit = jnp.arange(table.shape[0]) == target[:, None]
    d_logits = g[:, None] * (hit.astype(p.dtype) - p)
    d_table = product("nv,nd->vd", d_logits, h, h.dtype)
    d_h = product("nv,vd->nd", d_logits, table, h.dtype)
    d_near = None if near is None else near.weights_gradient(d_logits)
    return d_table, d_logits.sum(axis=0), (d_h, d_near)


def _zeros(table: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.zeros(table.shape, jnp.float32), jnp.zeros(bias.shape, jnp.float32)


def _joined(blocks: Any, n: int) -> Any:
    """The inverse of `_blocks`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:n], blocks)


def _log_prob_forward(h, table, bias, near, target, first, block) -> tuple[jax.Array, Any]:
    low = table.astype(h.dtype)

    def body(args: Any) -> tuple[jax.Array, jax.Array]:
        h, rows, target = args
        logits = catalogue_logits(h, low, bias, first, for_rows(near, rows))
        lse = jax.nn.logsumexp(logits, axis=-1)
        return jnp.take_along_axis(logits, target[:, None], axis=-1)[:, 0] - lse, lse

    done = jax.lax.map(body, _blocks(block, (h, rows_of(near), target)))
    log_prob, lse = _joined(done, h.shape[0])
    return log_prob, (h, table, bias, near, target, lse)


def _log_prob_backward(first, block, saved, g):
    h, table, bias, near, target, lse = saved
    g = jnp.where(target >= first, g, 0.0)
    low = table.astype(h.dtype)

    def body(carry, args: Any):
        h, rows, target, lse, g = args
        here = for_rows(near, rows)
        # At most 1, also on the rows that fill up the last block, whose lse is not theirs.
        p = jnp.exp(jnp.minimum(catalogue_logits(h, low, bias, first, here) - lse[:, None], 0.0))
        d_table, d_bias, d_rows = _gradients(h, low, here, p, target, g)
        return (carry[0] + d_table, carry[1] + d_bias), d_rows

    blocks = _blocks(block, (h, rows_of(near), target, lse, g))
    (d_table, d_bias), d_rows = jax.lax.scan(body, _zeros(table, bias), blocks)
    d_h, d_near = _joined(d_rows, h.shape[0])
    d_near = None if near is None else near.no_gradient(d_near)
    return d_h.astype(h.dtype), d_table.astype(table.dtype), d_bias.astype(bias.dtype), d_near, None


def _loss_forward(h, table, bias, near, mixture, target, weight, first, block) -> tuple[jax.Array, Any]:
    low = table.astype(h.dtype)

    def body(carry, args: Any):
        h, rows, mixed, target, weight = args
        here = for_rows(near, rows)
        logits = catalogue_logits(h, low, bias, first, here)
        top = logits.max(axis=-1, keepdims=True)
        p = jnp.exp(logits - top)
        total = p.sum(axis=-1, keepdims=True)
        log_prob = (jnp.take_along_axis(logits - top, target[:, None], axis=-1) - jnp.log(total))[:, 0]
        log_prob, g, d_mixed = _mix(log_prob, mixed, weight)
        loss = _weighted(log_prob, weight)
        d_table, d_bias, d_rows = _gradients(h, low, here, p / total, target, g)
        return (carry[0] + loss, carry[1] + d_table, carry[2] + d_bias), (*d_rows, d_mixed)

    start = (jnp.float32(0), *_zeros(table, bias))
    blocks = _blocks(block, (h, rows_of(near), mixture, target, weight))
    (loss, d_table, d_bias), d_rows = jax.lax.scan(body, start, blocks)
    d_h, d_near, d_mixture = _joined(d_rows, h.shape[0])
    gradients = d_h.astype(h.dtype), d_table.astype(table.dtype), d_bias.astype(bias.dtype)
    return loss, (gradients, d_near, d_mixture, near)


def _mix(log_prob: jax.Array, mixed: Mixture | None, weight: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
    """log of the mixture, and the gradients of -weight * it to log_prob and to the two parts of `mixed`."""
    if mixed is None:
        return log_prob, -weight, None
    share, other = mixed
    log_prob = share + log_prob
    total = jnp.logaddexp(log_prob, other)
    own = jnp.where(weight > 0, weight * jnp.exp(log_prob - total), 0.0)  # total is -inf at padding
    return total, -own, (-own, own - weight)


def _loss_backward(first, block, saved, g):
    del first, block
    gradients, d_near, d_mixture, near = saved
    d_near = None if near is None else near.no_gradient(d_near * g)
    d_mixture = jax.tree.map(lambda d: d * g, d_mixture)
    return (*(d * g.astype(d.dtype) for d in gradients), d_near, d_mixture, None, None)


def _log_prob_plain(h, table, bias, near, target, first, block):
    return _log_prob_forward(h, table, bias, near, target, first, block)[0]


def _loss_plain(h, table, bias, near, mixture, target, weight, first, block):
    log_prob = _log_prob_plain(h, table, bias, near, target, first, block)
    return _weighted(_mix(log_prob, mixture, weight)[0], weight)


_log_prob = jax.custom_vjp(_log_prob_plain, nondiff_argnums=(5, 6))
_log_prob.defvjp(_log_prob_forward, _log_prob_backward)
_loss = jax.custom_vjp(_loss_plain, nondiff_argnums=(7, 8))
_loss.defvjp(_loss_forward, _loss_backward)
