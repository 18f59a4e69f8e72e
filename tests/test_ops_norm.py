"""Layer normalisation against NumPy in float64, its gradients against those of the formula."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops.norm import layer_norm
from tests.strict import strict

pytestmark = strict


def setting() -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """x (3, 5, 7) far from zero and with a constant row, scale, bias, the cotangent."""
    rng = np.random.default_rng(0)
    x = rng.normal(30.0, 2.0, (3, 5, 7))
    x[1, 2] = 4.0
    arrays = x, rng.normal(size=7), rng.normal(size=7), rng.normal(size=(3, 5, 7))
    x, scale, bias, g = (jnp.asarray(a, jnp.float32) for a in arrays)
    return x, scale, bias, g


def formula(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * scale + bias


def test_rows_are_normalised() -> None:
    x, scale, bias, _ = setting()
    rows = np.asarray(x, np.float64)
    expected = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + 1e-6)
    expected = expected * np.asarray(scale) + np.asarray(bias)
    y = jax.jit(layer_norm)(x, scale, bias)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    np.testing.assert_array_equal(y[1, 2], bias)


def test_gradients_are_those_of_the_formula() -> None:
    x, scale, bias, g = setting()
    found, expected = (
        jax.jit(jax.grad(lambda *args, f=f: jnp.vdot(f(*args), g), (0, 1, 2)))(x, scale, bias)
        for f in (layer_norm, formula)
    )
    constant = jnp.zeros((3, 5, 1), bool).at[1, 2].set(True)  # divided by 1e-3: gradients of hundreds
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert float(jnp.abs(jnp.where(constant, found[0], 0.0)).max()) > 100.0


def test_a_low_precision_is_kept_as_it_is() -> None:
    x, scale, bias, g = setting()
    low = x.astype(jnp.bfloat16)
    y, pull = jax.vjp(layer_norm, low, scale, bias)
    assert y.dtype == jnp.float32
    assert [d.dtype for d in pull(g)] == [jnp.bfloat16, jnp.float32, jnp.float32]
    np.testing.assert_allclose(y, formula(low.astype(jnp.float32), scale, bias), atol=2e-5)
