"""Time: calendar, phases and gaps, taken in integers before anything becomes a float.

Times are int32 seconds since an epoch that is a Monday 00:00; `local` is time + utc_offset. A float32 holds
2^31 only to 128 s, so absolute times are never cast: remainders and differences are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

HOUR = 3_600
DAY = 86_400
WEEK = 604_800


def hour_of_day(local: jax.Array) -> jax.Array:
    """Local hour 0..23, int32, by floor (also before the epoch)."""
    return jnp.remainder(local, DAY) // HOUR


def day_of_week(local: jax.Array) -> jax.Array:
    """Local day 0 (Monday) .. 6 (Sunday), int32."""
    return jnp.remainder(local, WEEK) // DAY


def is_weekend(local: jax.Array) -> jax.Array:
    """True on a local Saturday or Sunday."""
    return day_of_week(local) >= 5


def phase(local: jax.Array, period: int) -> jax.Array:
    """Angle in [0, 2 pi), float32, of the time within a period in seconds."""
    return jnp.remainder(local, period).astype(jnp.float32) * (2 * jnp.pi / period)


def fourier(local: jax.Array, period: int, harmonics: int) -> jax.Array:
    """Cosines, then sines, of the phase and its harmonics: (...) -> (..., 2 * harmonics)."""
    order = jnp.arange(1, harmonics + 1, dtype=jnp.float32)
    angle = phase(local, period)[..., None] * order
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def elapsed(later: jax.Array, earlier: jax.Array) -> jax.Array:
    """Seconds from earlier to later, int32, 0 where the order is reversed."""
    return jnp.maximum(later - earlier, 0)


def log_gap(seconds: jax.Array) -> jax.Array:
    """log(1 + gap / minute) / 10, float32: about 0..1.5 from a second to sixty years."""
    return jnp.log1p(seconds.astype(jnp.float32) / 60.0) / 10.0


def log_bucket(seconds: jax.Array, buckets: int) -> jax.Array:
    """Bucket floor(log2(1 + gap)) of a gap in seconds, int32 in [0, buckets - 1]; exact, by leading zeros."""
    bits = 32 - jax.lax.clz(seconds.astype(jnp.int32) + 1)
    return jnp.clip(bits - 1, 0, buckets - 1)
