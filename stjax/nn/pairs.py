"""What a request and each past event have in common, in time, space and order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from stjax.events import FIRST, Catalogue
from stjax.nn.past import Moment, Past
from stjax.ops import excitation, geo, sequence
from stjax.ops import time as ops

DAY_HARMONICS = 4
WEEK_HARMONICS = 3
ORDER = (  # the features of order, which there always are; the first of all
    "log_ago",
    "inverse_ago",
    "latest",
    "same_item",
    "same_item_before",
    "same_two_before",
    "same_kind",
    "same_kind_before",
)
WAVES = 2 * (DAY_HARMONICS + WEEK_HARMONICS)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Steps:
    """Past events (B, M), each with the two before it. waves: (B, M, 2 * WAVES), see `waves`.

    again: int32 (B, M), the position of the next event with the same item, M or more where there is none.
    """

    event: Past
    before: Past
    earlier: Past
    waves: Any
    again: Any

    @classmethod
    def of(cls, past: Past) -> Steps:
        """The steps of a whole past."""
        before, earlier = past.shift(1), past.shift(2)
        previous = jnp.where(before.valid[..., None], waves(before.time + before.utc_offset), 0.0)
        own = waves(past.time + past.utc_offset)
        again = sequence.next_same(jnp.where(past.valid, past.item, -1))  # padding repeats nothing
        return cls(past, before, earlier, jnp.concatenate([own, previous], axis=-1), again)


def waves(local: jax.Array) -> jax.Array:
    """Fourier features of day and week, (..., WAVES); the product of those of a and b is cos(a - b)."""
    day = ops.fourier(local, ops.DAY, DAY_HARMONICS)
    return jnp.concatenate([day, ops.fourier(local, ops.WEEK, WEEK_HARMONICS)], axis=-1)


def weighted_waves(weights: jax.Array, local: jax.Array) -> jax.Array:
    """Fourier features of now, times one weight for cosine and sine of each harmonic, for an event's own time
    and for that of the event before it: (..., WAVES) weights -> (..., 2 * WAVES)."""
    now = waves(local)

    def both(weights: jax.Array) -> jax.Array:
        day, week = weights[..., :DAY_HARMONICS], weights[..., DAY_HARMONICS:]
        return jnp.concatenate([day, day, week, week], axis=-1) * now

    return jnp.concatenate([both(w) for w in jnp.split(weights, 2, axis=-1)], axis=-1)


@dataclass(frozen=True)
class Pairs:
    """Which pairwise features there are; the fields are those of `Pointer`."""

    kind: str | None
    decays: tuple[int, ...]
    near_km: tuple[float, ...]
    time: bool
    space: bool
    window: int

    @property
    def count(self) -> int:
        """Number of features F."""
        visits = 1 + self.time * len(self.decays)
        return (
            len(ORDER)
            + visits
            + self.time * (2 + len(self.decays))
            + self.space * (1 + 2 * len(self.near_km))
        )

    def features(
        self, now: Moment, steps: Steps, lag: jax.Array, catalogue: Catalogue, consecutive: bool = False
    ) -> jax.Array:
        """Of the moments (B, Q) and the past events (B, M): (B, Q, F, M) float32, without gradients.

        lag: (B, Q, M), how many events ago. consecutive: the moments are those of the last Q events.
        """
        rows = self._order(now, steps, lag, catalogue)
        rows += self._visits(now, steps, lag, consecutive)
        rows += self._time(now, steps.event) if self.time else []
        rows += self._space(now, steps) if self.space else []
        rows = [jnp.broadcast_to(row.astype(jnp.float32), lag.shape) for row in rows]
        return jax.lax.stop_gradient(jnp.stack(rows, axis=2))

    def _order(self, now: Moment, steps: Steps, lag: jax.Array, catalogue: Catalogue) -> list[jax.Array]:
        """How long ago in events; whether it is the last of its item; whether item, the one or two before it,
        and their kinds are the same.

        An item's probability is the mass of all its events, which is its frequency; weight on the last one
        lets a request ask for the item itself, however often it came.
        """
        before, earlier = steps.before, steps.earlier
        item, item_then = _pair(now.item, steps.event.item)
        # Two items that are both unseen need not be one item.
        same_before = (item == before.item[:, None]) & (item >= FIRST) & before.valid[:, None]
        item_before = now.item_before[:, :, None]
        same_earlier = (item_before == earlier.item[:, None]) & (item_before >= FIRST)
        same_earlier &= earlier.valid[:, None]
        if self.kind is None or self.kind not in catalogue.items.categorical:
            same_kind = same_kind_before = jnp.zeros_like(same_before)
        else:
            kinds = catalogue.items.categorical[self.kind]
            known = kinds[item] >= FIRST
            same_kind = known & (kinds[item] == kinds[item_then])
            same_kind_before = known & (kinds[item] == kinds[before.item][:, None]) & before.valid[:, None]
        ago = jnp.maximum(lag, 0).astype(jnp.float32)
        latest = steps.again[:, None, :] > now.position[:, :, None]
        named = {
            "log_ago": jnp.log1p(ago) * 0.3,
            "inverse_ago": 1.0 / (1.0 + ago),
            "latest": latest,
            "same_item": item == item_then,
            "same_item_before": same_before,
            "same_two_before": same_before & same_earlier,
            "same_kind": same_kind,
            "same_kind_before": same_kind_before,
        }
        return [named[name] for name in ORDER]

    def _visits(self, now: Moment, steps: Steps, lag: jax.Array, consecutive: bool) -> list[jax.Array]:
        """How often and how lately the item was there, at this event and at any other that is read.

        All events of an item have it, so that a request can do without a place it has just come from however
        often it was there before.
        """
        past, taus = steps.event, self.decays if self.time else ()
        ids = jnp.where(past.valid & (past.item >= FIRST), past.item, -1)
        if consecutive:
            sums = excitation.consecutive_sums(ids, past.time, now.time, self.window, taus)
        else:
            sums = excitation.sums(ids, past.time, now.time, (lag >= 0) & (lag < self.window), taus)
        return list(jnp.moveaxis(jnp.log1p(sums), 1, 0))

    def _time(self, now: Moment, past: Past) -> list[jax.Array]:
        gap = ops.elapsed(*_pair(now.time, past.time))
        seconds = gap.astype(jnp.float32)
        weekend, weekend_then = _pair(
            ops.is_weekend(now.time + now.utc_offset), ops.is_weekend(past.time + past.utc_offset)
        )
        decays = [jnp.exp(seconds * (-1.0 / tau)) for tau in self.decays]
        return [ops.log_gap(gap), weekend == weekend_then, *decays]

    def _space(self, now: Moment, steps: Steps) -> list[jax.Array]:
        here, there = _pair(now.place, steps.event.place)
        km, near = _closeness(here, there, self.near_km)
        _, near_before = _closeness(here, steps.before.place[:, None], self.near_km)
        return [jnp.log1p(km), *near, *near_before]


def _pair(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    return a[:, :, None], b[:, None]


def _closeness(
    here: jax.Array, there: jax.Array, scales: tuple[float, ...]
) -> tuple[jax.Array, list[jax.Array]]:
    """Kilometres between places (0 where unknown), and exp(-km / s) for each scale (0 likewise)."""
    both = geo.known(here) & geo.known(there)
    km = jnp.where(both, geo.chord_km(geo.fill(here), geo.fill(there)), 0.0)
    return km, [jnp.where(both, jnp.exp(km * (-1.0 / s)), 0.0) for s in scales]
