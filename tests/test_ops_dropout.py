"""Dropout: its share, its mean, its independence of position, key and neighbour; one key, one mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops.dropout import dropout, random_bits
from tests.strict import strict

pytestmark = strict

SHAPE = (67, 101, 53)


def mask(key: int, rate: float = 0.3) -> np.ndarray:
    return np.asarray(dropout(jnp.ones(SHAPE), rate, jax.random.key(key))) == 0


def reference(key: jax.Array, shape: tuple[int, ...]) -> np.ndarray:
    """The hash in Python's integers."""
    before, between = (int(word) for word in np.asarray(jax.random.bits(key, (2,), jnp.uint32)))
    out = []
    for x in range(int(np.prod(shape))):
        x ^= before
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x + between) % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        out.append(x ^ x >> 16)
    return np.reshape(np.array(out, np.uint32), shape)


def test_bits_are_the_hash_of_positions() -> None:
    bits = random_bits(jax.random.key(3), (3, 5, 7))
    np.testing.assert_array_equal(bits, reference(jax.random.key(3), (3, 5, 7)))


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.93])
def test_share_and_mean(rate: float) -> None:
    y = np.asarray(dropout(jnp.ones(SHAPE), rate, jax.random.key(0)), np.float64)
    n = y.size
    assert abs((y == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / n)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)


def test_masks_are_independent_of_neighbours_and_of_other_keys() -> None:
    """Correlations of 358,651 pairs are below five standard errors, by every axis and in every bit."""
    first, second = mask(0), mask(1)
    limit = 5 / np.sqrt(first.size)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < limit
    for axis in range(3):
        for by in (1, 2, 16, 32):
            moved = np.roll(first, by, axis)
            assert abs(np.corrcoef(first.ravel(), moved.ravel())[0, 1]) < limit
    bits = np.unpackbits(np.asarray(random_bits(jax.random.key(2), SHAPE)).view(np.uint8)).reshape(-1, 32)
    assert (np.abs(bits.mean(axis=0) - 0.5) < limit / 2).all()
    assert (np.abs(np.corrcoef(bits.T) - np.eye(32)) < limit).all()


def test_rows_differ_in_how_much_they_lose_as_chance_would_have_it() -> None:
    """Variance of the share that is dropped of each row of 53, over 6,767 rows."""
    shares = mask(4).reshape(-1, SHAPE[-1]).mean(axis=1)
    expected = 0.3 * 0.7 / SHAPE[-1]
    assert shares.var() == pytest.approx(expected, rel=5 * np.sqrt(2 / shares.size))


def test_the_gradient_has_the_same_mask() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(11, 13)), jnp.float32)

    def total(x: jax.Array) -> jax.Array:
        return dropout(x, 0.4, jax.random.key(5)).sum()

    y, gradient = dropout(x, 0.4, jax.random.key(5)), jax.jit(jax.grad(total))(x)
    np.testing.assert_allclose(y, x * gradient, rtol=1e-6)
    assert 0 < (np.asarray(gradient) == 0).mean() < 1
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(5)), x)
