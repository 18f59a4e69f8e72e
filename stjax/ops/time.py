"""Time: calendar, phases and gaps, taken in integers before anything becomes a float.

Times are int32 seconds since an epoch that is a Monday 00:00; `local` is time + utc_offset. A float32 holds
2^31 only to 128 s, so absolute times are never cast: remainders and differences are. `epoch` is where time 0
lies, in Unix seconds, a Python int: whatever depends on it is worked out while tracing, without overflow.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

MINUTE = 60
HOUR = 3_600
DAY = 86_400
WEEK = 604_800
YEAR = 31_556_952  # the mean year of the Gregorian calendar

_MARCH_2000 = 11_017  # days from 1 January 1970 to 1 March 2000, where a cycle of 400 years begins
_NEW_YEAR_2000 = 946_684_800  # Unix seconds


class Date(NamedTuple):
    """A day of the Gregorian calendar, int32: month and day count from 1, day_of_year is 1..366."""

    year: jax.Array
    month: jax.Array
    day: jax.Array
    day_of_year: jax.Array


def minute_of_day(local: jax.Array) -> jax.Array:
    """Local minute 0..1439, int32, by floor (also before the epoch)."""
    return jnp.remainder(local, DAY) // MINUTE


def hour_of_day(local: jax.Array) -> jax.Array:
    """Local hour 0..23, int32, by floor (also before the epoch)."""
    return jnp.remainder(local, DAY) // HOUR


def day_of_week(local: jax.Array) -> jax.Array:
    """Local day 0 (Monday) .. 6 (Sunday), int32."""
    return jnp.remainder(local, WEEK) // DAY


def is_weekend(local: jax.Array) -> jax.Array:
    """True on a local Saturday or Sunday."""
    return day_of_week(local) >= 5


def date(local: jax.Array, epoch: int) -> Date:
    """The local date, by integer arithmetic.

    Years are taken from March on, so that the leap day is the last day of its year and of each longer
    cycle: 4 years, a century (the last day of its last 4 years missing), 4 centuries.
    """
    day = jnp.floor_divide(local, DAY) + (epoch // DAY - _MARCH_2000)
    cycle, day = jnp.floor_divide(day, 146_097), jnp.remainder(day, 146_097)
    century = jnp.minimum(day // 36_524, 3)
    day = day - century * 36_524
    leap_cycle = day // 1_461
    day = day - leap_cycle * 1_461
    year = jnp.minimum(day // 365, 3)
    day = day - year * 365
    leap = (year == 0) & ((leap_cycle > 0) | (century == 0))  # of the year in which this March lies
    month = (5 * day + 2) // 153  # 0 is March: from there on 153 days every 5 months
    new_year = day >= 306
    return Date(
        year=2_000 + 400 * cycle + 100 * century + 4 * leap_cycle + year + new_year.astype(jnp.int32),
        month=jnp.where(new_year, month - 9, month + 3),
        day=day - (153 * month + 2) // 5 + 1,
        day_of_year=jnp.where(new_year, day - 305, day + 60 + leap.astype(jnp.int32)),
    )


def phase(local: jax.Array, period: int, offset: int = 0) -> jax.Array:
    """Angle in [0, 2 pi), float32, of the time within a period in seconds; offset: seconds added to it."""
    second = jnp.remainder(local, period)
    if offset := offset % period:
        second = jnp.remainder(second + offset, period)
    return second.astype(jnp.float32) * (2 * jnp.pi / period)


def fourier(local: jax.Array, period: int, harmonics: int, offset: int = 0) -> jax.Array:
    """Cosines, then sines, of the phase and its harmonics: (...) -> (..., 2 * harmonics)."""
    order = jnp.arange(1, harmonics + 1, dtype=jnp.float32)
    angle = phase(local, period, offset)[..., None] * order
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def fourier_year(local: jax.Array, epoch: int, harmonics: int) -> jax.Array:
    """As `fourier`, of the mean year, from 1 January 2000: within a day of the calendar's year."""
    return fourier(local, YEAR, harmonics, epoch - _NEW_YEAR_2000)


@jax.custom_jvp
def cycles(local: jax.Array, frequency: jax.Array) -> jax.Array:
    """Cycles passed since the epoch, less whole ones: (...), (K,) -> (..., K), float32, for learned periods.

    frequency: cycles a day. A float32 of frequency * time would be off by 1/8 cycle after 10^6 of them, so
    whole days are multiplied in integers: the fraction of the frequency in units of 2^-31 cycles, an
    int32 product that wraps after two cycles, which is no error. Off by less than 6e-6 + 2e-7 |frequency|
    cycles anywhere in int32 time. The derivative is that of frequency * time.
    """
    fraction = jnp.round((frequency - jnp.trunc(frequency)) * 2.0**31).astype(jnp.int32)
    days = jnp.floor_divide(local, DAY)[..., None] * fraction
    within = jnp.remainder(local, DAY).astype(jnp.float32)[..., None] / DAY
    return days.astype(jnp.float32) * 2.0**-31 + within * frequency


@cycles.defjvp
def _cycles_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    local, frequency = primals
    days = jnp.floor_divide(local, DAY).astype(jnp.float32)
    days = days + jnp.remainder(local, DAY).astype(jnp.float32) / DAY
    return cycles(local, frequency), days[..., None] * tangents[1]


def elapsed(later: jax.Array, earlier: jax.Array) -> jax.Array:
    """Seconds from earlier to later, int32: 0 where the order is reversed, 2^31 - 1 where they are more."""
    seconds = later - earlier
    return jnp.where(later > earlier, jnp.where(seconds < 0, 2**31 - 1, seconds), 0)


def log_gap(seconds: jax.Array) -> jax.Array:
    """log(1 + gap / minute) / 10, float32: about 0..1.5 from a second to sixty years."""
    return jnp.log1p(seconds.astype(jnp.float32) / 60.0) / 10.0


def log_bucket(seconds: jax.Array, buckets: int) -> jax.Array:
    """Bucket floor(log2(1 + gap)) of a gap in seconds, int32 in [0, buckets - 1]; exact, by leading zeros."""
    bits = 32 - jax.lax.clz(seconds.astype(jnp.int32) + 1)
    return jnp.clip(bits - 1, 0, buckets - 1)


def scaled_gap(seconds: jax.Array, smallest: jax.Array, clip: int) -> jax.Array:
    """How many times the smallest interval a gap is, int32 in [0, clip] (TiSASRec, Li et al., WSDM 2020)."""
    return jnp.minimum(seconds // jnp.maximum(smallest, 1), clip)
