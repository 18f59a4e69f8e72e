"""The past as a head reads it, and the moment at which something is asked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from stjax.ops import sequence


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Past:
    """What the pointer keeps of each event, oldest first: (B, M) arrays; keys are (B, M, D)."""

    item: Any
    time: Any
    utc_offset: Any
    place: Any
    valid: Any
    key: Any

    def shift(self, by: int) -> Past:
        """The events `by` positions earlier; where there are none invalid, and of unknown place."""
        shifted = jax.tree.map(lambda x: sequence.shift(x, by=by), self)
        return dataclasses.replace(shifted, place=sequence.shift(self.place, jnp.nan, by=by))

    def at(self, position: jax.Array) -> Past:
        """One event a row: position (B,) to (B, 1) arrays."""
        rows = jnp.arange(position.shape[0])
        return jax.tree.map(lambda x: x[rows, position][:, None], self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moment:
    """The moments at which something is asked, (B, Q) each: here and now, and where in the past we are.

    time, utc_offset, place: of the request where the query knows them, else of the last event.
    position: index in the past of the last event read. item, item_before: the last two items.
    """

    time: Any
    utc_offset: Any
    place: Any
    position: Any
    item: Any
    item_before: Any
