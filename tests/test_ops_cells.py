"""Map cells against float64 arithmetic: tiles, quadkeys, borders, hashing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops import cells
from tests.strict import strict

pytestmark = strict

quadkey = jax.jit(cells.quadkey, static_argnames="level")
tile = jax.jit(cells.tile, static_argnames="level")


def places(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(-84.9, 84.9, n), rng.uniform(-180, 180, n)], axis=1).astype("f4")


def mercator(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position in the square in float64, each from 0 to 1, by another form of the projection."""
    lat, lon = place.astype(np.float64).T
    y = np.log(np.tan(np.pi / 4 + np.radians(lat) / 2))
    return lon / 360 + 0.5, 0.5 - y / (2 * np.pi)


@pytest.mark.parametrize("level", [0, 1, 9, 16])
def test_tiles_are_those_of_double_precision(level: int) -> None:
    place = places(20_011)
    column, row = (np.asarray(x) for x in tile(place, level=level))
    x, y = (p * 2**level for p in mercator(place))
    np.testing.assert_array_equal(column, np.floor(x))
    off = row != np.floor(y)
    assert off.mean() < 0.01
    # Only what lies on a border, within 0.02 of a cell of level 16, may fall on its other side.
    assert (np.abs(y - np.round(y))[off] < 0.02 * 2.0 ** (level - 16)).all()
    assert (np.abs(row - np.floor(y)) <= 1).all()


def test_quadkey_interleaves_columns_and_rows() -> None:
    place = places(101, seed=1)
    for level in (1, 9, 16):
        column, row = (np.asarray(x) for x in tile(place, level=level))
        digits = [
            "".join(str(2 * (r >> i & 1) + (c >> i & 1)) for i in reversed(range(level)))
            for c, r in zip(column, row, strict=True)
        ]
        keys = quadkey(place, level=level)
        assert keys.dtype == jnp.uint32
        np.testing.assert_array_equal(keys, [int(d, 4) for d in digits])


def test_a_quadkey_that_others_publish() -> None:
    """The documentation of Bing Maps: tile (3, 5) at level 3 has the quadkey 213."""
    place = jnp.asarray([np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * 5.5 / 8)))), 3.5 / 8 * 360 - 180])
    assert int(quadkey(place, level=3)) == int("213", 4)


def test_the_parent_is_the_cell_one_level_up() -> None:
    place = places(5_003, seed=2)
    for level in (2, 9, 16):
        up = cells.parent(quadkey(place, level=level))
        same = np.asarray(up == quadkey(place, level=level - 1))
        assert same.all()
    np.testing.assert_array_equal(cells.parent(quadkey(place, level=16), 7), quadkey(place, level=9))


def test_date_line_and_poles() -> None:
    side = 2**9
    lon = jnp.asarray([[10.0, 180.0], [10.0, -180.0], [10.0, 540.0], [10.0, 179.99], [10.0, -179.99]])
    column, row = tile(lon, level=9)
    np.testing.assert_array_equal(column, [0, 0, 0, side - 1, 0])
    assert len(set(np.asarray(row).tolist())) == 1
    lat = jnp.asarray([[90.0, 0.0], [85.06, 0.0], [85.05, 0.0], [-85.05, 0.0], [-90.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(tile(lat, level=9)[1], [0, 0, 0, side - 1, side - 1, side // 2])


@pytest.mark.parametrize("level", [-1, 17])
def test_levels_that_do_not_fit_are_refused(level: int) -> None:
    with pytest.raises(ValueError, match=f"level={level}"):
        cells.quadkey(jnp.zeros(2), level)


def test_buckets_are_filled_evenly_also_by_neighbours() -> None:
    key = jnp.arange(100_003, dtype=jnp.uint32) + jnp.uint32(123_456_789)
    buckets = 1_009
    rows = np.asarray(cells.bucket(key, 12, buckets))
    assert rows.min() >= 0 and rows.max() < buckets
    count = np.bincount(rows, minlength=buckets)
    chi_square = ((count - count.mean()) ** 2 / count.mean()).sum()
    assert abs(chi_square - buckets) < 5 * np.sqrt(2 * buckets)
    flipped = np.asarray(cells.bucket(key, 12, 2**31) ^ cells.bucket(key ^ jnp.uint32(1 << 7), 12, 2**31))
    share = (flipped[:, None] >> np.arange(31) & 1).mean(0)
    np.testing.assert_allclose(share, 0.5, atol=0.02)


def test_the_hash_is_the_published_one_and_the_level_enters() -> None:
    def finaliser(h: int) -> int:
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            h = (h ^ h >> shift) * factor % 2**32
        return h ^ h >> 16

    keys = [0, 1, 12_345, 2**32 - 1]
    expected = [finaliser(k) % 4_096 for k in keys]
    np.testing.assert_array_equal(cells.bucket(jnp.asarray(keys, jnp.uint32), 0, 4_096), expected)
    one, other = (cells.bucket(jnp.arange(1_009, dtype=jnp.uint32), z, 4_096) for z in (9, 10))
    assert np.mean(np.asarray(one) == np.asarray(other)) < 0.01


def test_hashed_cells_are_the_hashes_of_each_level() -> None:
    place, levels = places(1_009, seed=3), (6, 15, 9)
    rows = cells.hashed(jnp.asarray(place), levels, 211)
    assert rows.shape == (1_009, 3) and rows.dtype == jnp.int32
    for i, z in enumerate(levels):
        np.testing.assert_array_equal(rows[:, i], cells.bucket(quadkey(place, level=z), z, 211))
