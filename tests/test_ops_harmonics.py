"""Spherical harmonics against SciPy, by quadrature, and where angles have no meaning."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import sph_harm_y

from stjax.ops.harmonics import real_harmonics
from tests.strict import strict

pytestmark = strict

DEGREE = 7
harmonics = jax.jit(real_harmonics, static_argnames="degree")


def points(theta: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Unit vectors, float64, from the angle to the north pole and the longitude."""
    sin = np.sin(theta)
    return np.stack([sin * np.cos(phi), sin * np.sin(phi), np.cos(theta) * np.ones_like(phi)], axis=-1)


def reference(theta: np.ndarray, phi: np.ndarray, degree: int) -> np.ndarray:
    columns = []
    for n in range(degree + 1):
        for m in range(-n, n + 1):
            y = sph_harm_y(n, abs(m), theta, phi) * (-1) ** m
            part = y.imag if m < 0 else y.real
            columns.append(part if m == 0 else part * np.sqrt(2))
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("degree", [0, 1, DEGREE, 16])
def test_harmonics_are_those_of_scipy(degree: int) -> None:
    rng = np.random.default_rng(0)
    theta, phi = np.arccos(rng.uniform(-1, 1, 503)), rng.uniform(-np.pi, np.pi, 503)
    theta[:4] = 1e-3, 1e-6, np.pi - 1e-4, np.pi / 2
    ours = harmonics(points(theta, phi).astype("f4"), degree=degree)
    assert ours.shape == (503, (degree + 1) ** 2) and ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, reference(theta, phi, degree), atol=1e-5)


def test_harmonics_are_orthonormal() -> None:
    """Gauss-Legendre in z times the trapezoidal rule in longitude is exact for these polynomials."""
    z, weight = np.polynomial.legendre.leggauss(DEGREE + 1)
    phi = np.arange(2 * DEGREE + 1) * (2 * np.pi / (2 * DEGREE + 1))
    theta, phi = np.meshgrid(np.arccos(z), phi, indexing="ij")
    y = np.asarray(harmonics(points(theta, phi).astype("f4"), degree=DEGREE), np.float64)
    gram = np.einsum("i,ijm,ijn->mn", weight * 2 * np.pi / phi.shape[1], y, y)
    np.testing.assert_allclose(gram, np.eye((DEGREE + 1) ** 2), atol=1e-5)


def test_turning_the_sphere_keeps_the_energy_of_each_degree() -> None:
    """The addition theorem: the products of two points' harmonics of one degree know only their angle."""
    rng = np.random.default_rng(1)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 31, 3)))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    before, after = (
        np.asarray(harmonics(x.astype("f4"), degree=DEGREE))
        * np.asarray(harmonics(y.astype("f4"), degree=DEGREE))
        for x, y in ((a, b), (a @ turn, b @ turn))
    )
    for n in range(DEGREE + 1):
        degree = slice(n**2, (n + 1) ** 2)
        np.testing.assert_allclose(before[:, degree].sum(1), after[:, degree].sum(1), atol=1e-5)
        legendre = np.polynomial.legendre.Legendre.basis(n)((a * b).sum(1)) * (2 * n + 1) / (4 * np.pi)
        np.testing.assert_allclose(before[:, degree].sum(1), legendre, atol=1e-5)


def test_poles_are_points_like_others() -> None:
    poles = jnp.asarray([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    y = np.asarray(harmonics(poles, degree=DEGREE))
    n = np.arange(DEGREE + 1)
    expected = np.zeros((2, (DEGREE + 1) ** 2))
    expected[:, n**2 + n] = np.sqrt((2 * n + 1) / (4 * np.pi)) * np.asarray([np.ones_like(n), (-1.0) ** n])
    np.testing.assert_allclose(y, expected, atol=1e-5)
    jacobian = jax.jacobian(partial(harmonics, degree=3))(poles[0])
    assert np.isfinite(jacobian).all()
    # Of degree 1: sqrt(3 / 4 pi) times y, z, x.
    np.testing.assert_allclose(jacobian[1:4], np.sqrt(3 / (4 * np.pi)) * np.eye(3)[[1, 2, 0]], atol=1e-6)


def test_a_negative_degree_is_refused() -> None:
    with pytest.raises(ValueError, match="degree=-1"):
        real_harmonics(jnp.zeros(3), -1)
