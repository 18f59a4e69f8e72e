"""Ids drawn from a known distribution, one from each of n equal strata of its cumulative sum.

A stratum each costs the same as n independent draws, gives every id the same expected count, n q(v), and
never more variance; n uniform draws of n ids are each id once (Cochran, Sampling Techniques, 1977, ch. 5).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Drawn = tuple[jax.Array, jax.Array]


def uniform(key: jax.Array, n: int, items: int, first: int = 0) -> Drawn:
    """n of the ids first..items - 1, equally likely: ids (n,) int32, ascending, and log(n q), (n,) float32.

    Raises ValueError where there is nothing to draw, or nothing to draw from.
    """
    candidates = items - first
    if n < 1 or candidates < 1:
        raise ValueError(f"cannot draw {n} of {candidates} items; both must be at least 1")
    # A float32 does not hold ids beyond 2^24: where the strata start is computed exactly, outside.
    start, rest = np.divmod(np.arange(n, dtype=np.int64) * candidates, n)
    u = jax.random.uniform(key, (n,)) * np.float32(candidates / n) + (rest / n).astype(np.float32)
    ids = jnp.minimum(start.astype(np.int32) + jnp.floor(u).astype(jnp.int32), candidates - 1)
    return ids + first, jnp.full(n, np.log(n / candidates), jnp.float32)


def mixed(key: jax.Array, n: int, items: int, own: jax.Array, share: float, first: int = 0) -> Drawn:
    """n ids: round(share n) from the entries of `own` and the others uniformly from first..items - 1.

    own: ids (N,), of which those below `first` are not drawn. Returns ids (n,) int32 and the logarithm of how
    often each is expected among the n; inf where an id counts nothing, since `own` holds none to draw from.
    The cost does not depend on `items`.
    Mixed negative sampling (Yang et al., WWW 2020); expected over both parts, the balance heuristic of
    multiple importance sampling (Veach and Guibas, SIGGRAPH 1995).
    """
    often = min(n - 1, round(share * n))
    even_key, own_key = jax.random.split(key)
    even, log_even = uniform(even_key, n - often, items, first)
    if often == 0:
        return even, log_even
    ordered = jnp.sort(own)
    least = jnp.searchsorted(ordered, jnp.asarray(first, ordered.dtype)).astype(jnp.int32)
    count = ordered.shape[0] - least
    size = count.astype(jnp.float32)
    point = jnp.arange(often, dtype=jnp.float32) + jax.random.uniform(own_key, (often,))
    at = jnp.floor(point * (size / often)).astype(jnp.int32)
    at = least + jnp.minimum(at, jnp.maximum(count - 1, 0))
    taken = ordered[jnp.minimum(at, ordered.shape[0] - 1)]
    ids = jnp.concatenate([even, jnp.where(count > 0, taken, first).astype(jnp.int32)])
    met = jnp.searchsorted(ordered, ids, side="right") - jnp.searchsorted(ordered, ids)
    expected = jnp.exp(log_even[0]) + often * met.astype(jnp.float32) / jnp.maximum(size, 1.0)
    counts = (jnp.arange(n) < n - often) | (count > 0)
    return ids, jnp.where(counts, jnp.log(expected), jnp.inf)


def weighted(key: jax.Array, n: int, weights: jax.Array) -> Drawn:
    """n ids, each as likely as its weight says: ids (n,) int32, ascending, and log(n q) (n,) float32.

    weights: (V,), at least 0, one of them above. An id of weight 0 is never drawn. q is what the float32
    cumulative sum makes of the weights, so that it is the distribution drawn from, rounding included.
    """
    # Parallel sums may go down by a rounding error.
    cumulative = jax.lax.cummax(jnp.cumsum(weights.astype(jnp.float32)))
    total = cumulative[-1]
    point = (jnp.arange(n, dtype=jnp.float32) + jax.random.uniform(key, (n,))) * (total / n)
    point = jnp.minimum(point, jnp.nextafter(total, jnp.float32(0)))
    ids = jnp.searchsorted(cumulative, point, side="right")
    q = cumulative[ids] - jnp.where(ids > 0, cumulative[ids - 1], 0.0)
    return ids, jnp.log(q) + jnp.log(n / total)


def popularity(counts: jax.Array, power: float = 0.75, first: int = 0) -> jax.Array:
    """Weights counts^power of the ids from `first` on, 0 below: (V,) float32.

    power: 0 makes all equally likely, 1 as likely as they are frequent; between them, 0.75 is customary
    (Mikolov et al., NeurIPS 2013).
    """
    weights = counts.astype(jnp.float32) ** power
    return jnp.where(jnp.arange(counts.shape[0]) >= first, weights, 0.0)
