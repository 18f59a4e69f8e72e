"""The k largest of each row, also of rows whose columns are shared by several devices."""

from __future__ import annotations

import jax


def top_k(scores: jax.Array, k: int, axis: str | None = None) -> tuple[jax.Array, jax.Array]:
    """The k largest of each row and their columns, the largest first, of equal ones the first: (B, k) each.

    scores: (B, V). k: at most V; or at most all columns together, where they are shared.
    axis: name of a mesh axis, inside of `jax.shard_map`, whose devices hold (B, V) each, consecutive columns
    of one array. Each takes the k largest of its own, and those alone are exchanged: n * k numbers a row for
    n devices, whatever V. Every device then has the same answer; columns are those of the whole array.
    """
    columns = scores.shape[1]
    own, index = jax.lax.top_k(scores, min(k, columns))
    if axis is None:
        return own, index
    index = index + jax.lax.axis_index(axis) * columns
    own, index = (jax.lax.all_gather(x, axis, axis=1, tiled=True) for x in (own, index))
    # Devices come in the order of their columns, so that here, too, the first of equal ones is found first.
    best, place = jax.lax.top_k(own, k)
    return best, jax.numpy.take_along_axis(index, place, axis=1)
