"""Rotary positions against complex multiplication, and by lag alone."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops.rotary import rotate
from tests.strict import strict

pytestmark = strict


def test_rotation_is_complex_multiplication() -> None:
    rng = np.random.default_rng(0)
    b, length, heads, d = 2, 5, 3, 6
    x = rng.normal(size=(b, length, heads, d)).astype(np.float32)
    position = np.array([0, 1, -3, 70, 16_383])
    y = np.asarray(rotate(jnp.asarray(x), position))
    for n, p in enumerate(position):
        for i in range(d // 2):
            turned = (x[:, n, :, i] + 1j * x[:, n, :, i + d // 2]) * np.exp(1j * p * 10_000 ** (-2 * i / d))
            np.testing.assert_allclose(y[:, n, :, i], turned.real, atol=1e-5)
            np.testing.assert_allclose(y[:, n, :, i + d // 2], turned.imag, atol=1e-5)


def test_positions_that_differ_by_user() -> None:
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(3, 5, 2, 6)), jnp.float32)
    position, index = -np.arange(7), rng.integers(0, 7, (3, 5))
    found = rotate(x, position, jnp.asarray(index, jnp.int32))
    for b in range(3):
        np.testing.assert_array_equal(found[b : b + 1], rotate(x[b : b + 1], position[index[b]]))


def test_products_depend_on_the_lag_alone() -> None:
    rng = np.random.default_rng(1)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def product(at_q: int, at_k: int) -> float:
        return float(jnp.vdot(rotate(q, np.array([at_q])), rotate(k, np.array([at_k]))))

    assert product(9, 4) == pytest.approx(product(10_005, 10_000), abs=1e-5)
    assert product(9, 4) == pytest.approx(product(0, -5), abs=1e-5)
    assert product(9, 4) != pytest.approx(product(9, 3), abs=1e-2)


def test_an_odd_number_of_features_is_refused() -> None:
    with pytest.raises(ValueError, match="even number of features a head, got 5"):
        rotate(jnp.zeros((1, 2, 1, 5)), np.arange(2))
