"""Space: coordinates on the sphere. Places are (..., 2) float32 latitude and longitude in degrees.

An unknown place is NaN. Functions here take known places; `known` says which are, and `fill` makes the
others harmless, since a NaN that is only masked afterwards still poisons gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops.recurrence import linear_recurrence
from stjax.ops.sequence import shift

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
    """Great-circle distance by the haversine formula, accurate in float32 for near points.

    The gradient at equal points is 0. Of an unknown place it says nothing: not even NaN.
    """
    north, east = _degrees_between(a, b)
    h = (
        jnp.sin(north / 2) ** 2
        + jnp.cos(jnp.radians(a[..., 0])) * jnp.cos(jnp.radians(b[..., 0])) * jnp.sin(east / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * jnp.arcsin(_root(jnp.clip(h, 0.0, 1.0)))


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


def sphere2vec(place: jax.Array, shortest_km: float, longest_km: float, scales: int) -> jax.Array:
    """sphereM of Sphere2Vec (Mai et al., ISPRS 2023): (..., 2) -> (..., 5 * scales).

    At each scale sin(a lat), cos(a lat) cos(lon), cos(lat) cos(a lon), cos(a lat) sin(lon) and
    cos(lat) sin(a lon). a is rounded to an odd integer, which makes all of them functions on the sphere: no
    seam at the date line and one value at a pole. Whole turns are removed in integers: the waves err by 2e-4
    at wavelengths of 0.5 km.
    """
    wavelength = np.geomspace(shortest_km, longest_km, scales)
    multiple = 2 * np.floor(np.pi * EARTH_RADIUS_KM / wavelength) + 1
    lat, lon = (_phase(x, multiple) for x in jnp.moveaxis(place, -1, 0))
    one_lat, one_lon = jnp.moveaxis(jnp.radians(place)[..., None], -2, 0)
    waves = [
        jnp.sin(lat),
        jnp.cos(lat) * jnp.cos(one_lon),
        jnp.cos(one_lat) * jnp.cos(lon),
        jnp.cos(lat) * jnp.sin(one_lon),
        jnp.cos(one_lat) * jnp.sin(lon),
    ]
    return jnp.concatenate(waves, axis=-1)


def offset_km(origin: jax.Array, place: jax.Array) -> jax.Array:
    """Straight line between places, km to the east, north and up of the origin: (..., 2) -> (..., 3).

    Coordinates are subtracted in degrees, so float32 keeps millimetres in a city, of what the float32
    coordinates themselves say (they are rounded to 1 m).
    """
    from_lat, to_lat = jnp.radians(origin[..., 0]), jnp.radians(place[..., 0])
    north, east = _degrees_between(origin, place)
    bend = 2 * jnp.cos(to_lat) * jnp.sin(east / 2) ** 2
    offset = [
        jnp.cos(to_lat) * jnp.sin(east),
        jnp.sin(north) + jnp.sin(from_lat) * bend,
        -2 * jnp.sin(north / 2) ** 2 - jnp.cos(from_lat) * bend,
    ]
    return EARTH_RADIUS_KM * jnp.stack(offset, axis=-1)


def bearing(a: jax.Array, b: jax.Array) -> jax.Array:
    """Cosine and sine of the direction in which the great circle from a to b leaves a, clockwise from north.

    (..., 2) -> (..., 2). Zeros where a and b are one place. At a pole, north is the place's own meridian's.
    """
    return _unit(offset_km(a, b)[..., 1::-1])


def speed_kmh(km: jax.Array, seconds: jax.Array) -> jax.Array:
    """Speed over a distance in integer seconds; less than a second counts as one."""
    return km * (3600.0 / jnp.maximum(seconds, 1).astype(km.dtype))


def distance_bucket(km: jax.Array, buckets: int) -> jax.Array:
    """Powers of two from 2^-4 km (60 m): floor(log2 km) + 5 in [0, buckets - 1], int32; km at least 0.

    The logarithm is read off the exponent of the float: exact, and without a transcendental per pair.
    """
    exponent = (jax.lax.bitcast_convert_type(km, jnp.int32) >> 23) - 127
    return jnp.clip(exponent + 5, 0, buckets - 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Roaming:
    """Where somebody has been, each place fading with time: weighted moments of offsets from one anchor.

    weight: (...), how many places count. mean: (..., 3) km. variance: (...) km^2, about the mean.
    """

    weight: Any
    mean: Any
    variance: Any

    @classmethod
    def none(cls, batch: int) -> Roaming:
        """Nowhere yet."""
        return cls(jnp.zeros(batch), jnp.zeros((batch, 3)), jnp.zeros(batch))

    def radius_km(self) -> jax.Array:
        """Radius of gyration (González et al., Nature 2008): root mean square distance from the mean."""
        return _root(self.variance)

    def home_to(self, anchor: jax.Array, offset: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Distance (...) km and bearing (..., 2) from home, the mean direction on the sphere, to a place.

        anchor: (..., 2) degrees, known. offset: (..., 3), of the place from the anchor as by `offset_km`.
        """
        mean = self.mean / EARTH_RADIUS_KM
        from_centre = mean + jnp.asarray([0.0, 0.0, 1.0])
        # Scaled to length 1 by a correction that is as small as the mean, so that nothing cancels.
        excess = jnp.maximum(2 * mean[..., 2:] + jnp.sum(mean**2, axis=-1, keepdims=True), 1e-6 - 1)
        length = jnp.sqrt(1 + excess)
        correction = -excess / (length * (1 + length))
        home = from_centre * (1 + correction)
        line = offset / EARTH_RADIUS_KM - mean - correction * from_centre
        lat = jnp.radians(anchor[..., 0])
        # The cosine of 90 degrees in float32 is below 0; at the pole itself north must not turn round.
        pole = jnp.stack([jnp.zeros_like(lat), jnp.maximum(jnp.cos(lat), 1e-7), jnp.sin(lat)], axis=-1)
        north = pole - jnp.sum(pole * home, axis=-1, keepdims=True) * home
        east = jnp.cross(pole, home)
        chord = _root(jnp.sum(line**2, axis=-1))
        direction = [jnp.sum(line * north, axis=-1), jnp.sum(line * east, axis=-1)]
        return 2 * EARTH_RADIUS_KM * jnp.arcsin(jnp.minimum(chord / 2, 1.0)), _unit(jnp.stack(direction, -1))


def roam(offset: jax.Array, seen: jax.Array, decay: jax.Array, start: Roaming) -> tuple[Roaming, Roaming]:
    """Running moments before and after each event, (B, L).

    By differences from the mean so far (West, CACM 1979), not from sums of squares: in float32, home and
    radius err by 0.01 m in a city, by 1 m for somebody who has since moved 2,000 km, or near a pole.

    offset: (B, L, 3) km from the anchor. seen: bool (B, L), False where the place is unknown. decay: (B, L),
    what is left at each event of the weight at the event before, 0..1. start: (B,).
    """
    weight = linear_recurrence(decay, seen.astype(decay.dtype), start.weight)
    share = jnp.where(seen, 1 / jnp.maximum(weight, 1.0), 0.0)
    mean = linear_recurrence((1 - share)[..., None], share[..., None] * offset, start.mean)
    mean_before = _before(start.mean, mean)
    away = jnp.sum((offset - mean_before) ** 2, axis=-1)
    variance = linear_recurrence(1 - share, share * (1 - share) * away, start.variance)
    before = Roaming(_before(start.weight, weight), mean_before, _before(start.variance, variance))
    return before, Roaming(weight, mean, variance)


def _before(start: jax.Array, x: jax.Array) -> jax.Array:
    return shift(x).at[:, 0].set(start)


def _degrees_between(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """From a to b in latitude, and in longitude the short way, radians; subtracted while they are exact."""
    north, east = jnp.moveaxis(b - a, -1, 0)
    half = 180.0 * ((east < -180).astype(east.dtype) - (east > 180).astype(east.dtype))
    # Over the date line each longitude is first made small, which is exact; their difference was rounded.
    return jnp.radians(north), jnp.radians((b[..., 1] + half) + (half - a[..., 1]))


def _phase(degrees: jax.Array, multiple: np.ndarray) -> jax.Array:
    """Integer multiples of an angle in degrees, radians without whole turns: (...) -> (..., S)."""
    whole = jnp.floor(degrees)
    turned = jnp.remainder(whole.astype(jnp.int32)[..., None] * multiple.astype(np.int32), 360)
    rest = (degrees - whole)[..., None] * multiple.astype(np.float32)
    return jnp.radians(turned.astype(jnp.float32) + rest)


def _root(x: jax.Array) -> jax.Array:
    """Square root whose gradient at 0 is 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def _unit(x: jax.Array) -> jax.Array:
    """Scaled to length 1 along the last axis; zeros, and their gradients, stay zeros."""
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    positive = square > 0
    return jnp.where(positive, x * jax.lax.rsqrt(jnp.where(positive, square, 1.0)), 0.0)
