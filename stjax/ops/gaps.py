"""How long after and how far from the event before each event is."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from stjax.ops import geo, time

BLUR_KM = 0.05  # what a recorded coordinate means: nearer is as near


class Gap(NamedTuple):
    """From the event before to this one, of any leading shape.

    seconds: int32, 0 where there is no event before. exists: bool, there is one. km: float32, 0 where
    unknown. known: bool, both events have a place.
    """

    seconds: jax.Array
    exists: jax.Array
    km: jax.Array
    known: jax.Array


def between(
    time_before: jax.Array, place_before: jax.Array, exists: jax.Array, now: jax.Array, here: jax.Array
) -> Gap:
    """The gap: times (...) int32, places (..., 2) degrees, NaN where unknown."""
    known = exists & geo.known(place_before) & geo.known(here)
    km = geo.distance_km(geo.fill(place_before), geo.fill(here))
    seconds = jnp.where(exists, time.elapsed(now, time_before), 0)
    return Gap(seconds, exists, jnp.where(known, km, 0.0), known)


def time_features(gap: Gap) -> jax.Array:
    """The log gap, about 0..1.5, and whether there is none: (...) -> (..., 2)."""
    return _with_flag(time.log_gap(gap.seconds), gap.exists)


def distance_features(gap: Gap) -> jax.Array:
    """The log distance, 0..2.6, and whether it is unknown: (...) -> (..., 2)."""
    return _with_flag(0.2 * jnp.log1p(gap.km / BLUR_KM), gap.known)


def _with_flag(x: jax.Array, known: jax.Array) -> jax.Array:
    return jnp.stack([jnp.where(known, x, 0.0), (~known).astype(x.dtype)], axis=-1)
