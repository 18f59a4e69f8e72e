"""Ids as vectors from tables of a fixed size: for items and users without end."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import FIRST
from stjax.nn.checks import check_counts
from stjax.ops import hashing

Compression = Literal["none", "hashed", "quotient"]


class CompressedEmbed(nn.Module):
    """Vectors of ids that share the rows of small tables, so that memory does not grow with their number.

        hashed:    x_i = sum_k E[h_k(i)] / sqrt(K)           one table, K hash functions
        quotient:  x_i = Q[i div rows] * R[i mod rows]       two tables, elementwise product

    Hash functions collide: two ids have the same vector with probability rows^-K. A pair of quotient and
    remainder belongs to one id. PADDING and UNSEEN share nothing with others: they have rows of their own,
    which begin at zero, since a new id's hash would give it a vector that training made of other ids.

    rows: of each table; devices that share them (`Sharding.rules`) must divide it. functions: K.
    Raises ValueError for less than one of either, for another compression, and where the ids are more than
    the rows^2 pairs of "quotient".
    Sources: Svenstrup et al., NeurIPS 2017, here with equal weights instead of learned ones, which would be
    a number for each id and function; Shi et al., KDD 2020.
    """

    features: int = 32
    compression: Compression = "hashed"
    rows: int = 16_384
    functions: int = 2

    def setup(self) -> None:
        check_counts(self, "features", "rows", "functions")

    @nn.compact
    def __call__(self, ids: jax.Array, size: int) -> jax.Array:
        """ids: (...) int32, to (..., D). size: all are below it; 0: not known, and nothing is refused."""
        if self.compression == "hashed":
            x = self._hashed(ids)
        elif self.compression == "quotient":
            x = self._quotient(ids, size)
        else:
            raise ValueError(f"compression={self.compression!r} must be one of none, hashed, quotient")
        special = self._table("special", FIRST, nn.initializers.zeros).embedding
        for k in range(FIRST):  # no gather, whose gradient would add up all ids in two rows
            x = jnp.where((ids == k)[..., None], special[k], x)
        return x

    def _hashed(self, ids: jax.Array) -> jax.Array:
        rows = hashing.hashed_rows(ids, self.rows, self.functions)
        table = self._table("hashed", self.rows, nn.initializers.normal(0.02))
        x = table(rows[..., 0])
        for k in range(1, self.functions):  # one at a time: never (..., K, D)
            x = x + table(rows[..., k])
        return x * self.functions**-0.5

    def _quotient(self, ids: jax.Array, size: int) -> jax.Array:
        quotient, remainder = hashing.quotient_remainder(ids, self.rows)
        if size > self.rows**2:
            raise ValueError(
                f"rows={self.rows} give {self.rows**2} pairs of quotient and remainder to {size} ids:"
                f" set rows to at least {math.isqrt(size - 1) + 1}"
            )
        # A start at 1 for quotients would make all ids of one remainder the same.
        rows = self._table("quotient", self.rows, nn.initializers.normal(1.0))(quotient)
        return rows * self._table("remainder", self.rows, nn.initializers.normal(0.02))(remainder)

    def _table(self, name: str, rows: int, init: nn.initializers.Initializer) -> nn.Embed:
        return nn.Embed(rows, self.features, embedding_init=init, name=name)
