"""Users: who asks, by name and by what is known of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Catalogue, Events
from stjax.nn.base import Encoder
from stjax.nn.content.attributes import AttributeEmbed
from stjax.nn.content.values import vocabulary_init


class UserEmbed(Encoder):
    """Who: a row of the table, plus embeddings of the catalogue's user fields.

    A user that training has not seen has the row UNSEEN and no known fields. A sequence is one user's:
    its first event says whose, and one vector a sequence is computed.

    ids: whether each user has a row. attributes: whether the user fields are read.
    """

    features: int = 32
    attributes: bool = True
    ids: bool = True

    @nn.compact
    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        schema, user = catalogue.schema, events.user
        if user.ndim > 1:
            user = user[..., :1]
        x = jnp.zeros((*user.shape, self.features))
        if self.ids:
            table = nn.Embed(schema.user_rows, self.features, embedding_init=vocabulary_init, name="users")
            x = x + table(user)
        if self.attributes:
            own = jax.tree.map(lambda values: jnp.asarray(values)[user], catalogue.users)
            x = AttributeEmbed(self.features)(x, schema, "user", own)
        return jnp.broadcast_to(x, (*events.user.shape, self.features))
