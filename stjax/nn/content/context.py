"""The context of events: scene, device, weather, rating."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Attributes, Catalogue, Events
from stjax.nn.base import Encoder
from stjax.nn.content.attributes import AttributeEmbed


class ContextEmbed(Encoder):
    """The event's own fields: scene, device, weather, rating. Missing and unseen values have ids."""

    features: int = 32

    @nn.compact
    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        embed = AttributeEmbed(self.features)
        nn.share_scope(self, embed)
        values = Attributes(categorical=events.categorical, numeric=events.numeric, vector=events.vector)
        x = jnp.zeros((*events.item.shape, self.features))
        return embed(x, catalogue.schema, "event", values)
