"""Matrix factorization for implicit feedback by exact alternating least squares (iALS)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from stjax.baselines.checks import check
from stjax.baselines.counts import training_counts
from stjax.baselines.padded import Chunk, chunks, distinct_items
from stjax.baselines.progress import counted
from stjax.baselines.scorer import Scorer
from stjax.data.dataset import Dataset
from stjax.events import Array, Query
from stjax.ops import least_squares

AT_ONCE = 32  # rows of a request that are solved together


@dataclass(frozen=True)
class IALS:
    """User and item factors of the counts of the training part (Hu, Koren and Volinsky, ICDM 2008).

    Minimises, over all users u and items v, with n_uv the user's training events with the item,

        sum_uv (1 + alpha n_uv) (p_uv - x_u'y_v)^2 + regularisation (sum_u |x_u|^2 + sum_v |y_v|^2)

    with p_uv = 1 where n_uv > 0, else 0. At a request the user's factors are solved anew from all events
    that may be read, so a user or an event that training has not seen counts at once.

    factors: K. iterations: of both sides. seed: of the first item factors.
    ConfigError for factors or iterations below 1, alpha or regularisation not above 0.
    """

    factors: int = 64
    regularisation: float = 10.0
    alpha: float = 1.0
    iterations: int = 15
    seed: int = 0

    known = ()

    def __post_init__(self) -> None:
        check(self, counts=("factors", "iterations"), positive=("alpha", "regularisation"))

    def fit(self, dataset: Dataset) -> Scorer:
        """Solve for the item factors; those of users are solved at each request."""
        pairs = training_counts(dataset)
        y = self.factorise(*pairs.coordinates, (dataset.store.users, pairs.width))[1]
        return self.scorer(dataset, y)

    def scorer(self, dataset: Dataset, items: Array) -> Scorer:
        """Scores by item factors (V, K) of whatever origin."""
        y = jnp.asarray(items, jnp.float32)
        table = jax.block_until_ready(_table(y, self.regularisation))
        transposed = np.asarray(y).T
        alpha = jnp.float32(self.alpha)

        def score(query: Query, rows: np.ndarray) -> np.ndarray:
            del query
            own = distinct_items(dataset, rows)
            x = np.zeros((len(rows) + 1, self.factors), np.float32)  # the last row takes what fills up
            for part in chunks(*own.coordinates, len(rows), self.factors, AT_ONCE):
                for chunk in zip(*part, strict=True):  # one at a time: their number compiles nothing
                    chunk = Chunk(*chunk)
                    x[chunk.row] = _solve(table, chunk, alpha)
            return x[:-1] @ transposed

        return Scorer("iALS", (), score)

    def factorise(
        self, user: np.ndarray, item: np.ndarray, count: np.ndarray, shape: tuple[int, int]
    ) -> tuple[jax.Array, jax.Array]:
        """Factors of users (U, K) and items (V, K) of a matrix of counts in coordinates, each pair once.

        A user or an item without counts has zeros.
        """
        scale = 1.0 / math.sqrt(self.factors)
        y = scale * jax.random.normal(jax.random.key(self.seed), (shape[1], self.factors))
        x = jnp.zeros((shape[0], self.factors))
        users = jax.device_put(chunks(user, item, count, shape[0], self.factors))
        items = jax.device_put(chunks(item, user, count, shape[1], self.factors))
        for _ in counted("iALS", self.iterations, "iterations"):
            x = self._half(y, users, shape[0])
            y = self._half(x, items, shape[1])
        return x, y

    def _half(self, factors: jax.Array, parts: list[Chunk], rows: int) -> jax.Array:
        """Factors (rows, K) of one side, given those of the other."""
        # One program at a time: with several in flight, or all in one program, jaxlib 0.10.2 hung on 2 CPU
        # cores (presumably LAPACK's batched calls wait for threads which all wait).
        table = jax.block_until_ready(_table(factors, self.regularisation))
        out = jnp.zeros((rows, self.factors))
        for part in parts:
            out = jax.block_until_ready(_solve_into(out, table, part, jnp.float32(self.alpha)))
        return out


_table = jax.jit(least_squares.Table.of)


@jax.jit
def _solve(table: least_squares.Table, chunk: Chunk, alpha: jax.Array) -> jax.Array:
    return least_squares.solve(table, chunk.item, alpha * chunk.times)


@partial(jax.jit, donate_argnums=0)
def _solve_into(out: jax.Array, table: least_squares.Table, chunks: Chunk, alpha: jax.Array) -> jax.Array:
    found = jax.lax.map(lambda chunk: _solve(table, chunk, alpha), chunks)
    return out.at[chunks.row].set(found, mode="drop")
