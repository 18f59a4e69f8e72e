"""Distance as part of a score: a spline of log distance from a request to every item of the catalogue.

logit(n, v) = sum_k w_nk * phi_k(distance(here_n, there_v)), where phi_0 says that the item's place is unknown
and phi_k = max(log distance - log knot_k, 0): continuous, piecewise linear in log distance, so that a request
may like near items by a power law (one slope) or by an exponential (growing slopes). The catalogue softmax
adds it block by block; no (N, V) array exists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops import geo

LEAST_KM = 0.02  # nearer is as near: about what a recorded coordinate means


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Near:
    """Weights (N, K + 1) of requests, their places and those of the items in space, (N, 3) and (V, 3) km.

    known: bool (V,), which items have a place. knots: K kilometres, static. Only the weights get gradients.
    """

    weights: Any
    here: Any
    there: Any
    known: Any
    knots: tuple[float, ...] = field(metadata={"static": True})

    @classmethod
    def of(cls, weights: jax.Array, here: jax.Array, there: jax.Array, knots: tuple[float, ...]) -> Near:
        """From places in degrees, (N, 2) and (V, 2). Where `here` is unknown distance counts nothing."""
        weights = jnp.where(geo.known(here)[:, None], weights, jnp.zeros_like(weights))
        return cls(weights, _space(here), _space(there), geo.known(there), knots)

    def rows(self) -> tuple[jax.Array, jax.Array]:
        """What belongs to the requests: to be cut into blocks."""
        return self.weights, self.here

    def with_rows(self, rows: tuple[jax.Array, jax.Array]) -> Near:
        """The same items for other requests."""
        return Near(*rows, self.there, self.known, self.knots)

    def of_items(self, ids: jax.Array) -> Near:
        """The same requests for some of the items, (S,)."""
        return Near(self.weights, self.here, self.there[ids], self.known[ids], self.knots)

    def logits(self) -> jax.Array:
        """(N, V) float32."""
        return _weighted(self.weights[:, None, :], self._features())

    def logits_at(self, ids: jax.Array) -> jax.Array:
        """Each request's logit of one item of its own, ids (N,): (N,) float32."""
        phi = _spline(self.here - self.there[ids], self.known[ids], self.knots)
        return _weighted(self.weights, phi)

    def weights_gradient(self, d_logits: jax.Array) -> jax.Array:
        """From the gradient of the logits (N, V) to that of the weights (N, K + 1)."""
        return jnp.stack([(d_logits * phi).sum(axis=1) for phi in self._features()], axis=-1)

    def no_gradient(self, weights: jax.Array) -> Near:
        """A cotangent: zero but for the weights."""
        zeros = jnp.zeros_like(self.here), jnp.zeros_like(self.there)
        return Near(weights, *zeros, np.zeros(self.known.shape, jax.dtypes.float0), self.knots)

    def _features(self) -> list[jax.Array]:
        difference = self.here[:, None, :] - self.there[None, :, :]
        known = jnp.broadcast_to(self.known, difference.shape[:-1])
        return _spline(difference, known, self.knots)


def rows_of(near: Near | None) -> tuple[jax.Array, jax.Array] | None:
    """`Near.rows`, where there is one."""
    return None if near is None else near.rows()


def for_rows(near: Near | None, rows: tuple[jax.Array, jax.Array] | None) -> Near | None:
    """`Near.with_rows`, where there is one."""
    return None if near is None or rows is None else near.with_rows(rows)


def _weighted(weights: jax.Array, features: list[jax.Array]) -> jax.Array:
    """Sum of each feature times its weight, the last axis of `weights`, without an array of all of them."""
    total = weights[..., 0] * features[0]
    for k, feature in enumerate(features[1:], start=1):
        total += weights[..., k] * feature
    return total


def _spline(difference: jax.Array, known: jax.Array, knots: tuple[float, ...]) -> list[jax.Array]:
    squared = sum((difference[..., i] ** 2 for i in range(3)), start=jnp.float32(LEAST_KM**2))
    x = jnp.where(known, 0.5 * jnp.log(squared), -jnp.inf)
    return [(~known).astype(x.dtype), *(jnp.maximum(x - math.log(knot), 0.0) for knot in knots)]


def _space(place: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(geo.unit_vector(geo.fill(place)) * geo.EARTH_RADIUS_KM)
