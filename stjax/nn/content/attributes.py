"""Fields of any kinds as one vector: the attributes of items and users, the context of events."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Attributes, Field, Schema
from stjax.nn.content.values import MultiEmbed, NumericEmbed, VectorEmbed, vocabulary_init


class AttributeEmbed(nn.Module):
    """Adds the embeddings of all fields of one role: a table for each vocabulary, a projection for each
    vector, one for all numbers together. Missing and unseen values have embeddings of their own.
    """

    features: int = 32

    @nn.compact
    def __call__(self, x: jax.Array, schema: Schema, role: str, values: Attributes) -> jax.Array:
        """x: (..., D), to which the fields of `role` are added. values: with the same leading dimensions."""

        def table(f: Field) -> nn.Embed:
            return nn.Embed(f.size, self.features, embedding_init=vocabulary_init, name=f"field_{f.name}")

        for f in schema.select(role, "categorical"):
            x = x + table(f)(values.categorical[f.name])
        if numeric := schema.select(role, "numeric"):
            numbers = jnp.stack([values.numeric[f.name] for f in numeric], axis=-1)
            x = x + NumericEmbed(self.features)(numbers)
        for f in schema.select(role, "vector"):
            x = x + VectorEmbed(self.features, name=f"field_{f.name}")(values.vector[f.name])
        for f in schema.select(role, "multi"):
            x = x + MultiEmbed(f.size, self.features, name=f"field_{f.name}")(values.multi[f.name])
        return x
