"""Distance in the catalogue softmax, against plain NumPy and plain autodiff."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops import softmax
from stjax.ops.near import LEAST_KM, Near
from tests.strict import strict

pytestmark = strict

N, V, D = 13, 19, 5
KNOTS = (0.1, 1.0, 30.0)


def city(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal((48.2, 16.4), 0.1, (n, 2)).astype(np.float32)


def setting(seed: int = 0):
    rng = np.random.default_rng(seed)
    here, there = city(rng, N), city(rng, V)
    here[3], there[5], there[7] = np.nan, np.nan, here[2]  # unknown ones, and one that is exactly here
    weights = rng.normal(size=(N, len(KNOTS) + 1)).astype(np.float32)
    return jnp.asarray(weights), jnp.asarray(here), jnp.asarray(there)


def haversine_km(a: np.ndarray, b: np.ndarray) -> float:
    (lat_a, lon_a), (lat_b, lon_b) = np.radians(a.astype(float)), np.radians(b.astype(float))
    h = np.sin((lat_b - lat_a) / 2) ** 2
    h += np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    return 2 * 6371.0088 * np.arcsin(np.sqrt(h))


def test_equals_the_formula() -> None:
    weights, here, there = setting()
    near = Near.of(weights, here, there, KNOTS)
    expected = np.zeros((N, V))
    for n in range(N):
        for v in range(V):
            if np.isnan(here[n]).any():
                continue
            if np.isnan(there[v]).any():
                expected[n, v] = weights[n, 0]
                continue
            x = 0.5 * np.log(haversine_km(np.asarray(here[n]), np.asarray(there[v])) ** 2 + LEAST_KM**2)
            hinges = np.maximum(x - np.log(KNOTS), 0)
            expected[n, v] = np.asarray(weights[n, 1:]) @ hinges
    np.testing.assert_allclose(near.logits(), expected, atol=1e-3)
    ids = jnp.asarray(np.random.default_rng(1).integers(0, V, N))
    np.testing.assert_allclose(near.logits_at(ids), near.logits()[jnp.arange(N), ids], atol=1e-5)
    some = jnp.asarray([3, 5, 7, 7])
    np.testing.assert_allclose(near.of_items(some).logits(), near.logits()[:, some], atol=1e-5)


@pytest.mark.parametrize("entries", [60, 1 << 20])
def test_softmax_with_distance_and_its_gradients(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    monkeypatch.setattr(softmax, "BLOCK_ENTRIES", entries)
    monkeypatch.setattr(softmax, "LEAST_ROWS", 1)
    weights, here, there = setting()
    k = jax.random.split(jax.random.key(2), 5)
    h, table, bias = (jax.random.normal(k[i], shape) for i, shape in enumerate([(N, D), (V, D), (V,)]))
    target = jax.random.randint(k[3], (N,), 2, V)
    weight = jax.random.uniform(k[4], (N,)).at[4].set(0.0)

    def plain(h, table, bias, weights):
        logits = h @ table.T + bias[None] + Near.of(weights, here, there, KNOTS).logits()
        log_p = jax.nn.log_softmax(logits.at[:, :2].set(-jnp.inf))
        return -(log_p[jnp.arange(N), target] * weight).sum()

    def loss(h, table, bias, weights):
        near = Near.of(weights, here, there, KNOTS)
        return 2.0 * softmax.catalogue_loss(h, table, bias, target, weight, 2, near)

    def log_prob(h, table, bias, weights):
        near = Near.of(weights, here, there, KNOTS)
        return -jnp.vdot(softmax.catalogue_log_prob(h, table, bias, target, 2, near), weight)

    args = h, table, bias, weights
    expected, gradients = jax.value_and_grad(plain, (0, 1, 2, 3))(*args)
    for function, scale in ((loss, 2.0), (log_prob, 1.0)):
        value, found = jax.value_and_grad(function, (0, 1, 2, 3))(*args)
        np.testing.assert_allclose(value, scale * expected, rtol=1e-5)
        for a, b in zip(found, gradients, strict=True):
            np.testing.assert_allclose(a, scale * b, atol=1e-4)
        assert (np.asarray(found[3])[3] == 0).all()  # of the request whose place is unknown
