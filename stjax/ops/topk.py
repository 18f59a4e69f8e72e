"""The k best of many, exactly: ties go to the lower index, as `jax.lax.top_k` gives them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

GROUP = 128  # entries whose maximum is looked at first


def top_k(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Values and indices of the k largest of each row: (B, V) to (B, k) each, largest first.

    In two steps: no entry of the k best lies outside of the k groups with the largest maxima. One pass over
    x and a selection among V / 128 + 128 k entries, where one among V is many times slower.
    ValueError for k outside of 1..V.
    """
    size = x.shape[-1]
    if not 1 <= k <= size:
        raise ValueError(f"k={k} must be from 1 to the {size} entries of a row")
    groups = -(-size // GROUP)
    if groups <= 2 * k:
        return jax.lax.top_k(x, k)
    x = jnp.pad(x, ((0, 0), (0, groups * GROUP - size)), constant_values=-jnp.inf)
    x = x.reshape(-1, groups, GROUP)
    # In ascending order, so that the second selection breaks ties by the lower index, too.
    best = jnp.sort(jax.lax.top_k(x.max(axis=-1), k)[1], axis=-1)
    among = jnp.take_along_axis(x, best[:, :, None], axis=1).reshape(-1, k * GROUP)
    values, at = jax.lax.top_k(among, k)
    return values, jnp.take_along_axis(best, at // GROUP, axis=-1) * GROUP + at % GROUP


def streamed_top_k(
    block_of: Callable[[jax.Array], jax.Array], rows: int, size: int, block: int, k: int
) -> tuple[jax.Array, jax.Array]:
    """As `top_k` of a (rows, size) array that never exists: block_of(first) gives its columns first..first +
    block, -inf beyond `size`. ValueError for k outside of 1..size.
    """
    if not 1 <= k <= size:
        raise ValueError(f"k={k} must be from 1 to the {size} entries of a row")

    def body(first: jax.Array, best: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        found, at = top_k(block_of(first), min(k, block))
        values = jnp.concatenate([best[0], found], axis=-1)
        ids = jnp.concatenate([best[1], at + first], axis=-1)
        values, at = jax.lax.top_k(values, k)
        return values, jnp.take_along_axis(ids, at, axis=-1)

    start = jnp.full((rows, k), -jnp.inf), jnp.zeros((rows, k), jnp.int32)
    blocks = -(-size // block)
    return jax.lax.fori_loop(0, blocks, lambda i, best: body((i * block).astype(jnp.int32), best), start)
