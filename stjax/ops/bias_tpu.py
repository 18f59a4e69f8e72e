"""`stjax.ops.bias.logit_bias` for one tile inside a TPU kernel, and its gradient to the parameters.

A kernel reads the parameters as two arrays, made by `Terms.pack` in plain JAX: what that does (softplus,
layout) is differentiated there, and the kernel gives gradients to the two arrays only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from stjax.ops import geo, time
from stjax.ops.bias import Parameters
from stjax.ops.moments import Moments

TIME, POINT, KNOWN, VALID, ROWS = 0, (1, 2, 3), 4, 5, 8  # rows of what `pack_moments` gives


def pack_moments(events: Moments) -> jax.Array:
    """Moments (B, L) as one array, int32 (B, ROWS, L); floats as their bits."""
    valid = events.valid.astype(jnp.int32)
    zeros = jnp.zeros_like(valid)
    when = zeros if events.time is None else events.time
    point, known = (jnp.zeros((3, *valid.shape)), zeros) if events.place is None else events.place
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(point), jnp.int32)
    return jnp.stack([when, *bits, known.astype(jnp.int32), valid, zeros, zeros], axis=1)


@dataclass(frozen=True)
class Terms:
    """The terms of a bias. lag: whether there is one. gap, distance: numbers of buckets, 0 for none, that of
    unknown places included. gap_law, distance_law: whether there are power laws."""

    lag: bool
    gap: int
    distance: int
    gap_law: bool
    distance_law: bool

    @classmethod
    def of(cls, params: Parameters, events: Moments) -> Terms:
        """Those that `logit_bias` would add."""

        def buckets(name: str, reads: Any) -> int:
            return params[name].shape[1] if name in params and reads is not None else 0

        return cls(
            lag="lag" in params,
            gap=buckets("gap", events.time),
            distance=buckets("distance", events.place),
            gap_law="gap_weight" in params and events.time is not None,
            distance_law="distance_weight" in params and events.place is not None,
        )

    @property
    def columns(self) -> dict[str, int]:
        """Where each term begins among the scalars of a head, and `end`."""
        sizes = {"gap": self.gap, "distance": self.distance}
        sizes |= {"gap_law": 2 * self.gap_law, "distance_law": 3 * self.distance_law}
        starts, total = {}, 0
        for name, size in sizes.items():
            starts[name], total = total, total + size
        return starts | {"end": max(total, 1)}

    def pack(self, params: Parameters, heads: int, block: int, reach: int) -> tuple[jax.Array, jax.Array]:
        """Scalars (H, C) and lags (H, reach + 2, 1, block), entry (s, t) that of the lag s * block - t.

        reach: how many blocks before its own a query reads.
        """
        parts = [params[name] for name in ("gap", "distance") if getattr(self, name)]
        single = []
        if self.gap_law:
            single += [jax.nn.softplus(params["gap_weight"]), jnp.exp(params["log_tau"])]
        if self.distance_law:
            single += [jax.nn.softplus(params["distance_weight"]), jnp.exp(params["log_km"])]
            single.append(params["unknown"])
        parts += [x[:, None] for x in single]
        scalars = jnp.concatenate(parts, axis=1) if parts else jnp.zeros((heads, 1))
        if not self.lag:
            return scalars, jnp.zeros((heads, 1, 1, block))
        size = (reach + 2) * block
        table = params["lag"][:, : size - (block - 1)]
        table = jnp.pad(table, ((0, 0), (block - 1, size - (block - 1) - table.shape[1])))
        return scalars, table.reshape(heads, reach + 2, 1, block)[..., ::-1]


@dataclass(frozen=True)
class Tile:
    """The bias of a block of queries against the block of keys `apart` blocks before, in head `head`.

    scalars, lags: references to the arrays of `Terms.pack`, lags of this head only. here, there: moments of
    the queries and keys, int32 (ROWS, block).
    """

    terms: Terms
    scalars: Any
    lags: Any
    head: jax.Array
    apart: jax.Array
    here: jax.Array
    there: jax.Array

    @property
    def block(self) -> int:
        return self.here.shape[1]

    def mask(self, window: int) -> jax.Array:
        """(q, k) bool: keys that are valid and within the window."""
        a, b = (jax.lax.broadcasted_iota(jnp.int32, (self.block, self.block), n) for n in (0, 1))
        lag = self.apart * self.block + a - b
        return (lag >= 0) & (lag < window) & (self.there[VALID : VALID + 1] > 0)

    def gaps(self) -> tuple[Any, Any]:
        """Seconds and kilometres (q, k), as `stjax.ops.moments.pair_gaps`."""
        terms, columns, rows = self.terms, self.here.T, self.there
        seconds = km = None
        if terms.gap or terms.gap_law:
            seconds = time.elapsed(columns[:, TIME : TIME + 1], rows[TIME : TIME + 1])
        if terms.distance or terms.distance_law:
            square = jnp.zeros((self.block, self.block), jnp.float32)
            for n in POINT:
                square += (_float(columns[:, n : n + 1]) - _float(rows[n : n + 1])) ** 2
            both = (columns[:, KNOWN : KNOWN + 1] > 0) & (rows[KNOWN : KNOWN + 1] > 0)
            km = jnp.where(both, geo.EARTH_RADIUS_KM * jnp.sqrt(square), -1.0)
        return seconds, km

    def buckets(self, seconds: Any, km: Any) -> list[tuple[int, int, jax.Array]]:
        """(first column, number, bucket of each pair) of the terms that have buckets."""
        terms, columns, found = self.terms, self.terms.columns, []
        if terms.gap:
            found.append((columns["gap"], terms.gap, time.log_bucket(seconds, terms.gap)))
        if terms.distance:
            unknown = terms.distance - 1
            bucket = jnp.where(km < 0, unknown, geo.distance_bucket(km, unknown))
            found.append((columns["distance"], terms.distance, bucket))
        return found

    def law(self, name: str, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Weight and scale of a power law, and log(1 + x / scale)."""
        first = self.terms.columns[name]
        weight, scale = self.scalars[self.head, first], self.scalars[self.head, first + 1]
        return weight, scale, jnp.log1p(x / scale)

    def logits(self, mask: jax.Array) -> jax.Array:
        """The bias, (q, k) float32; where the mask is False it may be anything finite."""
        block, columns = self.block, self.terms.columns
        seconds, km = self.gaps()
        total = jnp.zeros((block, block), jnp.float32)
        if self.terms.lag:
            line = jnp.concatenate([self.lags[self.apart], self.lags[self.apart + 1]], axis=1)
            line = jnp.broadcast_to(line, (block, 2 * block))
            total += pltpu.roll(line, 0, 1, stride=1, stride_axis=0)[:, :block]
        for first, number, bucket in self.buckets(seconds, km):

            def add(c: Any, total: jax.Array, first: int = first, bucket: jax.Array = bucket) -> jax.Array:
                return total + jnp.where(bucket == c, self.scalars[self.head, first + c], 0.0)

            total = _over_buckets(add, bucket, number, mask, total)
        if self.terms.gap_law:
            weight, _, log = self.law("gap_law", seconds.astype(jnp.float32))
            total -= weight * log
        if self.terms.distance_law:
            weight, _, log = self.law("distance_law", jnp.maximum(km, 0.0))
            unknown = self.scalars[self.head, columns["distance_law"] + 2]
            total += jnp.where(km < 0, unknown, -weight * log)
        return total

    def add_gradient(self, ds: jax.Array, mask: jax.Array, d_scalars: Any, d_lags: Any) -> None:
        """Add the gradients from ds (q, k) to references as (C, 1, block), to be summed over the last axis,
        and as `lags`. ds is 0 where the mask is False."""
        block, columns = self.block, self.terms.columns
        seconds, km = self.gaps()

        def put(column: Any, x: jax.Array) -> None:
            d_scalars[column] += x.sum(axis=0, keepdims=True)

        if self.terms.lag:
            # The transpose of what `logits` does: row a steps back by a, and all rows are added.
            wide = jnp.concatenate([ds, jnp.zeros_like(ds)], axis=1)
            line = _step_back(wide).sum(axis=0, keepdims=True)
            d_lags[self.apart] += line[:, :block]
            d_lags[self.apart + 1] += line[:, block:]
        for first, number, bucket in self.buckets(seconds, km):

            def add(c: Any, none: Any, first: int = first, bucket: jax.Array = bucket) -> Any:
                put(first + c, jnp.where(bucket == c, ds, 0.0))
                return none

            _over_buckets(add, bucket, number, mask, jnp.int32(0))
        if self.terms.gap_law:
            self._law_gradient("gap_law", seconds.astype(jnp.float32), ds, put)
        if self.terms.distance_law:
            self._law_gradient("distance_law", jnp.maximum(km, 0.0), jnp.where(km < 0, 0.0, ds), put)
            put(columns["distance_law"] + 2, jnp.where(km < 0, ds, 0.0))

    def _law_gradient(self, name: str, x: jax.Array, ds: jax.Array, put: Callable[..., None]) -> None:
        first = self.terms.columns[name]
        weight, scale, log = self.law(name, x)
        put(first, -ds * log)
        put(first + 1, ds * (weight * x / (scale * (scale + x))))


def _float(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _over_buckets(f: Callable[..., Any], bucket: jax.Array, number: int, mask: jax.Array, start: Any) -> Any:
    """f(c, carry) for the buckets from the least to the largest that the tile has, often a few of all."""
    as_float = bucket.astype(jnp.float32)  # the extremes of integers are not reduced on TPUs
    least = jnp.where(mask, as_float, number - 1.0).min().astype(jnp.int32)
    largest = jnp.where(mask, as_float, 0.0).max().astype(jnp.int32)
    return jax.lax.fori_loop(least, largest + 1, f, start)


def _step_back(x: jax.Array) -> jax.Array:
    """Row a rolled to the left by a; the roll that TPUs have goes to the right, so it is done bit by bit."""
    rows, width = x.shape
    row = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
    bit = 1
    while bit < rows:
        x = jnp.where((row & bit) > 0, pltpu.roll(x, width - bit, 1), x)
        bit *= 2
    return x
