"""Map cells: tiles of the Web-Mercator square at several levels, and rows of tables for them by hashing.

Level z divides the square into 2^z columns and 2^z rows; a cell's quadkey interleaves their bits, so that the
cell around it one level up is its key shifted by two bits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

LIMIT = 85.05113  # degrees of latitude where the square ends
FINEST = 16  # the last level whose quadkey fits into 32 bits: cells of 600 m at the equator


def tile(place: jax.Array, level: int) -> tuple[jax.Array, jax.Array]:
    """Column (from 180 W eastwards) and row (from the north) of the cell of a known place, int32.

    place: (..., 2) degrees. Longitudes repeat after 360 degrees, latitudes end at the limit of the square.
    The column is exact for the float32 longitude at every level. The row errs within 0.02 of a cell of level
    16 from a border (12 m), half of that per level above. Raises ValueError for a level outside 0..16.
    """
    if not 0 <= level <= FINEST:
        raise ValueError(f"level={level} of map cells must be from 0 to {FINEST}")
    side = 1 << level
    lat, lon = jnp.moveaxis(place, -1, 0)
    # In whole degrees and their fraction, each scaled without rounding: floor((n + r) / 360) with n an
    # integer and r < 1 is floor(n / 360).
    whole = jnp.floor(lon)
    scaled = (whole.astype(jnp.int32) + 180) * side + jnp.floor((lon - whole) * side).astype(jnp.int32)
    column = (scaled // 360) & (side - 1)
    # The distance from the equator is scaled and split before it is counted from the north.
    north = jnp.arcsinh(jnp.tan(jnp.radians(jnp.clip(lat, -LIMIT, LIMIT)))) * (side / (2 * jnp.pi))
    row = side // 2 + jnp.floor(-north).astype(jnp.int32)
    return column, jnp.clip(row, 0, side - 1)


def quadkey(place: jax.Array, level: int) -> jax.Array:
    """The cell of a known place as one number: (..., 2) degrees -> (...) uint32, below 4^level.

    From the most significant pair of bits on, each pair says which quarter of the cell so far: 1 is east, 2
    is south (the digits of Bing Maps). Raises ValueError for a level outside 0..16.
    """
    column, row = tile(place, level)
    return _spread(column) | (_spread(row) << 1)


def parent(key: jax.Array, levels: int = 1) -> jax.Array:
    """The cell that holds the cell, so many levels up."""
    return key >> jnp.uint32(2 * levels)


def bucket(key: jax.Array, level: int, buckets: int) -> jax.Array:
    """A row of a table for a cell: (...) uint32 -> (...) int32 in [0, buckets), as if drawn at random.

    Every bit of the key changes half of the hash's (finaliser of MurmurHash3, Appleby, 2011), and the level
    enters, since keys of different levels are equal near the north-west corner.
    """
    x = key ^ jnp.uint32(level * 0x9E3779B9 & 0xFFFFFFFF)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    x = x ^ (x >> 16)
    return (x % jnp.uint32(buckets)).astype(jnp.int32)


def hashed(place: jax.Array, levels: tuple[int, ...], buckets: int) -> jax.Array:
    """Rows of the cells of a known place at each level: (..., 2) degrees -> (..., len(levels)) int32.

    Raises ValueError for a level outside 0..16.
    """
    finest = max(levels)
    key = quadkey(place, finest)
    return jnp.stack([bucket(parent(key, finest - z), z, buckets) for z in levels], axis=-1)


def _spread(x: jax.Array) -> jax.Array:
    """Bits 0..15 moved to the even places of 32."""
    x = x.astype(jnp.uint32)
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        x = (x | (x << shift)) & jnp.uint32(mask)
    return x
