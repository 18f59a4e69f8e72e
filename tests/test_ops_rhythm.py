"""What a user's past says of time, against plain loops in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops import rhythm
from stjax.ops import time as ops
from tests.random_events import random_events
from tests.strict import strict

pytestmark = strict
B, L = 3, 29
WINDOWS = (1, ops.HOUR, ops.DAY, ops.WEEK, 30 * ops.DAY, 2**31 - 1)
TIME = np.asarray(random_events(B, L, seed=3, full=True).time)


def loop_counts(time: np.ndarray, windows: tuple[int, ...], at_most: int) -> np.ndarray:
    counts = np.zeros((*time.shape, len(windows)), int)
    for row, at in np.ndindex(time.shape):
        for m in range(max(0, at - at_most), at):
            counts[row, at] += [int(time[row, at]) - int(time[row, m]) < w for w in windows]
    return counts


@pytest.mark.parametrize("at_most", [1, 7, 2 * L])
def test_window_counts_are_those_of_a_loop(at_most: int) -> None:
    counts = jax.jit(rhythm.window_counts, static_argnums=(1, 2))(jnp.asarray(TIME), WINDOWS, at_most)
    expected = loop_counts(TIME, WINDOWS, at_most)
    np.testing.assert_array_equal(counts, expected)
    assert expected[..., 0].any() and expected.max() == min(at_most, L - 1)  # ties, and full windows


def test_window_counts_hold_at_the_edges_of_a_window_and_of_time() -> None:
    end = 2**31 - 1 - ops.WEEK
    time = jnp.asarray([[0, 10, 20, 30], [end - 30, end - 20, end - 10, end]], jnp.int32)
    counts = jax.jit(rhythm.window_counts, static_argnums=(1, 2))(time, (10, 11, 21), 3)
    np.testing.assert_array_equal(counts, [[[0, 0, 0], [0, 1, 1], [0, 1, 2], [0, 1, 2]]] * 2)


def test_memory_counts_ignore_what_is_not_real() -> None:
    memory = jnp.asarray([[0, 0, 95, 100], [1, 50, 95, 100]], jnp.int32)
    real = jnp.asarray([[False, False, True, True], [True, True, True, True]])
    counts = rhythm.memory_counts(jnp.asarray([100, 101], jnp.int32), memory, real, (1, 6, 7, 1_000))
    np.testing.assert_array_equal(counts, [[1, 2, 2, 2], [0, 1, 2, 4]])


def test_smallest_gap_reads_no_future_and_no_ties() -> None:
    gap = jnp.asarray([[0, 0, 9, 12, 0, 4, 30], [0, 3, 5, 2, 2, 1, 7]], jnp.int32)
    never = rhythm.NEVER
    expected = [[never, never, 9, 9, 9, 4, 4], [never, 3, 3, 2, 2, 1, 1]]
    np.testing.assert_array_equal(rhythm.smallest_gap(gap), expected)


def test_fading_halves_every_half_life() -> None:
    gap = jnp.asarray([0, ops.HOUR, 3 * ops.HOUR, 2**31 - 1], jnp.int32)
    faded = rhythm.fade(gap, (ops.HOUR, 6 * ops.HOUR))
    expected = 2.0 ** -(np.asarray(gap, np.float64)[:, None] / [ops.HOUR, 6 * ops.HOUR])
    np.testing.assert_allclose(faded, expected, rtol=1e-6, atol=1e-30)


def test_waves_are_a_constant_then_cosines_then_sines() -> None:
    waves = rhythm.waves(jnp.asarray(TIME), 2, 3)
    rate = 2 * np.pi / np.asarray([ops.DAY, ops.DAY / 2, ops.WEEK, ops.WEEK / 2, ops.WEEK / 3])
    angle = TIME[..., None] * rate
    expected = np.concatenate([np.ones((B, L, 1)), np.cos(angle), np.sin(angle)], axis=-1)
    np.testing.assert_allclose(waves, expected, atol=5e-6)
    assert rhythm.waves(jnp.asarray(TIME), 0, 0).shape == (B, L, 1)


def test_spectrum_is_that_of_complex_numbers() -> None:
    rng = np.random.default_rng(0)
    angle, now = rng.uniform(0, 7, (2, 13, 5)), rng.uniform(0, 7, (5,))
    weight = rng.uniform(0.1, 1, (13, 1))
    mean = (weight * np.exp(-1j * angle[0])).sum(0) / weight.sum()
    relative = mean * np.exp(1j * now)
    expected = np.concatenate([np.abs(mean) ** 2, relative.real, relative.imag])

    def stack(angle: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((*angle.shape[:-1], 1)), np.cos(angle), np.sin(angle)], axis=-1)

    scale = 1 / weight.sum() * 3  # a count of at least 1
    past = jnp.asarray((weight * stack(angle[0])).sum(0) * scale, jnp.float32)
    got = rhythm.spectrum(past, jnp.asarray(stack(now), jnp.float32))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_events_at_one_phase_have_full_power_and_those_all_over_have_none() -> None:
    for local, power in (([3, 3, 3, 3], 1.0), ([0, 6, 12, 18], 0.0)):
        past = rhythm.waves(jnp.asarray(local, jnp.int32) * ops.HOUR, 1, 0).sum(axis=0)
        now = rhythm.waves(jnp.int32(3 * ops.HOUR), 1, 0)
        got = rhythm.spectrum(past, now)
        np.testing.assert_allclose(got, [power, power, 0.0], atol=1e-6)
