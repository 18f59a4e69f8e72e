"""Space: coordinates on the sphere. Places are (..., 2) float32 latitude and longitude in degrees.

An unknown place is NaN. Functions here take known places; `known` says which are, and `fill` makes the
others harmless, since a NaN that is only masked afterwards still poisons gradients.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

EARTH_RADIUS_KM = 6371.0088


def known(place: jax.Array) -> jax.Array:
    """True where both coordinates are numbers: (..., 2) -> (...)."""
    return jnp.isfinite(place).all(axis=-1)


def fill(place: jax.Array) -> jax.Array:
    """Unknown places replaced by (0, 0)."""
    return jnp.where(known(place)[..., None], place, 0.0)


def unit_vector(place: jax.Array) -> jax.Array:
    """The point on the unit sphere: (..., 2) -> (..., 3)."""
    lat, lon = jnp.moveaxis(jnp.radians(place), -1, 0)
    return jnp.stack([jnp.cos(lat) * jnp.cos(lon), jnp.cos(lat) * jnp.sin(lon), jnp.sin(lat)], axis=-1)


def distance_km(a: jax.Array, b: jax.Array) -> jax.Array:
    """Great-circle distance by the haversine formula (accurate in float32 for near points)."""
    lat_a, lon_a = jnp.moveaxis(jnp.radians(a), -1, 0)
    lat_b, lon_b = jnp.moveaxis(jnp.radians(b), -1, 0)
    h = (
        jnp.sin((lat_b - lat_a) / 2) ** 2
        + jnp.cos(lat_a) * jnp.cos(lat_b) * jnp.sin((lon_b - lon_a) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * jnp.arcsin(jnp.sqrt(jnp.clip(h, 0.0, 1.0)))


def chord_km(a: jax.Array, b: jax.Array) -> jax.Array:
    """Straight-line distance through the Earth: equals the great circle's to 0.1% below 1,000 km.

    Without trigonometry per pair when one side is broadcast; coordinates are subtracted before they are
    squared, so near points keep metre precision in float32.
    """
    return EARTH_RADIUS_KM * jnp.sqrt(jnp.sum((unit_vector(a) - unit_vector(b)) ** 2, axis=-1))


def multiscale(place: jax.Array, shortest_km: float, longest_km: float, scales: int) -> jax.Array:
    """Sinusoids of the point in space at geometric wavelengths: (..., 2) -> (..., 6 * scales).

    Like Space2Vec (Mai et al., ICLR 2020), on the three Cartesian coordinates instead of a plane, so that
    there is no seam at the date line and no distortion towards the poles.
    """
    steps = jnp.arange(scales, dtype=jnp.float32) / max(scales - 1, 1)
    wavelength = shortest_km * (longest_km / shortest_km) ** steps
    position = unit_vector(place) * EARTH_RADIUS_KM  # (..., 3) kilometres
    angle = position[..., None] * (2 * jnp.pi / wavelength)
    angle = angle.reshape(*place.shape[:-1], 3 * scales)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
