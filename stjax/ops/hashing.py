"""Rows of tables of a fixed size for ids without end: by hash functions, and by quotient and remainder."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def mix(x: Any, before: Any, between: Any) -> Any:
    """A hash of uint32 numbers, each bit of which changes about half of the result's; one to one.

    The mixer is lowbias32 (Wellons, Prospecting for Hash Functions, 2018). before, between: two uint32 words
    of a key. The second enters between the rounds, so that no two keys give the same numbers in another
    order. x: a JAX array, or a NumPy array with a dimension (whose products wrap around). Not for
    cryptography.
    """
    x = x ^ before
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = x + between
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def hashed(ids: jax.Array, function: int = 0, seed: int = 0) -> jax.Array:
    """The hash of int32 ids by one of many functions: (...) to (...) uint32.

    It is the same on all devices and in all versions: what a table has learned depends on it.
    function, seed: below 2^31 and 2^32; any two functions of any two seeds are as if drawn independently.
    """
    words = np.asarray([2 * function, 2 * function + 1], np.uint32)
    before, between = mix(words, np.uint32(seed), np.uint32(0xFFFFFFFF - seed))
    return mix(ids.astype(jnp.uint32), before, between)


def hashed_rows(ids: jax.Array, rows: int, functions: int = 2, seed: int = 0) -> jax.Array:
    """The rows of a table that stand for each id by K hash functions: (...) int32 to (..., K) in [0, rows).

    Two ids share a row of a function with probability 1 / rows, and all K with rows^-K.
    Raises ValueError for less than one row or function, or more rows than int32 counts.
    Source: Svenstrup et al., Hash Embeddings for Efficient Word Representations, NeurIPS 2017.
    """
    _check_rows(rows)
    if functions < 1:
        raise ValueError(f"functions={functions} must be at least 1: each gives an id one row")
    each = [hashed(ids, function, seed) % np.uint32(rows) for function in range(functions)]
    return jnp.stack(each, axis=-1).astype(jnp.int32)


def quotient_remainder(ids: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """A row in each of two tables for each id: (...) int32 to twice (...), in [0, rows).

    The remainder by `rows`, and the quotient, which begins anew at rows^2: below it no two ids have the same
    pair. Raises ValueError for less than one row, or more than int32 counts.
    Source: Shi et al., Compositional Embeddings Using Complementary Partitions, KDD 2020.
    """
    _check_rows(rows)
    return (ids // rows) % rows, ids % rows


def _check_rows(rows: int) -> None:
    if not 1 <= rows < 2**31:
        raise ValueError(f"rows={rows} of a table must be at least 1 and below 2^31")
