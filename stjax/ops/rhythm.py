"""A user's own past as seen from each event: how much has happened lately, and at which hours.

Sums over the past fade by half every `half_life` seconds. They are carried as they stand just after an event,

    s_l = 2^(-gap_l / half_life) s_(l-1) + x_l,

which `recurrence.linear_recurrence` computes for a whole sequence.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stjax.ops import time as ops

NEVER = 2**31 - 1  # seconds: larger than any gap


def smallest_gap(gap: jax.Array) -> jax.Array:
    """The smallest gap above 0 up to and with each position, NEVER where there is none: (B, L) int32."""
    return jax.lax.cummin(jnp.where(gap > 0, gap, NEVER), axis=1)


def window_counts(time: jax.Array, windows: tuple[int, ...], at_most: int) -> jax.Array:
    """How many of the `at_most` events before each lie less than so many seconds back: (B, L) -> (B, L, W).

    int32. One comparison for every lag, with memory linear in L: on CPU four times as fast as a binary search
    in each row, which would need a gather.
    """
    length = time.shape[1]
    position = jnp.arange(length)
    padded = jnp.pad(time, ((0, 0), (at_most, 0)))

    def body(i: jax.Array, counts: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        gap = ops.elapsed(time, jax.lax.dynamic_slice_in_dim(padded, i, length, axis=1))
        gap = jnp.where(position >= at_most - i, gap, NEVER)
        return tuple(n + (gap < w).astype(jnp.int32) for n, w in zip(counts, windows, strict=True))

    start = (jnp.zeros(time.shape, jnp.int32),) * len(windows)
    return jnp.stack(jax.lax.fori_loop(0, at_most, body, start, unroll=min(8, at_most)), axis=-1)


def memory_counts(now: jax.Array, memory: jax.Array, real: jax.Array, windows: tuple[int, ...]) -> jax.Array:
    """How many remembered times lie less than so many seconds back: (B,), (B, M), (B, M) -> (B, W) int32."""
    gap = jnp.where(real, ops.elapsed(now[:, None], memory), NEVER)
    return (gap[..., None] < jnp.asarray(windows, jnp.int32)).sum(axis=1, dtype=jnp.int32)


def fade(gap: jax.Array, half_lives: tuple[int, ...]) -> jax.Array:
    """2^(-gap / half_life): (...) int32 seconds -> (..., K) float32."""
    return jnp.exp2(-gap.astype(jnp.float32)[..., None] / jnp.asarray(half_lives, jnp.float32))


def waves(local: jax.Array, day_harmonics: int, week_harmonics: int) -> jax.Array:
    """1, then cosines, then sines of the harmonics of day and week: (...) -> (..., 1 + 2K)."""
    day = ops.fourier(local, ops.DAY, day_harmonics)
    week = ops.fourier(local, ops.WEEK, week_harmonics)
    one = jnp.ones((*local.shape, 1), jnp.float32)
    parts = [one, day[..., :day_harmonics], week[..., :week_harmonics]]
    return jnp.concatenate([*parts, day[..., day_harmonics:], week[..., week_harmonics:]], axis=-1)


def spectrum(past: jax.Array, now: jax.Array) -> jax.Array:
    """Power of a user's rhythm, and where in it a moment lies: (..., 1 + 2K) twice -> (..., 3K).

    With S_k / N the faded mean of e^(-i w_k local) over the past, the powers |S_k / N|^2 (1: always at the
    same phase, 0: at any), then the real and then the imaginary parts of (S_k / N) e^(i w_k local_now): they
    depend only on differences of time. past: a faded sum of `waves` as it stood just after the last event,
    so that N is at least 1; what it faded by since cancels. now: `waves` of the moment.
    """
    _, past_cos, past_sin = _split(past / jnp.maximum(past[..., :1], 1.0))
    _, cos, sin = _split(now)
    real = past_cos * cos + past_sin * sin
    imaginary = past_cos * sin - past_sin * cos
    return jnp.concatenate([past_cos**2 + past_sin**2, real, imaginary], axis=-1)


def _split(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    one, both = x[..., :1], x[..., 1:]
    k = both.shape[-1] // 2
    return one, both[..., :k], both[..., k:]
