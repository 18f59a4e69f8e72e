"""Shifts, memories and recurrences against plain loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from stjax.ops import recurrence, sequence
from tests.strict import strict

pytestmark = strict


def test_shift() -> None:
    x = jnp.arange(2 * 5 * 3).reshape(2, 5, 3)
    y = np.asarray(sequence.shift(x, fill=-1, by=2))
    assert (y[:, :2] == -1).all()
    np.testing.assert_array_equal(y[:, 2:], x[:, :3])
    assert (np.asarray(sequence.shift(x, fill=-1, by=7)) == -1).all()


def test_push_keeps_the_last_ones_in_order() -> None:
    memory = jnp.zeros((2, 3), jnp.int32)
    for i in range(1, 6):
        memory = sequence.push(memory, jnp.full(2, i, jnp.int32), jnp.asarray([True, i % 2 == 1]))
    np.testing.assert_array_equal(memory, [[3, 4, 5], [1, 3, 5]])


def test_last_is_the_last_valid_one() -> None:
    x = jnp.arange(3 * 4 * 2).reshape(3, 4, 2)
    valid = jnp.arange(4) < jnp.asarray([[1], [4], [2]])
    np.testing.assert_array_equal(sequence.last(x, valid), x[jnp.arange(3), jnp.asarray([0, 3, 1])])


def test_shuffled_keeps_every_entry_and_leaves_padding_at_the_end() -> None:
    valid = jnp.arange(13) < jnp.asarray([[13], [5], [0]])
    entries = jnp.arange(3 * 13 * 2).reshape(3, 13, 2)
    orders = [sequence.shuffled(jax.random.key(k), valid) for k in range(60)]
    for order in orders[:3]:
        for row in range(3):
            assert sorted(order[row].tolist()) == list(range(13))
            assert np.asarray(valid)[row, order[row]].tolist() == valid[row].tolist()
        taken = sequence.take(entries, order)
        np.testing.assert_array_equal(taken[1], entries[1, order[1]])
    # Each of the five is first about as often as the others.
    first = np.bincount([int(order[1, 0]) for order in orders], minlength=13)
    assert (first[:5] >= 3).all() and not first[5:].any()


def test_next_same_is_where_an_id_comes_again() -> None:
    ids = np.random.default_rng(0).integers(-1, 4, (3, 13))
    expected = [
        [next((m for m in range(at + 1, 13) if row[m] == row[at]), 13) for at in range(13)] for row in ids
    ]
    np.testing.assert_array_equal(sequence.next_same(jnp.asarray(ids)), expected)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_gru_is_the_plain_loop_and_holds_on_padding() -> None:
    rng = np.random.default_rng(2)
    b, length, d = 3, 7, 5
    x = rng.normal(size=(b, length, 3 * d)).astype(np.float32)
    w = rng.normal(size=(d, 3 * d)).astype(np.float32)
    c = rng.normal(size=d).astype(np.float32)
    h = rng.normal(size=(b, d)).astype(np.float32)
    valid = rng.random((b, length)) < 0.7
    last, outputs = recurrence.gru(x, h, valid, w, c)
    for i in range(b):
        state = h[i].astype(np.float64)
        for t in range(length):
            if valid[i, t]:
                u = state @ w
                r = sigmoid(x[i, t, :d] + u[:d])
                z = sigmoid(x[i, t, d : 2 * d] + u[d : 2 * d])
                n = np.tanh(x[i, t, 2 * d :] + r * (u[2 * d :] + c))
                state = (1 - z) * n + z * state
            np.testing.assert_allclose(outputs[i, t], state, atol=1e-5)
        np.testing.assert_allclose(last[i], state, atol=1e-5)


def test_gru_gradient() -> None:
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(2, 3, 6)), jnp.float32)
    h, w = jnp.zeros((2, 2)), jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)
    valid = jnp.asarray([[True, False, True], [True, True, True]])
    check_grads(
        lambda x, w: recurrence.gru(x, h, valid, w, jnp.zeros(2))[1], (x, w), order=1, modes="rev", rtol=0.02
    )
