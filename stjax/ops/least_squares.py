"""Weighted ridge regressions of many rows on one table: the half step of alternating least squares.

Shapes: `N` rows, `L` observations a row, `V` items, `K` factors. All is computed in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax.linalg import cholesky, triangular_solve


class Table(NamedTuple):
    """Factors with what all regressions on them have in common, so that no row costs O(V).

    factors: (V, K), y. system: (K, K), A = Y'Y + regularisation I. solved: (V, K), A^-1 y.
    """

    factors: jax.Array
    system: jax.Array
    solved: jax.Array

    @classmethod
    def of(cls, factors: jax.Array, regularisation: jax.Array | float) -> Table:
        """regularisation: above 0."""
        gram = jnp.einsum("vk,vm->km", factors, factors, precision=jax.lax.Precision.HIGHEST)
        system = gram + regularisation * jnp.eye(factors.shape[1], dtype=factors.dtype)
        return cls(factors, system, jax.scipy.linalg.cho_solve((cholesky(system), True), factors.T).T)


def solve(table: Table, item: jax.Array, extra: jax.Array) -> jax.Array:
    """The factors x of each row that minimise, over its observed items and all others, (N, K):

        sum_observed (1 + c_l) (1 - x'y_l)^2 + sum_others (x'y_v)^2 + regularisation |x|^2

    item: (N, L) ids, each at most once a row. extra: (N, L), c, 0 where there is no observation. Exact, by
    Cholesky. A row without observations gives zeros. Of the two forms that which is solved in fewer
    operations is chosen: one system of K x K a row,

        (A + Y'CY) x = Y'(1 + C) 1,

    or, for at most K / 2 observations, one of L x L by the identity of Woodbury (1950): with D = sqrt(C),

        x = A^-1 Y' (r - D (I + D Y A^-1 Y' D)^-1 D Y A^-1 Y' r),    r = (1 + C) 1.

    Source: Hu, Koren and Volinsky, ICDM 2008.
    """
    root, right = jnp.sqrt(extra), jnp.where(extra > 0, 1.0 + extra, 0.0)
    if 2 * item.shape[1] <= table.factors.shape[1]:
        return _by_observations(table, item, root, right)
    return _by_factors(table, item, root, right)


def _by_factors(table: Table, item: jax.Array, root: jax.Array, right: jax.Array) -> jax.Array:
    y = table.factors[item]
    weighted = y * root[..., None]
    system = table.system + jnp.einsum("nlk,nlm->nkm", weighted, weighted)
    return _solve(system, jnp.einsum("nlk,nl->nk", y, right))


def _by_observations(table: Table, item: jax.Array, root: jax.Array, right: jax.Array) -> jax.Array:
    y, solved = table.factors[item], table.solved[item]
    products = jnp.einsum("nlk,nmk->nlm", y, solved)
    system = jnp.eye(item.shape[1]) + root[:, :, None] * products * root[:, None, :]
    found = _solve(system, root * jnp.einsum("nlm,nm->nl", products, right))
    return jnp.einsum("nlk,nl->nk", solved, right - root * found)


def _solve(system: jax.Array, right: jax.Array) -> jax.Array:
    """Symmetric positive definite systems (N, S, S) of right sides (N, S)."""
    factor = cholesky(system, symmetrize_input=False)
    x = triangular_solve(factor, right[..., None], left_side=True, lower=True)
    return triangular_solve(factor, x, left_side=True, lower=True, transpose_a=True)[..., 0]
