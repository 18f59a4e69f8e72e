"""Distances and sinusoids on the sphere against double precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops import geo
from tests.strict import strict

pytestmark = strict


def central_angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Vincenty's formula on the sphere, float64: stable at every distance."""
    (p, x), (q, y) = np.radians(a.astype(np.float64)).T, np.radians(b.astype(np.float64)).T
    d = y - x
    top = np.hypot(np.cos(q) * np.sin(d), np.cos(p) * np.sin(q) - np.sin(p) * np.cos(q) * np.cos(d))
    return np.arctan2(top, np.sin(p) * np.sin(q) + np.cos(p) * np.cos(q) * np.cos(d))


@pytest.mark.parametrize("spread", [1e-3, 0.1, 5.0])
def test_distance_is_that_of_double_precision(spread: float) -> None:
    rng = np.random.default_rng(1)
    a = np.stack([rng.uniform(-89, 89, 211), rng.uniform(-180, 180, 211)], 1).astype(np.float32)
    b = (a + rng.normal(0, spread, a.shape)).clip((-90, -180), (90, 180)).astype(np.float32)
    expected = central_angle(a, b) * geo.EARTH_RADIUS_KM
    np.testing.assert_allclose(geo.distance_km(a, b), expected, rtol=2e-4, atol=3e-3)
    near = expected < 1_000
    np.testing.assert_allclose(np.asarray(geo.chord_km(a, b))[near], expected[near], rtol=2e-3, atol=3e-3)


def test_distance_across_the_date_line_and_over_the_pole() -> None:
    a = jnp.asarray([[0.0, 179.5], [89.0, 10.0]])
    b = jnp.asarray([[0.0, -179.5], [89.0, -170.0]])
    degrees = np.degrees(np.asarray(geo.distance_km(a, b)) / geo.EARTH_RADIUS_KM)
    np.testing.assert_allclose(degrees, [1.0, 2.0], rtol=1e-4)


def test_unknown_places_are_told_apart_and_poison_no_gradient() -> None:
    place = jnp.asarray([[40.0, -70.0], [jnp.nan, jnp.nan], [40.0, jnp.nan]])
    np.testing.assert_array_equal(geo.known(place), [True, False, False])
    safe = geo.fill(place)
    np.testing.assert_array_equal(safe, [[40, -70], [0, 0], [0, 0]])
    gradient = jax.grad(lambda p: geo.distance_km(safe, p).sum())(safe + 1.0)
    assert np.isfinite(gradient).all()


def test_multiscale_tells_near_from_far_without_a_seam() -> None:
    places = jnp.asarray([[10.0, 180.0], [10.0, -180.0], [10.0, 179.999], [-40.0, 20.0]])
    x = np.asarray(geo.multiscale(places, 1.0, 10_000.0, 11))
    assert x.shape == (4, 66)
    np.testing.assert_allclose(x[0], x[1], atol=0.01)  # the same meridian; float32 rounds pi differently
    position = np.asarray(geo.unit_vector(places), np.float64) * geo.EARTH_RADIUS_KM
    wavelength = 10.0 ** np.linspace(0, 4, 11)
    angle = (position[..., None] * 2 * np.pi / wavelength).reshape(4, 33)
    np.testing.assert_allclose(x, np.concatenate([np.cos(angle), np.sin(angle)], 1), atol=0.02)
    assert np.linalg.norm(x[0] - x[2]) < np.linalg.norm(x[0] - x[3])
