"""A pointer into the user's own past: which of the places, songs or goods of before comes again now.

A pointer network (Vinyals et al., NeurIPS 2015) over past events, mixed with the catalogue softmax by a
gate as in CopyNet (Gu et al., ACL 2016) and RepeatNet (Ren et al., AAAI 2019). The logit of a past event is
content (request times key) plus pairwise features of request and event in time, space and order, with
weights that depend on the request. The probability of an item is the mass of all its past events.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import FIRST, Catalogue
from stjax.nn.past import Moment, Past
from stjax.ops import attention, geo
from stjax.ops import time as ops

DECAYS = (6 * ops.HOUR, 2 * ops.DAY, 2 * ops.WEEK, 8 * ops.WEEK)  # seconds
NEAR_KM = (0.3, 3.0)
DAY_HARMONICS = 4
WEEK_HARMONICS = 3


class Pointer(nn.Module):
    """Where in the past the answer stands, and the gate between pointing there and the catalogue.

    features: width of queries and keys. window: how many of the last events may be pointed at.
    kind: the categorical item field that says what kind of place or thing it is, compared between request
      and past event; data without such a field do without.
    """

    features: int = 64
    window: int = 256
    kind: str | None = "category"

    def setup(self) -> None:
        self.query = nn.Dense(self.features)
        self.key = nn.Dense(self.features)
        small = nn.initializers.normal(0.01)
        self.pair_weights = nn.Dense(PAIR_FEATURES, kernel_init=small)
        self.wave_weights = nn.Dense(2 * (DAY_HARMONICS + WEEK_HARMONICS), kernel_init=small)
        self.gate = nn.Dense(1)

    def keys(self, before: jax.Array, x: jax.Array) -> jax.Array:
        """Keys of events from the interest just before them and the fused event: (..., D), (..., D')."""
        return self.key(jnp.concatenate([before, x], axis=-1))

    def __call__(
        self, u: jax.Array, now: Moment, past: Past, catalogue: Catalogue
    ) -> tuple[jax.Array, jax.Array]:
        """Log-probabilities of the past events (B, Q, M), and the logit of the gate (B, Q).

        u: (B, Q, D) requests. Where an event may not be pointed at (not yet read, out of the window, an item
        that is no candidate) the log-probability is `attention.NEVER`; with no such event the gate is shut.
        """
        lag = now.position[:, :, None] - jnp.arange(past.item.shape[1])
        mask = (lag >= 0) & (lag < self.window) & (past.valid & (past.item >= FIRST))[:, None, :]
        queries = jnp.concatenate(
            [self.query(u) * self.features**-0.5, self._weighted_waves(u, now)], axis=-1
        )
        logits = jnp.einsum("bqd,bmd->bqm", queries, jnp.concatenate([past.key, _past_waves(past)], -1))
        pairs = jax.lax.stop_gradient(_pair_features(now, past, lag, catalogue, self.kind))
        logits += jnp.einsum("bqf,bqfm->bqm", self.pair_weights(u), pairs)
        gate = jnp.where(mask.any(axis=-1), self.gate(u)[..., 0], -30.0)
        return attention.masked_log_softmax(logits, mask), gate

    def _weighted_waves(self, u: jax.Array, now: Moment) -> jax.Array:
        """Fourier features of now, one weight for the cosine and sine of a harmonic: (B, Q, 2 * K)."""
        waves = _waves(now.time + now.utc_offset)
        at, before = jnp.split(self.wave_weights(u), 2, axis=-1)
        return jnp.concatenate([_expand(at) * waves, _expand(before) * waves], axis=-1)


def _waves(local: jax.Array) -> jax.Array:
    day = ops.fourier(local, ops.DAY, DAY_HARMONICS)
    return jnp.concatenate([day, ops.fourier(local, ops.WEEK, WEEK_HARMONICS)], axis=-1)


def _expand(weights: jax.Array) -> jax.Array:
    day, week = weights[..., :DAY_HARMONICS], weights[..., DAY_HARMONICS:]
    return jnp.concatenate([day, day, week, week], axis=-1)


def _past_waves(past: Past) -> jax.Array:
    """Fourier features of each past event, and of the event before it: cos(a - b) is their product."""
    before = past.shift(1)
    waves = jnp.where(before.valid[..., None], _waves(before.time + before.utc_offset), 0.0)
    return jnp.concatenate([_waves(past.time + past.utc_offset), waves], axis=-1)


PAIR_FEATURES = 5 + len(DECAYS) + 2 * len(NEAR_KM) + 5


def _pair_features(
    now: Moment, past: Past, lag: jax.Array, catalogue: Catalogue, kind: str | None
) -> jax.Array:
    """What request and past event have in common, in time, space and order: (B, Q, F, M)."""
    before, earlier = past.shift(1), past.shift(2)

    def pair(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        return a[:, :, None], b[:, None]

    gap = ops.elapsed(*pair(now.time, past.time))
    seconds = gap.astype(jnp.float32)
    here, there = pair(now.place, past.place)
    km, near = _closeness(here, there)
    _, near_before = _closeness(here, before.place[:, None])
    weekend, weekend_then = pair(
        ops.is_weekend(now.time + now.utc_offset), ops.is_weekend(past.time + past.utc_offset)
    )
    item, item_then = pair(now.item, past.item)
    # Two items that are both unseen need not be one item.
    same_before = (item == before.item[:, None]) & (item >= FIRST) & before.valid[:, None]
    same_earlier = (now.item_before[:, :, None] == earlier.item[:, None]) & earlier.valid[:, None]
    rows = [
        ops.log_gap(gap),
        *(jnp.exp(seconds * (-1.0 / tau)) for tau in DECAYS),
        jnp.log1p(jnp.maximum(lag, 0).astype(jnp.float32)) * 0.3,
        weekend == weekend_then,
        jnp.log1p(km),
        *near,
        *near_before,
        item == item_then,
        same_before,
        same_before & same_earlier,
    ]
    if kind is None or kind not in catalogue.items.categorical:
        same_kind = same_kind_before = jnp.zeros_like(same_before)
    else:
        kinds = catalogue.items.categorical[kind]
        known = kinds[item] >= FIRST
        same_kind = known & (kinds[item] == kinds[item_then])
        same_kind_before = known & (kinds[item] == kinds[before.item][:, None]) & before.valid[:, None]
    rows += [same_kind, same_kind_before, 1.0 / (1.0 + jnp.maximum(lag, 0).astype(jnp.float32))]
    rows = [jnp.broadcast_to(row.astype(jnp.float32), lag.shape) for row in rows]
    return jnp.stack(rows, axis=2)


def _closeness(here: jax.Array, there: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    """Kilometres between places (0 where unknown), and exp(-km / s) for each near scale (0 likewise)."""
    both = geo.known(here) & geo.known(there)
    km = jnp.where(both, geo.chord_km(geo.fill(here), geo.fill(there)), 0.0)
    return km, [jnp.where(both, jnp.exp(km * (-1.0 / s)), 0.0) for s in NEAR_KM]
