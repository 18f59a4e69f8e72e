"""The best items of those that requests allow, on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops import geo
from stjax.ops.topk import top_k
from stjax.serving.seen import WORD, words


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Filters:
    """What may be answered. allowed: uint32 (B, ceil(V / 32)), a bit an item. here: float32 (B, 2) degrees.
    radius: float32 (B,) kilometres, infinite for no limit."""

    allowed: Any
    here: Any
    radius: Any


def no_filters(batch: int, items: int) -> Filters:
    """Filters that let everything pass. items: V."""
    return Filters(
        np.full((batch, words(items)), 0xFFFFFFFF, np.uint32),
        np.full((batch, 2), np.nan, np.float32),
        np.full(batch, np.inf, np.float32),
    )


def best(
    log_p: jax.Array, filters: Filters | None, space: jax.Array, k: int, axis: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities and ids of the k best items that are allowed, (B, k) each; -inf where there are no
    more.

    log_p: (B, V). space: (V, 3), see `Weights`. axis: as of `stjax.ops.topk.top_k`: then both are a device's
    items only, and the filters are of all.
    """
    if filters is not None:
        bits = filters.allowed
        if axis is not None:
            bits = starting_at(bits, jax.lax.axis_index(axis) * len(space), len(space))
        log_p = jnp.where(_allowed(bits, filters, space), log_p, -jnp.inf)
    # On a CPU, too, this is one pass: a selection by groups of entries first was no faster.
    return top_k(log_p, k, axis)


def starting_at(bits: jax.Array, first: jax.Array, count: int) -> jax.Array:
    """The bits first..first + count - 1 of uint32 (B, words) as the first ones of (B, ceil(count / 32))."""
    size, shift = words(count), (first % WORD).astype(jnp.uint32)
    bits = jnp.pad(bits, ((0, 0), (0, size + 1)))  # a slice would be moved back from the end
    own = jax.lax.dynamic_slice_in_dim(bits, first // WORD, size + 1, axis=1)
    # In two steps, as a shift by all 32 is none in some languages.
    return (own[:, :-1] >> shift) | (own[:, 1:] << 1 << (WORD - 1 - shift))


def _allowed(bits: jax.Array, filters: Filters, space: jax.Array) -> jax.Array:
    """bool (B, V)."""
    each = (bits[:, :, None] >> jnp.arange(WORD, dtype=jnp.uint32)) & jnp.uint32(1)
    allowed = each.reshape(len(bits), -1)[:, : len(space)] == 1
    here = geo.unit_vector(filters.here) * geo.EARTH_RADIUS_KM
    squared = sum(((here[:, i, None] - space[None, :, i]) ** 2 for i in range(3)), start=jnp.float32(0))
    # The chord of an arc; beyond half the globe everything is near.
    half = jnp.minimum(filters.radius / (2 * geo.EARTH_RADIUS_KM), jnp.pi / 2)
    chord = 2 * geo.EARTH_RADIUS_KM * jnp.sin(half)
    near = squared <= (chord**2)[:, None]  # False where either place is unknown
    return allowed & (near | jnp.isinf(filters.radius)[:, None])
