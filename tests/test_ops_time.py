"""Time against Python's datetime, and what must not change it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import jax.numpy as jnp
import numpy as np
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
    assert int(ops.hour_of_day(local)) == when.hour
    assert int(ops.day_of_week(local)) == when.weekday()
    assert bool(ops.is_weekend(local)) == (when.weekday() >= 5)


@given(seconds, st.sampled_from([ops.DAY, ops.WEEK]))
def test_fourier_is_exact_wherever_in_time(t: int, period: int) -> None:
    """A float32 of the absolute time would be off by up to 128 s; the integer remainder is not."""
    angle = 2 * np.pi * (t % period) / period * np.arange(1, 4)
    expected = np.concatenate([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(ops.fourier(jnp.int32(t), period, 3), expected, atol=5e-6)


def test_whole_weeks_change_no_calendar_feature() -> None:
    t = jnp.asarray(np.random.default_rng(0).integers(-(10**8), 10**8, 101), jnp.int32)
    later = t + 13 * ops.WEEK
    for feature in (ops.hour_of_day, ops.day_of_week, lambda x: ops.fourier(x, ops.WEEK, 2)):
        np.testing.assert_array_equal(feature(t), feature(later))


@given(st.integers(0, 2**31 - 2))
def test_log_bucket_is_the_exact_power_of_two(gap: int) -> None:
    assert int(ops.log_bucket(jnp.int32(gap), 40)) == (gap + 1).bit_length() - 1
    assert int(ops.log_bucket(jnp.int32(gap), 7)) == min((gap + 1).bit_length() - 1, 6)


def test_elapsed_is_never_negative() -> None:
    later, earlier = jnp.asarray([5, 9, 9], jnp.int32), jnp.asarray([7, 9, 2], jnp.int32)
    np.testing.assert_array_equal(ops.elapsed(later, earlier), [0, 0, 7])


def test_log_gap_grows_from_zero() -> None:
    gaps = jnp.asarray([0, 1, 60, 3_600, 86_400, 2**31 - 1], jnp.int32)
    y = np.asarray(ops.log_gap(gaps))
    np.testing.assert_allclose(y, np.log1p(np.asarray(gaps, np.float64) / 60) / 10, rtol=1e-6)
    assert y[0] == 0 and (np.diff(y) > 0).all() and y[-1] < 2
