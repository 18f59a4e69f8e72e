"""Users: who asks, by name and by what is known of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Catalogue, Events
from stjax.nn.base import Encoder
from stjax.nn.content.attributes import AttributeEmbed
from stjax.nn.content.compression import CompressedEmbed, Compression
from stjax.nn.content.values import vocabulary_init


class UserEmbed(Encoder):
    """Who: a row of the table, plus embeddings of the catalogue's user fields.

    A user that training has not seen has the row UNSEEN and no known fields. A sequence is one user's:
    its first event says whose, and one vector a sequence is computed.

    ids: whether each user has a row. attributes: whether the user fields are read.
    compression: "none", a row for each user; or the rows that users share (`CompressedEmbed`): "hashed" or
    "quotient", in tables of `rows` rows; functions: of "hashed". Raises ValueError where it is of no ids.
    """

    features: int = 32
    attributes: bool = True
    ids: bool = True
    compression: Compression = "none"
    rows: int = 16_384
    functions: int = 2

    @nn.compact
    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        schema, user = catalogue.schema, events.user
        if user.ndim > 1:
            user = user[..., :1]
        x = jnp.zeros((*user.shape, self.features))
        if self.ids:
            x = x + self._ids(user, catalogue)
        elif self.compression != "none":
            raise ValueError(f"compression={self.compression!r} is of user ids: set ids=True, or 'none'")
        if self.attributes:
            own = jax.tree.map(lambda values: jnp.asarray(values)[user], catalogue.users)
            x = AttributeEmbed(self.features)(x, schema, "user", own)
        return jnp.broadcast_to(x, (*events.user.shape, self.features))

    def _ids(self, user: jax.Array, catalogue: Catalogue) -> jax.Array:
        schema, ids = catalogue.schema, catalogue.user_ids
        if self.compression == "none":
            table = nn.Embed(schema.user_rows, self.features, embedding_init=vocabulary_init, name="users")
            return table(user)
        shared = CompressedEmbed(self.features, self.compression, self.rows, self.functions, name="users")
        return shared(user, schema.users) if ids is None else shared(ids[user], 0)
