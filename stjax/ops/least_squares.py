"""Weighted ridge regressions of many rows on one table: the half step of alternating least squares.

Shapes: `N` rows, `L` observations a row, `V` items, `K` factors. All is computed in float32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def gram(table: jax.Array) -> jax.Array:
    """table' table: (V, K) -> (K, K)."""
    return jnp.einsum("vk,vm->km", table, table, precision=jax.lax.Precision.HIGHEST)


def solve(
    table: jax.Array, squared: jax.Array, item: jax.Array, extra: jax.Array, regularisation: jax.Array | float
) -> jax.Array:
    """The factors x of each row that minimise, over its observed items and all others, (N, K):

        sum_observed (1 + c_l) (1 - x'y_l)^2 + sum_others (x'y_v)^2 + regularisation |x|^2

    table: (V, K), y. squared: its `gram`, so that no row costs O(V). item: (N, L) ids, each at most once a
    row. extra: (N, L), c, 0 where there is no observation. Exact, by Cholesky, one K x K system a row:
    (Y'Y + Y'CY + regularisation I) x = Y'(1 + C). A row without observations gives zeros.
    Source: Hu, Koren and Volinsky, ICDM 2008.
    """
    y = table[item]
    system = squared + jnp.einsum("nlk,nlm->nkm", y * extra[..., None], y)
    system += regularisation * jnp.eye(table.shape[1], dtype=table.dtype)
    right = jnp.einsum("nlk,nl->nk", y, jnp.where(extra > 0, 1.0 + extra, 0.0))
    factor = jax.lax.linalg.cholesky(system, symmetrize_input=False)
    x = jax.lax.linalg.triangular_solve(factor, right[..., None], left_side=True, lower=True)
    x = jax.lax.linalg.triangular_solve(factor, x, left_side=True, lower=True, transpose_a=True)
    return x[..., 0]
