"""Softmax over a whole catalogue, in blocks of positions, so that no (positions, V) array ever exists.

Two functions with one meaning. `catalogue_log_prob` is for losses that mix the softmax with something else:
its backward pass computes the logits again, 4 products where the plain formula has 3. `catalogue_loss` is
for the plain loss, whose cotangent is known in advance: its forward pass makes the gradients at once, with
3 products and one exponential.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

BLOCK_ENTRIES = 1 << 20  # logits alive at a time: 4 MiB of float32, about a core's share of cache
LEAST_ROWS = 64  # a block of fewer positions would read the whole table for too little work

Blocks = tuple[jax.Array, ...]


def catalogue_log_prob(
    h: jax.Array, table: jax.Array, bias: jax.Array, target: jax.Array, first: int = 0
) -> jax.Array:
    """log softmax(h table^T + bias)[target] for each position, with gradients to h, table and bias.

    h: (N, D). table: (V, D). bias: (V,). target: (N,) int ids. first: ids below it are no candidates
    (padding and unseen); a target below it gives -inf with zero gradient. Returns (N,) float32.
    """
    return _log_prob(h, table, bias, target, first, _block_size(h, table))


def catalogue_loss(
    h: jax.Array, table: jax.Array, bias: jax.Array, target: jax.Array, weight: jax.Array, first: int = 0
) -> jax.Array:
    """Sum of -weight * `catalogue_log_prob` over positions; weight (N,) has no gradient.

    Positions of weight 0 count nothing, whatever their target.
    """
    return _loss(h, table, bias, target, weight, first, _block_size(h, table))


def _block_size(h: jax.Array, table: jax.Array) -> int:
    return min(h.shape[0], max(LEAST_ROWS, BLOCK_ENTRIES // table.shape[0]))


def _logits(h: jax.Array, table: jax.Array, bias: jax.Array, first: int) -> jax.Array:
    logits = jnp.einsum("nd,vd->nv", h, table, preferred_element_type=jnp.float32) + bias
    return jnp.where(jnp.arange(table.shape[0]) < first, -jnp.inf, logits) if first else logits


def _blocks(block: int, *arrays: jax.Array) -> Blocks:
    """Each (N, ...) as (ceil(N / block), block, ...), filled up with zeros."""

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, -x.shape[0] % block)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, block, *x.shape[1:])

    return tuple(cut(x) for x in arrays)


def _gradients(
    h: jax.Array, table: jax.Array, p: jax.Array, target: jax.Array, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of sum g * log p[target] to table, bias and h, for one block of probabilities p."""
    hit = jnp.arange(table.shape[0]) == target[:, None]
    d_logits = (g[:, None] * (hit.astype(p.dtype) - p)).astype(h.dtype)
    d_table = jnp.einsum("nv,nd->vd", d_logits, h, preferred_element_type=jnp.float32)
    return d_table, d_logits.sum(axis=0, dtype=jnp.float32), jnp.einsum("nv,vd->nd", d_logits, table)


def _zeros(table: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.zeros(table.shape, jnp.float32), jnp.zeros(bias.shape, jnp.float32)


def _log_prob_forward(h, table, bias, target, first, block) -> tuple[jax.Array, Any]:
    def body(args: Blocks) -> tuple[jax.Array, jax.Array]:
        h, target = args
        logits = _logits(h, table, bias, first)
        lse = jax.nn.logsumexp(logits, axis=-1)
        return jnp.take_along_axis(logits, target[:, None], axis=-1)[:, 0] - lse, lse

    log_prob, lse = jax.lax.map(body, _blocks(block, h, target))
    n = h.shape[0]
    return log_prob.reshape(-1)[:n], (h, table, bias, target, lse.reshape(-1)[:n])


def _log_prob_backward(first, block, saved, g):
    h, table, bias, target, lse = saved
    g = jnp.where(target >= first, g, 0.0)

    def body(carry, args: Blocks):
        h, target, lse, g = args
        # At most 1, also on the rows that fill up the last block, whose lse is not theirs.
        p = jnp.exp(jnp.minimum(_logits(h, table, bias, first) - lse[:, None], 0.0))
        d_table, d_bias, d_h = _gradients(h, table, p, target, g)
        return (carry[0] + d_table, carry[1] + d_bias), d_h

    (d_table, d_bias), d_h = jax.lax.scan(body, _zeros(table, bias), _blocks(block, h, target, lse, g))
    d_h = d_h.reshape(-1, h.shape[1])[: h.shape[0]].astype(h.dtype)
    return d_h, d_table.astype(table.dtype), d_bias.astype(bias.dtype), None


def _loss_forward(h, table, bias, target, weight, first, block) -> tuple[jax.Array, Any]:
    def body(carry, args: Blocks):
        h, target, weight = args
        logits = _logits(h, table, bias, first)
        top = logits.max(axis=-1, keepdims=True)
        p = jnp.exp(logits - top)
        total = p.sum(axis=-1, keepdims=True)
        log_prob = jnp.take_along_axis(logits - top, target[:, None], axis=-1) - jnp.log(total)
        loss = -jnp.where(weight > 0, weight * log_prob[:, 0], 0.0).sum()
        d_table, d_bias, d_h = _gradients(h, table, p / total, target, -weight)
        return (carry[0] + loss, carry[1] + d_table, carry[2] + d_bias), d_h

    start = (jnp.float32(0), *_zeros(table, bias))
    (loss, d_table, d_bias), d_h = jax.lax.scan(body, start, _blocks(block, h, target, weight))
    d_h = d_h.reshape(-1, h.shape[1])[: h.shape[0]].astype(h.dtype)
    return loss, (d_h, d_table.astype(table.dtype), d_bias.astype(bias.dtype))


def _loss_backward(first, block, gradients, g):
    del first, block
    return (*(d * g.astype(d.dtype) for d in gradients), None, None)


def _log_prob_plain(h, table, bias, target, first, block):
    return _log_prob_forward(h, table, bias, target, first, block)[0]


def _loss_plain(h, table, bias, target, weight, first, block):
    log_prob = _log_prob_plain(h, table, bias, target, first, block)
    return -jnp.where(weight > 0, weight * log_prob, 0.0).sum()


_log_prob = jax.custom_vjp(_log_prob_plain, nondiff_argnums=(4, 5))
_log_prob.defvjp(_log_prob_forward, _log_prob_backward)
_loss = jax.custom_vjp(_loss_plain, nondiff_argnums=(5, 6))
_loss.defvjp(_loss_forward, _loss_backward)
