"""Content: items with their attributes, the context fields of events, and users."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import FIRST, Catalogue, Events, Field
from stjax.nn.base import Encoder
from stjax.nn.space import PlaceEmbed


def vocabulary_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Small random rows, but zeros for the ids below FIRST: where training never meets a missing or an
    unseen value, its row stays neutral instead of random."""
    rows = nn.initializers.normal(0.02)(key, shape, dtype)
    return jnp.where(jnp.arange(shape[0])[:, None] < FIRST, jnp.zeros_like(rows), rows)


class ItemEmbed(nn.Module):
    """Items as vectors: a row of the table, plus embeddings of the catalogue's item fields and place.

    The same vectors represent the items of the history and, tied, the candidates of the answer, so that
    an item with few events leans on its category and place.
    """

    features: int = 64
    attributes: bool = True
    place: bool = True

    @nn.compact
    def __call__(self, catalogue: Catalogue) -> jax.Array:
        """The vectors of all items: (V, D)."""
        schema = catalogue.schema
        table = self.param("table", vocabulary_init, (schema.items, self.features))
        if self.attributes:
            for f in schema.select("item", "categorical"):
                ids = catalogue.items.categorical[f.name]
                table = table + nn.Embed(
                    f.size, self.features, embedding_init=vocabulary_init, name=f"field_{f.name}"
                )(ids)
            numeric = schema.select("item", "numeric")
            if numeric:
                values = [catalogue.items.numeric[f.name] for f in numeric]
                table = table + NumericEmbed(self.features)(jnp.stack(values, axis=-1))
        for f in schema.select("item", "vector"):
            table = table + VectorEmbed(self.features, name=f"field_{f.name}")(catalogue.items.vector[f.name])
        if self.place and schema.place:
            # A small start: the item's own row and category speak first.
            table = table + 0.1 * PlaceEmbed(self.features)(catalogue.place)
        return table


class NumericEmbed(nn.Module):
    """Numbers (..., N), NaN where missing, to (..., D): signed log scale, and a flag for missing."""

    features: int = 32

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        missing = jnp.isnan(values)
        values = jnp.where(missing, 0.0, values)
        scaled = jnp.sign(values) * jnp.log1p(jnp.abs(values))
        return nn.Dense(self.features)(jnp.concatenate([scaled, missing.astype(scaled.dtype)], axis=-1))


class VectorEmbed(nn.Module):
    """Vectors (..., N) to (..., D); a missing vector (NaN) is learned."""

    features: int = 32

    @nn.compact
    def __call__(self, vector: jax.Array) -> jax.Array:
        known = jnp.isfinite(vector).all(axis=-1, keepdims=True)
        missing = self.param("missing", nn.initializers.normal(0.02), (self.features,))
        return jnp.where(known, nn.Dense(self.features)(jnp.where(known, vector, 0.0)), missing)


class ContextEmbed(Encoder):
    """The event's own fields: scene, device, weather, rating. Missing and unseen values have ids."""

    features: int = 32

    @nn.compact
    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        schema = catalogue.schema
        x = jnp.zeros((*events.item.shape, self.features))
        for f in schema.select("event", "categorical"):
            x = x + nn.Embed(f.size, self.features, embedding_init=vocabulary_init, name=f"field_{f.name}")(
                events.categorical[f.name]
            )
        numeric: tuple[Field, ...] = schema.select("event", "numeric")
        if numeric:
            x = x + NumericEmbed(self.features)(jnp.stack([events.numeric[f.name] for f in numeric], axis=-1))
        for f in schema.select("event", "vector"):
            x = x + VectorEmbed(self.features, name=f"field_{f.name}")(events.vector[f.name])
        return x


class UserEmbed(Encoder):
    """Who: one row a user. A user that training has not seen has the row UNSEEN."""

    features: int = 32

    @nn.compact
    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        users = catalogue.schema.users
        return nn.Embed(users, self.features, embedding_init=vocabulary_init, name="users")(events.user)
