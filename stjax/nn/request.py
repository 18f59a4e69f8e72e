"""Now and here: what the query knows of the moment of the request, joined with the user's interest."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Catalogue, Query
from stjax.nn.content import vocabulary_init
from stjax.nn.layers import Dense
from stjax.nn.past import Past
from stjax.nn.precision import compute
from stjax.nn.space import SpaceEmbed
from stjax.nn.time import TimeEmbed


class RequestEmbed(nn.Module):
    """The request as a vector: interest, changed by the time, place and context of the query.

    Only the parts that the query holds are read. With none of them, the interest passes unchanged.
    """

    features: int = 32

    @nn.compact
    def __call__(self, h: jax.Array, query: Query, last: Past, catalogue: Catalogue) -> jax.Array:
        """h: (..., D) interest. last: the last event read, (...); invalid for a user without events."""
        parts = []
        if query.time is not None and query.utc_offset is not None:
            embed = TimeEmbed(self.features, name="time").embed
            parts.append(embed(query.time, query.utc_offset, last.time, last.valid))
        if query.place is not None:
            parts.append(SpaceEmbed(self.features, name="space").embed(query.place, last.place))
        for name in sorted(query.categorical):
            size = catalogue.schema[name].size
            embed = nn.Embed(size, self.features, embedding_init=vocabulary_init, name=f"field_{name}")
            parts.append(embed(query.categorical[name]))
        if not parts:
            return h
        x = Dense(2 * h.shape[-1], name="up")(jnp.concatenate([h, *map(compute, parts)], axis=-1))
        return h + Dense(h.shape[-1], name="down")(nn.gelu(x))
