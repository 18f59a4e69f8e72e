"""When the next event will come: a density over the gap, for requests whose time is not known."""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from stjax.nn.checks import check_counts
from stjax.nn.layers import Dense, LayerNorm
from stjax.nn.past import Past
from stjax.nn.precision import compute
from stjax.nn.time import TimeEmbed
from stjax.ops import losses
from stjax.ops import time as ops

MINUTES = tuple(60 * m for m in (0, 1, 5, 15, 30))
HOURS = tuple(ops.HOUR * h for h in (*range(1, 25), 30, 36, 42, 48))
DAYS = tuple(ops.DAY * d for d in range(3, 8))


class NextTime(nn.Module):
    """p(gap to the next event | interest, time of the last event), as a histogram.

    A model that has it is trained with the time of each next event read, and learns that time beside the
    item. Where a request's time is not known, its answer is the expectation over the gaps,

        p(v | past) = sum_k p(gap in bin k | past) p(v | past, last time + middle of bin k)

    so the times of the log teach what comes at which hour even to a model that is never told the hour.

    edges: seconds at which bins begin, ascending from 0; the last has no end, its middle is its edge. They
      are hours apart up to a day, since the hour of the day is what an answer depends on most.
    hidden: width. weight: of its loss, the mean negative log-likelihood of the bins, beside the item's.
    ValueError for edges that are not ascending whole seconds from 0.
    """

    edges: tuple[int, ...] = MINUTES + HOURS + DAYS
    hidden: int = 64
    weight: float = 1.0

    def setup(self) -> None:
        check_counts(self, "hidden")
        if len(self.edges) < 2 or self.edges[0] != 0 or any(a >= b for a, b in pairwise(self.edges)):
            raise ValueError(f"edges={self.edges} must be at least two whole seconds, ascending from 0")
        self.calendar = TimeEmbed(self.hidden)
        self.up = Dense(self.hidden)
        self.norm = LayerNorm()
        self.bins = Dense(len(self.edges), float32="result")

    @property
    def gaps(self) -> np.ndarray:
        """The middle of each bin, int32 seconds (K,)."""
        edges = np.asarray(self.edges)
        return np.append((edges[:-1] + edges[1:]) // 2, edges[-1]).astype(np.int32)

    def __call__(self, h: jax.Array, last: Past) -> jax.Array:
        """Log-probabilities of the bins: h (..., D) and the last events (...) to (..., K)."""
        x = self.calendar.embed(last.time, last.utc_offset, last.time, jnp.zeros_like(last.valid))
        x = nn.gelu(self.up(jnp.concatenate([self.norm(h), compute(x)], axis=-1)))
        return jax.nn.log_softmax(self.bins(x))

    def loss(self, h: jax.Array, last: Past, time: jax.Array, weight: jax.Array) -> jax.Array:
        """Sum over positions of weight * -log p(bin of time - last.time); h (B, L, D), the others (B, L)."""
        gap = ops.elapsed(time, last.time)
        which = jnp.searchsorted(jnp.asarray(self.edges), gap, side="right") - 1
        log_p = jnp.take_along_axis(self(h, last), jnp.maximum(which, 0)[..., None], axis=-1)[..., 0]
        return losses.weighted_sum(-log_p, weight)
