"""A pointer into the user's own past: which of the places, songs or goods of before comes again now.

A pointer network (Vinyals et al., NeurIPS 2015) over past events, mixed with the catalogue softmax by a
gate as in CopyNet (Gu et al., ACL 2016) and RepeatNet (Ren et al., AAAI 2019). The logit of a past event is
content (request times key) plus pairwise features of request and event in time, space and order, with
weights that depend on the request. The probability of an item is the mass of all its past events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import FIRST, Catalogue
from stjax.nn import pairs
from stjax.nn.checks import check_counts
from stjax.nn.layers import Dense
from stjax.nn.past import Moment, Past
from stjax.ops import attention
from stjax.ops import time as ops
from stjax.ops.product import product

BLOCK = 128  # moments whose pair features are alive at a time
UNROLL = 8  # so many blocks are unrolled, each over no more than its own past; more are a loop


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Asked:
    """What requests want of past events: (B, Q, D), of their times (B, Q, 2 WAVES) or None, weights of pair
    features (B, Q, F), gates (B, Q), and of their kinds (B, Q, C) or None."""

    query: Any
    waves: Any
    weights: Any
    gate: Any
    kinds: Any


class Pointer(nn.Module):
    """Where in the past the answer stands, and the gate between pointing there and the catalogue.

    features: width of queries and keys. window: how many of the last events may be pointed at.
    kind: the categorical item field that says what kind of place or thing it is, compared between request
      and past event; data without such a field do without.
    decays: seconds tau of the pair features exp(-gap / tau). near_km: kilometres s of exp(-distance / s).
    time, space: whether request and past event are compared in time and in space at all.
    ValueError for less than one feature, or a window of none.
    """

    features: int = 64
    window: int = 256
    kind: str | None = "category"
    decays: tuple[int, ...] = (6 * ops.HOUR, 2 * ops.DAY, 2 * ops.WEEK, 8 * ops.WEEK)
    near_km: tuple[float, ...] = (0.3, 3.0)
    time: bool = True
    space: bool = True

    def setup(self) -> None:
        check_counts(self, "features", "window")
        self.pairs = pairs.Pairs(self.kind, self.decays, self.near_km, self.time, self.space, self.window)
        self.query = Dense(self.features)
        self.key = Dense(self.features)
        small = nn.initializers.normal(0.01)
        self.pair_weights = Dense(self.pairs.count, kernel_init=small, float32="result")
        self.wave_weights = Dense(pairs.WAVES, kernel_init=small, float32="result") if self.time else None
        self.gate = Dense(1, float32="result")

    def keys(self, before: jax.Array, x: jax.Array) -> jax.Array:
        """Keys of events from the interest just before them and the fused event: (..., D), (..., D')."""
        return self.key(jnp.concatenate([before, x], axis=-1))

    def __call__(
        self, u: jax.Array, now: Moment, past: Past, catalogue: Catalogue, kinds: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Log-probabilities of the past events (B, Q, M), and the logit of the gate (B, Q).

        u: (B, Q, D) requests. kinds: (B, Q, C), what speaks for each kind now; it is added to the logits of
        the events of that kind. Where an event may not be pointed at (not yet read, out of the window, an
        item that is no candidate) the log-probability is `attention.NEVER`; with no such event the gate is
        shut.
        """
        index = jnp.arange(past.item.shape[1])
        return self._point(self._ask(u, now, kinds), now, pairs.Steps.of(past), index, catalogue)

    def log_prob(
        self,
        u: jax.Array,
        now: Moment,
        past: Past,
        target: jax.Array,
        catalogue: Catalogue,
        kinds: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Log-probability that the pointer gives to each position's target, and the gate: (B, L) each.

        Position l asks after event l, so that u, now, past and target are (B, L, ...). In blocks of
        positions: no (B, L, F, L) array exists, and beyond UNROLL blocks memory is linear in L.
        """
        asked, steps = self._ask(u, now, kinds), pairs.Steps.of(past)
        length = target.shape[1]

        def block(args: Any, steps: pairs.Steps, index: jax.Array) -> tuple[jax.Array, jax.Array]:
            asked, now, target = args
            log_past, gate = self._point(asked, now, steps, index, catalogue, consecutive=True)
            hit = steps.event.item[:, None, :] == target[:, :, None]
            return attention.masked_logsumexp(log_past, hit & (log_past > attention.NEVER)), gate

        everything = asked, now, target
        if length <= UNROLL * BLOCK:
            done = []
            for first in range(0, length, BLOCK):
                stop = min(first + BLOCK, length)
                start = max(0, first - self.window + 1)
                read = _cut(steps, start, stop)
                done.append(block(_cut(everything, first, stop), read, jnp.arange(start, stop)))
            copied, gate = (jnp.concatenate(parts, axis=1) for parts in zip(*done, strict=True))
            return copied, gate
        blocks = -(-length // BLOCK)
        everything = _pad(everything, 0, blocks * BLOCK - length)
        before = min(self.window - 1, blocks * BLOCK)
        steps = _pad(steps, before, blocks * BLOCK - length)

        @jax.checkpoint
        def body(first: jax.Array) -> tuple[jax.Array, jax.Array]:
            read = _slice(steps, first, before + BLOCK)
            index = first - before + jnp.arange(before + BLOCK)
            return block(_slice(everything, first, BLOCK), read, index)

        done = jax.lax.map(body, BLOCK * jnp.arange(blocks))
        copied, gate = (x.swapaxes(0, 1).reshape(x.shape[1], -1)[:, :length] for x in done)
        return copied, gate

    def _ask(self, u: jax.Array, now: Moment, kinds: jax.Array | None) -> Asked:
        waves = None
        if self.wave_weights is not None:
            waves = pairs.weighted_waves(self.wave_weights(u), now.time + now.utc_offset)
        query = self.query(u) * self.features**-0.5
        return Asked(query, waves, self.pair_weights(u), self.gate(u)[..., 0], kinds)

    def _point(
        self,
        asked: Asked,
        now: Moment,
        steps: pairs.Steps,
        index: jax.Array,
        catalogue: Catalogue,
        consecutive: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """As `__call__`; index: (M,), positions of the past events, below 0 where there is none."""
        past = steps.event
        lag = now.position[:, :, None] - index
        mask = (lag >= 0) & (lag < self.window) & (index >= 0)
        mask &= (past.valid & (past.item >= FIRST))[:, None, :]
        logits = _match(asked, past.key, steps.waves)
        pair = self.pairs.features(now, steps, lag, catalogue, consecutive)
        logits += jnp.einsum("bqf,bqfm->bqm", asked.weights, pair)
        if asked.kinds is not None and self.kind is not None:
            # A product with few ones: as a gather its gradient would scatter.
            kind = catalogue.items.categorical[self.kind][past.item]
            own = jax.nn.one_hot(jnp.where(kind >= FIRST, kind, -1), asked.kinds.shape[-1])
            logits += product("bqc,bmc->bqm", asked.kinds, own, asked.query.dtype)
        gate = jnp.where(mask.any(axis=-1), asked.gate, -30.0)
        return attention.masked_log_softmax(logits, mask), gate


def _match(asked: Asked, key: jax.Array, waves: jax.Array) -> jax.Array:
    """What content and times say: (B, Q, M). The times are float32 in any precision."""
    query, formula = asked.query, "bqd,bmd->bqm"
    if asked.waves is None:
        return product(formula, query, key)
    if query.dtype == asked.waves.dtype:  # one product
        query, key = jnp.concatenate([query, asked.waves], -1), jnp.concatenate([key, waves], -1)
        return product(formula, query, key)
    return product(formula, query, key) + product(formula, asked.waves, waves)


def _cut(tree: Any, first: int, stop: int) -> Any:
    return jax.tree.map(lambda x: x[:, first:stop], tree)


def _slice(tree: Any, first: jax.Array, size: int) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, size, axis=1), tree)


def _pad(tree: Any, before: int, after: int) -> Any:
    return jax.tree.map(lambda x: jnp.pad(x, [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2)), tree)
