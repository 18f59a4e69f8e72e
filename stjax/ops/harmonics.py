"""Spherical harmonics: the smooth functions on the sphere, from the coarsest to the finest."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def real_harmonics(point: jax.Array, degree: int) -> jax.Array:
    """Real orthonormal spherical harmonics of all degrees 0..degree: (..., 3) -> (..., (degree + 1)^2).

    Y_lm stands at l^2 + l + m, with cos(m longitude) for m >= 0 and sin(|m| longitude) for m < 0, without
    the sign (-1)^m. They tell apart what lies 20,000 km / degree from each other, and no less.

    With x + iy = cos(lat) e^(i lon), a harmonic is a polynomial in z times a power of x + iy, so that no
    angle is ever taken and poles are points like all others. Normalised recurrence in the degree (Holmes and
    Featherstone, J. Geodesy 2002), good to 1e-5 in float32 up to degree 16.

    point: unit vectors, float32. Raises ValueError for a negative degree.
    """
    if degree < 0:
        raise ValueError(f"degree={degree} of spherical harmonics must be at least 0")
    x, y, z = jnp.moveaxis(point, -1, 0)
    z = z[..., None]
    cosines, sines = _powers(x, y, degree)
    first, second, start = _coefficients(degree)
    before = jnp.zeros_like(cosines)
    now = before + start[0]
    rows = [now[..., :1] * cosines[..., :1]]
    for n in range(1, degree + 1):
        now, before = first[n] * z * now - second[n] * before + start[n], now
        negative = (now * sines)[..., n:0:-1]
        rows += [negative, (now * cosines)[..., : n + 1]]
    return jnp.concatenate(rows, axis=-1)


def _powers(x: jax.Array, y: jax.Array, degree: int) -> tuple[jax.Array, jax.Array]:
    """Real and imaginary parts of (x + iy)^m for m = 0..degree: (..., degree + 1) each."""
    real, imaginary = [jnp.ones_like(x)], [jnp.zeros_like(x)]
    for _ in range(degree):
        a, b = real[-1], imaginary[-1]
        real.append(a * x - b * y)
        imaginary.append(a * y + b * x)
    return jnp.stack(real, axis=-1), jnp.stack(imaginary, axis=-1)


def _coefficients(degree: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of P_n = first_n z P_(n-1) - second_n P_(n-2) + start_n: (degree + 1, degree + 1) each, orders last."""
    n, m = np.mgrid[: degree + 1, : degree + 1].astype(np.float64)
    below = m < n
    square = np.where(below, n**2 - m**2, 1.0)
    first = np.where(below, np.sqrt((4 * n**2 - 1).clip(0) / square), 0.0)
    rest = np.where(m < n - 1, ((n - 1) ** 2 - m**2) / np.where(n > 1, 4 * (n - 1) ** 2 - 1, 1.0), 0.0)
    order = np.arange(1, degree + 1)
    top = np.sqrt(np.cumprod(np.concatenate([[1.0], (2 * order + 1) / (2 * order)])) / (4 * np.pi))
    top[1:] *= np.sqrt(2.0)  # sqrt(2) belongs to the real harmonics of m != 0
    return first.astype("f4"), (first * np.sqrt(rest)).astype("f4"), np.diag(top).astype("f4")
