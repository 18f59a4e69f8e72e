"""Now and here: what the query knows of the moment of the request, joined with the user's interest."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Catalogue, Query
from stjax.nn.space import SpaceEmbed
from stjax.nn.time import TimeEmbed


class RequestEmbed(nn.Module):
    """The request as a vector: interest, changed by the time, place and context of the query.

    Only the parts that the query holds are read. With none of them, the interest passes unchanged.
    """

    features: int = 32

    @nn.compact
    def __call__(
        self, h: jax.Array, query: Query, time: jax.Array, place: jax.Array, catalogue: Catalogue
    ) -> jax.Array:
        """h: (..., D) interest; time, place: of the last event read (place NaN where unknown)."""
        parts = []
        if query.time is not None and query.utc_offset is not None:
            always = jnp.ones_like(query.time, bool)
            embed = TimeEmbed(self.features, name="time").embed
            parts.append(embed(query.time, query.utc_offset, time, always))
        if query.place is not None:
            parts.append(SpaceEmbed(self.features, name="space").embed(query.place, place))
        for name in sorted(query.categorical):
            size = catalogue.schema[name].size
            parts.append(nn.Embed(size, self.features, name=name)(query.categorical[name]))
        if not parts:
            return h
        x = nn.Dense(2 * h.shape[-1], name="up")(jnp.concatenate([h, *parts], axis=-1))
        return h + nn.Dense(h.shape[-1], name="down")(nn.gelu(x))
