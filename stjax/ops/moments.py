"""When and where events were, as attention reads them, and what lies between two of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stjax.ops import geo
from stjax.ops import time as ops

# (parameters, lag, seconds, km) to logits that broadcast to (B, H, q, k). lag (q, k) int32 is
# lag[0, 0] + a - b, a NumPy array where it is static; or (B, q, k) int32, any lags of the parameters.
# seconds (B, q, k) int32 and km (B, q, k) float32 (negative where a place is unknown) are None where
# `Moments` lacks them. It is hashable and reads no arrays but its arguments.
Bias = Callable[[Any, Any, jax.Array | None, jax.Array | None], jax.Array]


class Moments(NamedTuple):
    """What attention reads of events: whether they are valid, and when and where they were.

    valid: (B, L) bool. time: (B, L) int32 seconds, or None. place: (3, B, L) float32 on the unit sphere and
    (B, L) bool, whether it is known; or None. Nothing here has a gradient.
    """

    valid: jax.Array
    time: jax.Array | None = None
    place: tuple[jax.Array, jax.Array] | None = None


def moments(valid: jax.Array, time: jax.Array | None = None, place: jax.Array | None = None) -> Moments:
    """The moments of events (B, L) whose places (B, L, 2) are degrees, NaN where unknown."""
    if place is None:
        return Moments(valid, time)
    point = jnp.moveaxis(geo.unit_vector(geo.fill(place)), -1, 0)
    return Moments(valid, time, (jax.lax.stop_gradient(point), geo.known(place)))


def pair_gaps(here: Moments, there: Moments) -> tuple[jax.Array | None, jax.Array | None]:
    """Seconds since and kilometres (along the chord) to each event there: (B, q, k) each, or None."""
    seconds = km = None
    if here.time is not None and there.time is not None:
        seconds = ops.elapsed(here.time[:, :, None], there.time[:, None, :])
    if here.place is not None and there.place is not None:
        (point, known), (point_then, known_then) = here.place, there.place
        square = sum((a[:, :, None] - b[:, None, :]) ** 2 for a, b in zip(point, point_then, strict=True))
        both = known[:, :, None] & known_then[:, None, :]
        km = jnp.where(both, geo.EARTH_RADIUS_KM * jnp.sqrt(square), -1.0)
    return seconds, km


def newest(
    here: Moments, there: Moments, lag: jax.Array, bias: Bias, params: Any
) -> tuple[jax.Array, jax.Array]:
    """Mask and bias with which an event (B, 1) reads a memory (B, W) that holds it; lag: (B, W)."""
    return there.valid[:, None, None, :], bias(params, lag[:, None], *pair_gaps(here, there))
