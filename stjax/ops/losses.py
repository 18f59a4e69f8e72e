"""Losses over a catalogue from some of its items: sampled softmax, in-batch softmax, gBCE.

One set of negatives serves the whole batch: its logits are one product (N, D) x (D, S), in blocks of
positions, and no (N, V) array exists. Where a position's own target is among the negatives (an accidental
hit) it is left out for that position.

Shapes: `N` positions, `S` negatives. h: (N, D). table: (V, D). bias: (V,). target: (N,) ids. near: adds the
distance from each position to each item to the logits. Products are of h's dtype, all else is float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from stjax.ops import devices
from stjax.ops.near import Near
from stjax.ops.product import product
from stjax.ops.softmax import block_rows


def weighted_sum(loss: jax.Array, weight: jax.Array) -> jax.Array:
    """Sum of weight * loss over positions; those of weight 0 count nothing, were their loss infinite."""
    return jnp.where(weight > 0, weight * loss, 0.0).sum()


def sampled_log_prob(
    h: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    target: jax.Array,
    negatives: jax.Array,
    log_count: jax.Array,
    first: int = 0,
    near: Near | None = None,
) -> jax.Array:
    """Estimate of `catalogue_log_prob` from S drawn items, with gradients to h, table and bias: (N,) float32.

    log p = s_t - log(exp(s_t) + sum_{j drawn, j != t} exp(s_j - log count_j))

    negatives: (S,) ids. log_count: (S,), log of how often each is expected among them, S q(v) of S draws from
    q with replacement, the probability of inclusion of draws without; inf leaves an id out. A target below
    `first` gives -inf with zero gradient.
    The target is always present, so it alone has no correction: the sum then is an unbiased estimate of the
    softmax's normaliser, and value and gradient approach those of the full softmax as S grows; S = all other
    items with log_count 0 is the full softmax. Correcting the target as well would not approach it.
    Sources: Bengio & Senecal, IEEE TNN 2008 (importance sampling); Yi et al., RecSys 2019 (logQ); Khrylchenko
    et al., RecSys 2025 (the target is not a draw).
    """

    def log_prob(own: jax.Array, logits: jax.Array, hit: jax.Array) -> jax.Array:
        logits = jnp.where(hit, -jnp.inf, logits)
        top = jax.lax.stop_gradient(jnp.maximum(own, logits.max(axis=-1)))
        total = jnp.exp(own - top) + jnp.exp(logits - top[:, None]).sum(axis=-1)
        return own - top - jnp.log(total)

    correction = jax.lax.stop_gradient(log_count)
    log_p = _over_negatives(log_prob, h, table, bias, target, negatives, correction, near)
    return jnp.where(target >= first, log_p, -jnp.inf)


def in_batch_log_prob(
    h: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    target: jax.Array,
    weight: jax.Array,
    log_q: jax.Array | None = None,
    first: int = 0,
    near: Near | None = None,
) -> jax.Array:
    """log softmax of each target among the targets of all positions of weight above 0: (N,) float32.

    log_q: (V,), log of how frequent each item is among targets: then an estimate of the full softmax, as
    `sampled_log_prob` is, and rarely met items count as often as they should. None takes the frequencies of
    the batch itself, which makes it the softmax over the batch's distinct items, each counted once.
    A target below `first` is no negative, and gives -inf with zero gradient.
    Source: Yi et al., RecSys 2019.
    """
    counted = (weight > 0) & (target >= first)
    if log_q is None:
        counts = jnp.zeros(table.shape[0]).at[target].add(counted.astype(jnp.float32))
        log_count = jnp.log(counts[target])
    else:
        others = jnp.maximum(counted.sum() - 1, 1).astype(jnp.float32)
        log_count = log_q[target] + jnp.log(others)
    log_count = jnp.where(counted, log_count, jnp.inf)
    return sampled_log_prob(h, table, bias, target, target, log_count, first, near)


def gbce_loss(
    h: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    target: jax.Array,
    negatives: jax.Array,
    calibration: float,
    first: int = 0,
    near: Near | None = None,
    times: float = 1.0,
) -> jax.Array:
    """Generalised binary cross-entropy of the target against S uniformly drawn items: (N,) float32.

    loss = -(beta log sigmoid(s_t) + sum_{j drawn, j != t} log(1 - sigmoid(s_j))) / (S + 1)
    beta = alpha (t (1 - 1 / alpha) + 1 / alpha) = 1 - t (1 - alpha), alpha = S / (number of candidates)

    calibration: t. 0 is SASRec's binary cross-entropy (Kang & McAuley, ICDM 2018), which learns too high
    probabilities from few negatives; 1 learns probabilities that fit. negatives: (S,) ids. times: how often
    each of them counts; all candidates with times = S / (number of candidates) give the expected loss of S
    draws. A target below `first` gives inf with zero gradient.
    Source: Petrov & Macdonald, RecSys 2023. There each position has negatives of its own, drawn without its
    target, hence alpha = S / (candidates - 1); here they are shared, drawn from all, and the target masked.
    """
    count = times * negatives.shape[0]
    beta = 1.0 - calibration * (1.0 - count / (table.shape[0] - first))

    def loss(own: jax.Array, logits: jax.Array, hit: jax.Array) -> jax.Array:
        others = jnp.where(hit, 0.0, jax.nn.softplus(logits)).sum(axis=-1)
        return (beta * jax.nn.softplus(-own) + times * others) / (count + 1.0)

    no_correction = jnp.zeros(negatives.shape, jnp.float32)
    losses = _over_negatives(loss, h, table, bias, target, negatives, no_correction, near)
    return jnp.where(target >= first, losses, jnp.inf)


def _over_negatives(
    f: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    h: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    target: jax.Array,
    negatives: jax.Array,
    correction: jax.Array,
    near: Near | None,
) -> jax.Array:
    """f(logits of the targets (N,), corrected logits of the negatives (N, S), hits (N, S)), by blocks."""
    size = negatives.shape[0]
    targets, rows = _looked_up(table, target, negatives)
    own = product("nd,nd->n", h, targets) + bias[target]
    if near is not None:
        own += near.logits_at(target)
    offset = bias[negatives] - correction
    sampled = None if near is None else near.of_items(negatives)

    def block(args: Any) -> jax.Array:
        h, own, target, near_rows = args
        logits = product("nd,sd->ns", h, rows) + offset
        if sampled is not None:
            logits += sampled.with_rows(near_rows).logits()
        return f(own, logits, negatives == target[:, None])

    near_rows = None if near is None else near.rows()
    return _by_blocks(block, (h, own, target, near_rows), block_rows(size))


def _looked_up(table: jax.Array, target: jax.Array, negatives: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows of both, (N, D) and (S, D), by one gather, so that its gradient is one pass over the table.

    Devices that share the positions look up those of their own and each a share of the negatives: ids in one
    line would be shared anew, each device passing some to the next. Rows of the negatives all then have.
    """
    n, size = target.shape[0], negatives.shape[0]
    count = devices.sharing() or 1
    count = 1 if n % count or size % count else count
    ids = jnp.concatenate([target.reshape(count, -1), negatives.reshape(count, -1)], axis=1)
    rows, each = table[ids], n // count
    return rows[:, :each].reshape(n, -1), devices.everywhere(rows[:, each:].reshape(size, -1))


def _by_blocks(f: Callable[[Any], jax.Array], args: Any, size: int) -> jax.Array:
    """f of (N, ...) arrays to (N,), so many rows at a time; computed again on the way back."""
    n = jax.tree.leaves(args)[0].shape[0]
    if n <= size:
        return f(args)

    def cut(x: jax.Array) -> jax.Array:  # every n-th row, as in `softmax`
        x = jnp.pad(x, [(0, -n % size)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(size, -1, *x.shape[1:]).swapaxes(0, 1)

    return jax.lax.map(jax.checkpoint(f), jax.tree.map(cut, args)).T.reshape(-1)[:n]
