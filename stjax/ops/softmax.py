"""Softmax over a whole catalogue, in blocks of positions, so that no (positions, V) array ever exists."""

from __future__ import annotations

import jax
import jax.numpy as jnp

BLOCK_ENTRIES = 1 << 20  # logits alive at a time: 4 MiB of float32, about a core's share of cache


def catalogue_log_prob(
    h: jax.Array, table: jax.Array, bias: jax.Array, target: jax.Array, first: int = 0
) -> jax.Array:
    """log softmax(h table^T + bias)[target] for each position, gradients to h, table and bias.

    h: (N, D). table: (V, D). bias: (V,). target: (N,) int ids. first: ids below it are no candidates
    (padding and unseen); a target below it gives -inf with zero gradient. Returns (N,) float32.
    The backward pass computes the logits again, block by block: memory O(block x V), time 4/3 of the plain
    formula's.
    """
    block = max(1, min(h.shape[0], BLOCK_ENTRIES // table.shape[0]))
    return _log_prob(h, table, bias, target, first, block)


def _plain(h, table, bias, target, first, block):
    return _forward(h, table, bias, target, first, block)[0]


_log_prob = jax.custom_vjp(_plain, nondiff_argnums=(4, 5))


def _logits(h: jax.Array, table: jax.Array, bias: jax.Array, first: int) -> jax.Array:
    logits = jnp.einsum("nd,vd->nv", h, table, preferred_element_type=jnp.float32) + bias
    return jnp.where(jnp.arange(table.shape[0]) < first, -jnp.inf, logits) if first else logits


def _blocks(x: jax.Array, block: int) -> jax.Array:
    """(N, ...) -> (ceil(N / block), block, ...), filled up with zeros."""
    fill = -x.shape[0] % block
    x = jnp.pad(x, [(0, fill)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(-1, block, *x.shape[1:])


def _forward(h, table, bias, target, first, block):
    def body(args: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        h, target = args
        logits = _logits(h, table, bias, first)
        lse = jax.nn.logsumexp(logits, axis=-1)
        return jnp.take_along_axis(logits, target[:, None], axis=-1)[:, 0] - lse, lse

    log_prob, lse = jax.lax.map(body, (_blocks(h, block), _blocks(target, block)))
    n = h.shape[0]
    return log_prob.reshape(-1)[:n], (h, table, bias, target, lse.reshape(-1)[:n])


def _backward(first, block, saved, g):
    h, table, bias, target, lse = saved
    g = jnp.where(target >= first, g, 0.0)

    def body(carry, args):
        d_table, d_bias = carry
        h, target, lse, g = args
        p = jnp.exp(_logits(h, table, bias, first) - lse[:, None])
        hit = jnp.arange(table.shape[0]) == target[:, None]
        d_logits = (g[:, None] * (hit.astype(p.dtype) - p)).astype(h.dtype)
        d_table += jnp.einsum("nv,nd->vd", d_logits, h, preferred_element_type=jnp.float32)
        d_bias += d_logits.sum(axis=0, dtype=jnp.float32)
        return (d_table, d_bias), jnp.einsum("nv,vd->nd", d_logits, table)

    start = (jnp.zeros(table.shape, jnp.float32), jnp.zeros(bias.shape, jnp.float32))
    stacked = tuple(_blocks(x, block) for x in (h, target, lse, g))
    (d_table, d_bias), d_h = jax.lax.scan(body, start, stacked)
    d_h = d_h.reshape(-1, h.shape[1])[: h.shape[0]].astype(h.dtype)
    return d_h, d_table.astype(table.dtype), d_bias.astype(bias.dtype), None


_log_prob.defvjp(_forward, _backward)
