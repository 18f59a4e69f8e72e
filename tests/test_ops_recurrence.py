"""Recurrences against plain loops, and their gradients against those of other forms."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops import gaps, recurrence
from tests.strict import strict

pytestmark = strict
B, L, D = 3, 11, 5


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


VALID = np.random.default_rng(9).random((B, L)) < 0.7
WRITE = sigmoid(normal(B, L, D, seed=8))


def loop_gru(x: np.ndarray, h: np.ndarray, w: np.ndarray, b: np.ndarray, write: np.ndarray) -> np.ndarray:
    outputs = np.zeros((B, L, D))
    for i in range(B):
        state = h[i].astype(np.float64)
        for t in range(L):
            if VALID[i, t]:
                r = sigmoid(x[i, t, :D] + state @ w[:, :D])
                z = sigmoid(x[i, t, D : 2 * D] + state @ w[:, D : 2 * D])
                n = np.tanh(x[i, t, 2 * D :] + r * (state @ w[:, 2 * D :] + b))
                share = write[i, t] * (1 - z)
                state = (1 - share) * state + share * n
            outputs[i, t] = state
    return outputs


def loop_lstm(x: np.ndarray, h: np.ndarray, c: np.ndarray, w: np.ndarray, write: np.ndarray) -> np.ndarray:
    outputs = np.zeros((B, L, D))
    for i in range(B):
        state, cell = h[i].astype(np.float64), c[i].astype(np.float64)
        for t in range(L):
            if VALID[i, t]:
                pre = x[i, t] + state @ w
                keep, out = sigmoid(pre[D : 2 * D]), sigmoid(pre[2 * D : 3 * D])
                cell = keep * cell + write[i, t] * sigmoid(pre[:D]) * np.tanh(pre[3 * D :])
                state = out * np.tanh(cell)
            outputs[i, t] = state
    return outputs


@pytest.mark.parametrize("gated", [False, True])
def test_gru_is_the_plain_loop_and_holds_on_padding(gated: bool) -> None:
    x, h, w, b = normal(B, L, 3 * D), normal(B, D, seed=1), normal(D, 3 * D, seed=2), normal(D, seed=3)
    write = WRITE if gated else np.ones_like(WRITE)
    expected = loop_gru(x, h, w, b, write)
    last, outputs = jax.jit(recurrence.gru)(x, h, VALID, w, b, write if gated else None)
    np.testing.assert_allclose(outputs, expected, atol=2e-6)
    np.testing.assert_array_equal(last, outputs[:, -1])
    one, _ = jax.jit(recurrence.gru_step)(x[:, 0], h, VALID[:, 0], w, b, write[:, 0] if gated else None)
    np.testing.assert_allclose(one, expected[:, 0], atol=2e-6)


@pytest.mark.parametrize("gated", [False, True])
def test_lstm_is_the_plain_loop_and_holds_on_padding(gated: bool) -> None:
    x, h, c, w = normal(B, L, 4 * D), normal(B, D, seed=1), normal(B, D, seed=2), normal(D, 4 * D, seed=3)
    write = WRITE if gated else np.ones_like(WRITE)
    expected = loop_lstm(x, h, c, w, write)
    last, outputs = jax.jit(recurrence.lstm)(x, (h, c), VALID, w, write if gated else None)
    np.testing.assert_allclose(outputs, expected, atol=2e-6)
    np.testing.assert_array_equal(last[0], outputs[:, -1])
    step = jax.jit(recurrence.lstm_step)
    (one, _), y = step(x[:, 0], (h, c), VALID[:, 0], w, write[:, 0] if gated else None)
    np.testing.assert_allclose(one, expected[:, 0], atol=2e-6)
    np.testing.assert_array_equal(one, y)


def loop_linear(decay: np.ndarray, x: np.ndarray, start: np.ndarray) -> np.ndarray:
    h, outputs = start, []
    for t in range(x.shape[1]):
        h = decay[:, t] * h + x[:, t]
        outputs.append(h)
    return np.stack(outputs, axis=1)


def complex_normal(*shape: int, seed: int) -> np.ndarray:
    return (normal(*shape, seed=seed) + 1j * normal(*shape, seed=seed + 50)).astype(np.complex64)


def random_linear(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if kind == "complex":
        phase = np.exp(1j * normal(B, L, D, seed=1)).astype(np.complex64)
        return 0.9 * phase, complex_normal(B, L, D, seed=2), complex_normal(B, D, seed=3)
    decay = sigmoid(normal(B, L, 1 if kind == "broadcast" else D, seed=1))
    decay[:, 4] = 0.0  # all is forgotten
    return decay, normal(B, L, D, seed=2), normal(B, D, seed=3)


@pytest.mark.parametrize("associative", [False, True, None])
@pytest.mark.parametrize("kind", ["real", "broadcast", "complex"])
def test_linear_recurrence_and_its_gradient(kind: str, associative: bool | None) -> None:
    """d_x_l = g_l + a_(l+1) d_x_(l+1), d_a_l = d_x_l h_(l-1): the same recurrence, backwards."""
    decay, x, start = random_linear(kind)
    weight = complex_normal(B, L, D, seed=4) if kind == "complex" else normal(B, L, D, seed=4)

    @partial(jax.jit, static_argnums=3)
    def both(decay, x, start, associative):
        def loss(decay, x, start):
            h = recurrence.linear_recurrence(decay, x, start, associative)
            return jnp.sum(h * weight).real, h

        return jax.grad(loss, (0, 1, 2), has_aux=True)(decay, x, start)

    (d_decay, d_x, d_start), h = both(decay, x, start, associative)
    expected = loop_linear(decay, x, start)
    np.testing.assert_allclose(h, expected, atol=1e-5)
    full = np.broadcast_to(decay, x.shape)
    after = np.concatenate([full[:, 1:], np.zeros_like(full[:, :1])], axis=1)
    expected_x = loop_linear(after[:, ::-1], weight[:, ::-1], np.zeros_like(start))[:, ::-1]
    np.testing.assert_allclose(d_x, expected_x, atol=1e-5)
    before = np.concatenate([start[:, None], expected[:, :-1]], axis=1)
    expected_decay = expected_x * before
    if kind == "broadcast":
        expected_decay = expected_decay.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(d_decay, expected_decay, atol=2e-5)
    np.testing.assert_allclose(d_start, expected_x[:, 0] * full[:, 0], atol=1e-5)


def test_gap_between_events() -> None:
    nan = np.nan
    time = jnp.asarray([2**31 - 1, 100, 100, 100, 40], jnp.int32)
    before = jnp.asarray([0, 40, 100, 40, 100], jnp.int32)
    here = jnp.asarray([[0, 1], [0, 0], [nan, nan], [0, 1], [0, 0]], jnp.float32)
    there = jnp.asarray([[0, 0], [0, 0], [0, 0], [nan, 0], [0, 0]], jnp.float32)
    gap = gaps.between(before, there, jnp.asarray([True, True, True, False, True]), time, here)
    np.testing.assert_array_equal(gap.seconds, [2**31 - 1, 60, 0, 0, 0])
    np.testing.assert_array_equal(gap.known, [True, True, False, False, True])
    degree = np.pi / 180 * 6371.0088
    np.testing.assert_allclose(gap.km, [degree, 0, 0, 0, 0], rtol=1e-5)
    expected = [[np.log1p((2**31 - 1) / 60) / 10, 0], [np.log(2) / 10, 0], [0, 0], [0, 1], [0, 0]]
    np.testing.assert_allclose(gaps.time_features(gap), expected, rtol=1e-5)
    far = 0.2 * np.log1p(degree / gaps.BLUR_KM)
    np.testing.assert_allclose(
        gaps.distance_features(gap), [[far, 0], [0, 0], [0, 1], [0, 1], [0, 0]], rtol=1e-5
    )
