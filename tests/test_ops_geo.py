"""Distances, directions, homes and sinusoids on the sphere against double precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops import geo
from tests.strict import strict

pytestmark = strict

distance_km, bearing, offset_km = jax.jit(geo.distance_km), jax.jit(geo.bearing), jax.jit(geo.offset_km)
sphere2vec = jax.jit(geo.sphere2vec, static_argnums=(1, 2, 3))
multiscale = jax.jit(geo.multiscale, static_argnums=(1, 2, 3))


def central_angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Vincenty's formula on the sphere, float64: stable at every distance."""
    (p, x), (q, y) = np.radians(a.astype(np.float64)).T, np.radians(b.astype(np.float64)).T
    d = y - x
    top = np.hypot(np.cos(q) * np.sin(d), np.cos(p) * np.sin(q) - np.sin(p) * np.cos(q) * np.cos(d))
    return np.arctan2(top, np.sin(p) * np.sin(q) + np.cos(p) * np.cos(q) * np.cos(d))


def unit64(place: np.ndarray) -> np.ndarray:
    lat, lon = np.radians(place.astype(np.float64)).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def frame64(point: np.ndarray) -> np.ndarray:
    """East, north and up at unit vectors (N, 3): (N, 3, 3)."""
    east = np.cross([0.0, 0.0, 1.0], point)
    east /= np.linalg.norm(east, axis=-1, keepdims=True)
    return np.stack([east, np.cross(point, east), point], axis=1)


def pairs(spread: float, n: int = 211) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    a = np.stack([rng.uniform(-89, 89, n), rng.uniform(-180, 180, n)], 1).astype(np.float32)
    b = (a + rng.normal(0, spread, a.shape)).clip((-90, -180), (90, 180)).astype(np.float32)
    return a, b


@pytest.mark.parametrize("spread", [1e-3, 0.1, 5.0])
def test_distance_is_that_of_double_precision(spread: float) -> None:
    a, b = pairs(spread)
    expected = central_angle(a, b) * geo.EARTH_RADIUS_KM
    np.testing.assert_allclose(distance_km(a, b), expected, rtol=5e-6, atol=5e-5)
    near = expected < 1_000
    np.testing.assert_allclose(
        np.asarray(jax.jit(geo.chord_km)(a, b))[near], expected[near], rtol=2e-3, atol=3e-3
    )


def test_distance_across_the_date_line_and_over_the_pole() -> None:
    a = jnp.asarray([[0.0, 179.5], [89.0, 10.0]])
    b = jnp.asarray([[0.0, -179.5], [89.0, -170.0]])
    degrees = np.degrees(np.asarray(distance_km(a, b)) / geo.EARTH_RADIUS_KM)
    np.testing.assert_allclose(degrees, [1.0, 2.0], rtol=1e-4)


def test_unknown_places_are_told_apart_and_poison_no_gradient() -> None:
    place = jnp.asarray([[40.0, -70.0], [jnp.nan, jnp.nan], [40.0, jnp.nan]])
    np.testing.assert_array_equal(geo.known(place), [True, False, False])
    safe = geo.fill(place)
    np.testing.assert_array_equal(safe, [[40, -70], [0, 0], [0, 0]])
    gradient = jax.jit(jax.grad(lambda p: distance_km(safe, p).sum()))(safe + 1.0)
    assert np.isfinite(gradient).all()


def test_multiscale_tells_near_from_far_without_a_seam() -> None:
    places = jnp.asarray([[10.0, 180.0], [10.0, -180.0], [10.0, 179.999], [-40.0, 20.0]])
    x = np.asarray(multiscale(places, 1.0, 10_000.0, 11))
    assert x.shape == (4, 66)
    np.testing.assert_allclose(x[0], x[1], atol=0.01)  # the same meridian; float32 rounds pi differently
    position = np.asarray(geo.unit_vector(places), np.float64) * geo.EARTH_RADIUS_KM
    wavelength = 10.0 ** np.linspace(0, 4, 11)
    angle = (position[..., None] * 2 * np.pi / wavelength).reshape(4, 33)
    np.testing.assert_allclose(x, np.concatenate([np.cos(angle), np.sin(angle)], 1), atol=0.02)
    assert np.linalg.norm(x[0] - x[2]) < np.linalg.norm(x[0] - x[3])


@pytest.mark.parametrize(("spread", "metres"), [(1e-3, 1e-3), (0.1, 0.02), (60.0, 4.0)])
def test_offsets_and_bearings_are_those_of_double_precision(spread: float, metres: float) -> None:
    a, b = pairs(spread)
    line = np.einsum("nij,nj->ni", frame64(unit64(a)), unit64(b) - unit64(a)) * geo.EARTH_RADIUS_KM
    np.testing.assert_allclose(offset_km(a, b), line, atol=metres / 1e3)
    expected = line[:, 1::-1] / np.linalg.norm(line[:, :2], axis=1, keepdims=True)
    np.testing.assert_allclose(bearing(a, b), expected, atol=1e-4)


def test_bearings_of_the_compass_over_the_date_line_and_at_rest() -> None:
    here = jnp.asarray([[10.0, 179.75], [0.0, 179.75], [10.0, 20.0], [0.0, -179.75], [30.0, 40.0]])
    there = jnp.asarray([[10.5, 179.75], [0.0, -179.75], [9.5, 20.0], [0.0, 179.75], [30.0, 40.0]])
    expected = [[1, 0], [0, 1], [-1, 0], [0, -1], [0, 0]]
    np.testing.assert_allclose(bearing(here, there), expected, atol=1e-6)
    for f in (bearing, distance_km):
        gradient = jax.jit(jax.grad(lambda p, f=f: f(here, p).sum()))(there)
        assert np.isfinite(gradient).all()


def test_speed_is_finite_without_a_gap() -> None:
    seconds = jnp.asarray([3_600, 60, 1, 0], jnp.int32)
    speed = geo.speed_kmh(jnp.asarray([5.0, 2.0, 0.0, 1.0]), seconds)
    np.testing.assert_allclose(speed, [5.0, 120.0, 0.0, 3_600.0])


def test_distance_buckets_are_powers_of_two() -> None:
    km = jnp.asarray([0.0, 0.03, 0.07, 0.6, 1.1, 1_500.0, 20_000.0])
    np.testing.assert_array_equal(geo.distance_bucket(km, 16), [0, 0, 1, 4, 5, 15, 15])


def test_sphere2vec_is_that_of_double_precision() -> None:
    a, _ = pairs(1.0)
    x = np.asarray(sphere2vec(a, 0.5, 10_000.0, 7)).reshape(-1, 5, 7)
    multiple = np.asarray([geo.EARTH_RADIUS_KM * np.pi // w * 2 + 1 for w in np.geomspace(0.5, 1e4, 7)])
    lat, lon = np.radians(a.astype(np.float64)).T[..., None]
    expected = [
        np.sin(multiple * lat),
        np.cos(multiple * lat) * np.cos(lon),
        np.cos(lat) * np.cos(multiple * lon),
        np.cos(multiple * lat) * np.sin(lon),
        np.cos(lat) * np.sin(multiple * lon),
    ]
    np.testing.assert_allclose(x, np.stack(expected, axis=1), atol=1e-3)


def test_sphere2vec_is_a_function_on_the_sphere() -> None:
    one = jnp.asarray([[10.0, 180.0], [90.0, 0.0], [-90.0, 77.0]])
    same = jnp.asarray([[10.0, -180.0], [90.0, 123.0], [-90.0, -5.0]])
    x, y = (sphere2vec(p, 0.5, 10_000.0, 11) for p in (one, same))
    np.testing.assert_allclose(x, y, atol=1e-4)
    assert np.abs(np.asarray(x[0] - sphere2vec(one[:1] + 0.001, 0.5, 10_000.0, 11)[0])).max() > 0.1


CENTRES = {"city": (40.7, -74.0), "date line": (-17.0, 180.0), "pole": (89.9, 30.0)}
L, HALF_LIFE = 53, 5 * 86_400


def journey(centre: str) -> tuple[np.ndarray, np.ndarray]:
    """Places (2, L, 2), some unknown, 10 km about a centre; the second row moves 2,000 km away; seconds."""
    rng = np.random.default_rng(3)
    north, east = rng.normal(0, 0.1, (2, 2, L))
    lat, lon = CENTRES[centre]
    north[1, 20:] -= 18
    east = east / np.cos(np.radians(np.clip(lat + north, -89.8, 89.8)))
    place = np.stack([np.minimum(lat + north, 90), (lon + east + 180) % 360 - 180], -1).astype("f4")
    place[rng.random((2, L)) < 0.2] = np.nan
    return place, np.cumsum(rng.integers(0, 3 * 86_400, (2, L)), axis=1).astype(np.int32)


@jax.jit
def roam(place: jax.Array, time: jax.Array):
    seen = geo.known(place)
    anchor = jnp.take_along_axis(place, jnp.argmax(seen, axis=1)[:, None, None], axis=1)
    offset = geo.offset_km(anchor, geo.fill(place))
    gap = jnp.diff(time, axis=1, prepend=0).astype(jnp.float32)
    before, after = geo.roam(offset, seen, jnp.exp2(-gap / HALF_LIFE), geo.Roaming.none(2))
    km, way = before.home_to(jnp.broadcast_to(anchor, place.shape), offset)
    return km, way, before.radius_km(), after


@pytest.mark.parametrize("centre", CENTRES)
def test_home_and_radius_of_gyration_keep_metres(centre: str) -> None:
    """Sums of unit vectors in double precision say so: 2 cm in a city, 1 m after 2,000 km or near a pole."""
    place, time = journey(centre)
    km, way, radius, _ = (jax.tree.map(np.asarray, x) for x in roam(place, time))
    checked = 0
    for row, tolerance in ((0, 1e-3 if centre == "pole" else 2e-5), (1, 1e-3)):
        seen = np.isfinite(place[row, :, 0])
        for now in np.flatnonzero(seen)[1:]:
            past = np.flatnonzero(seen[:now])
            weight = 2.0 ** (-(time[row, now] - time[row, past]).astype(np.float64) / HALF_LIFE)
            weight /= weight.sum()
            points = unit64(place[row, past])
            mean = weight @ points
            home = mean / np.linalg.norm(mean)
            line = frame64(home[None])[0] @ (unit64(place[row, now][None])[0] - home)
            angle = np.arctan2(np.hypot(*line[:2]), 1 + line[2])
            expected = angle * geo.EARTH_RADIUS_KM
            np.testing.assert_allclose(km[row, now], expected, atol=tolerance, rtol=1e-6)
            blur = 1e-5 + 2 * tolerance / expected
            np.testing.assert_allclose(way[row, now], line[1::-1] / np.hypot(*line[:2]), atol=blur)
            square = weight @ ((points - mean) ** 2).sum(1)
            gyration = np.sqrt(square) * geo.EARTH_RADIUS_KM
            np.testing.assert_allclose(radius[row, now], gyration, atol=tolerance, rtol=1e-5)
            checked += 1
    assert checked > 70


def test_a_place_revisited_for_ever_is_home_without_any_distance() -> None:
    place = jnp.broadcast_to(jnp.asarray([48.137, 11.575]), (2, L, 2))
    km, _, radius, after = roam(place, journey("city")[1])
    np.testing.assert_allclose(km, 0.0, atol=1e-6)
    np.testing.assert_allclose(radius, 0.0, atol=1e-6)
    assert (np.asarray(after.weight[:, 5:]) > 1).all()
