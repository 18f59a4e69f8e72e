"""Time against Python's datetime, and what must not change it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stjax.ops import time as ops
from tests.strict import strict

pytestmark = strict
MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
seconds = st.integers(-(2**31) + ops.WEEK, 2**31 - 1 - ops.WEEK)


@given(seconds)
def test_calendar_is_that_of_datetime(t: int) -> None:
    when = MONDAY + timedelta(seconds=t)
    local = jnp.int32(t)
    assert int(ops.minute_of_day(local)) == when.hour * 60 + when.minute
    assert int(ops.hour_of_day(local)) == when.hour
    assert int(ops.day_of_week(local)) == when.weekday()
    assert bool(ops.is_weekend(local)) == (when.weekday() >= 5)


@pytest.mark.parametrize(
    ("start", "years"),
    [
        (datetime(1970, 1, 5), {1904, 2000, 2036}),
        (datetime(1830, 5, 3), {1764, 1800, 1896}),
        (datetime(1950, 1, 2), {1882, 1900, 2000, 2016}),
        (datetime(2097, 12, 30), {2032, 2100, 2164}),
    ],
)
def test_dates_are_those_of_datetime_for_136_years(start: datetime, years: set[int]) -> None:
    """Every day that int32 seconds reach from an epoch: with leap years, and without in 1800, 1900, 2100."""
    start = start.replace(tzinfo=UTC)
    assert start.weekday() == 0
    epoch = int(start.timestamp())
    days = np.arange(-24_855, 24_855)
    rng = np.random.default_rng(0)
    local = days * ops.DAY + rng.choice([0, 1, 43_210, ops.DAY - 1], days.shape)
    date = jax.jit(ops.date, static_argnums=1)(jnp.asarray(local, jnp.int32), epoch)
    when = [start + timedelta(days=int(day)) for day in days]
    assert years <= {day.year for day in when}
    np.testing.assert_array_equal(date.year, [d.year for d in when])
    np.testing.assert_array_equal(date.month, [d.month for d in when])
    np.testing.assert_array_equal(date.day, [d.day for d in when])
    np.testing.assert_array_equal(date.day_of_year, [d.timetuple().tm_yday for d in when])
    assert all(x.dtype == jnp.int32 for x in date)


@given(seconds, st.integers(-3_000, 8_000))
def test_fourier_of_the_year_is_exact_wherever_in_time(t: int, week: int) -> None:
    epoch = 345_600 + week * ops.WEEK
    since = t + epoch - int(datetime(2000, 1, 1, tzinfo=UTC).timestamp())
    angle = 2 * np.pi * (since % 31_556_952) / 31_556_952 * np.arange(1, 4)
    expected = np.concatenate([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(ops.fourier_year(jnp.int32(t), epoch, 3), expected, atol=5e-6)


def test_the_phase_of_the_year_keeps_to_the_calendar() -> None:
    """Each midsummer noon for sixty years is within a day and a half of the same phase."""
    epoch = int(MONDAY.timestamp())
    noons = [datetime(y, 6, 21, 12, tzinfo=UTC) for y in range(1971, 2031)]
    local = jnp.asarray([int(noon.timestamp()) - epoch for noon in noons], jnp.int32)
    cos, sin = np.asarray(ops.fourier_year(local, epoch, 1)).T
    expected = 2 * np.pi * 172 / 365.2425
    off = np.angle(np.exp(1j * (np.arctan2(sin, cos) - expected)))
    assert np.abs(off).max() < 2 * np.pi * 1.5 / 365.2425


FREQUENCIES = np.asarray([0.0, 1.0, -1.0, 1 / 7, -0.3, 1 / 365.2425, 1.93, 23.77, 47.999, -96.3, 1e-6], "f4")
ALL_TIME = np.random.default_rng(0).integers(-(2**31) + ops.WEEK, 2**31 - ops.WEEK, 4_001)


def test_cycles_of_learned_frequencies_are_exact_over_decades() -> None:
    """Against float64, at the float32 frequency: 6e-6 + 2e-7 |frequency| cycles, 68 years either way."""
    got = np.asarray(ops.cycles(jnp.asarray(ALL_TIME, jnp.int32), jnp.asarray(FREQUENCIES)), np.float64)
    exact = ALL_TIME[:, None] / ops.DAY * FREQUENCIES.astype(np.float64)
    off = np.abs((got - exact + 0.5) % 1 - 0.5)
    assert (off <= 6e-6 + 2e-7 * np.abs(FREQUENCIES)).all(), off.max(axis=0)
    naive = (ALL_TIME[:, None].astype("f4") / np.float32(ops.DAY) * FREQUENCIES).astype(np.float64)
    assert (np.abs((naive - exact + 0.5) % 1 - 0.5).max(axis=0) > 6e-5)[
        [3, 4, 6, 7, 8, 9]
    ].all()  # so the test can fail


def test_cycles_have_the_derivative_of_frequency_times_time() -> None:
    local, frequency = jnp.asarray(ALL_TIME[:7], jnp.int32), jnp.asarray(FREQUENCIES)
    weight = np.random.default_rng(1).normal(size=(7, len(FREQUENCIES)))

    def loss(frequency: jax.Array) -> jax.Array:
        return (ops.cycles(local, frequency) * jnp.asarray(weight, jnp.float32)).sum()

    expected = (weight * (ALL_TIME[:7, None] / ops.DAY)).sum(axis=0)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(frequency), expected, rtol=1e-5, atol=0.1)


@given(seconds, st.sampled_from([ops.DAY, ops.WEEK]))
def test_fourier_is_exact_wherever_in_time(t: int, period: int) -> None:
    """A float32 of the absolute time would be off by up to 128 s; the integer remainder is not."""
    angle = 2 * np.pi * (t % period) / period * np.arange(1, 4)
    expected = np.concatenate([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(ops.fourier(jnp.int32(t), period, 3), expected, atol=5e-6)


def test_whole_weeks_change_no_calendar_feature() -> None:
    t = jnp.asarray(np.random.default_rng(0).integers(-(10**8), 10**8, 101), jnp.int32)
    later = t + 13 * ops.WEEK
    waves = partial(ops.fourier, period=ops.WEEK, harmonics=2)
    for feature in (ops.minute_of_day, ops.hour_of_day, ops.day_of_week, ops.is_weekend, waves):
        np.testing.assert_array_equal(feature(t), feature(later))


@given(st.integers(0, 2**31 - 2))
def test_log_bucket_is_the_exact_power_of_two(gap: int) -> None:
    assert int(ops.log_bucket(jnp.int32(gap), 40)) == (gap + 1).bit_length() - 1
    assert int(ops.log_bucket(jnp.int32(gap), 7)) == min((gap + 1).bit_length() - 1, 6)


def test_elapsed_is_never_negative_and_never_wraps() -> None:
    top = 2**31 - 1
    pairs = [
        (5, 7, 0),
        (9, 9, 0),
        (9, 2, 7),
        (top, 0, top),
        (top, -1, top),
        (top, -top - 1, top),
        (-top, 9, 0),
    ]
    later, earlier, expected = jnp.asarray(pairs, jnp.int32).T
    gap = ops.elapsed(later, earlier)
    np.testing.assert_array_equal(gap, expected)
    assert ops.log_bucket(gap, 26)[-2] == 25


def test_log_gap_grows_from_zero() -> None:
    gaps = jnp.asarray([0, 1, 60, 3_600, 86_400, 2**31 - 1], jnp.int32)
    y = np.asarray(ops.log_gap(gaps))
    np.testing.assert_allclose(y, np.log1p(np.asarray(gaps, np.float64) / 60) / 10, rtol=1e-6)
    assert y[0] == 0 and (np.diff(y) > 0).all() and y[-1] < 2


def test_scaled_gap_counts_whole_intervals() -> None:
    gap = jnp.asarray([0, 59, 60, 61, 179, 180, 10**9, 5], jnp.int32)
    smallest = jnp.asarray([60] * 7 + [0], jnp.int32)
    np.testing.assert_array_equal(ops.scaled_gap(gap, smallest, 100), [0, 0, 1, 1, 2, 3, 100, 5])
