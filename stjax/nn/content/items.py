"""Items: what the model knows of each before anyone acts on it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import UNSEEN, Catalogue
from stjax.nn.checks import check_counts
from stjax.nn.content.attributes import AttributeEmbed
from stjax.nn.content.compression import CompressedEmbed, Compression
from stjax.nn.content.values import vocabulary_init
from stjax.nn.space import PlaceEmbed


class ItemEmbed(nn.Module):
    """Items as vectors: a row of the table, plus embeddings of the catalogue's item fields and place.

    The same vectors represent the items of the history and, tied, the candidates of the answer, so that
    an item with few events leans on its category and place. One that training has not seen (rows beyond
    schema.items) has the row UNSEEN of the table, and so only its fields and place.

    attributes: whether the item fields are read. place: whether the place is.
    compression: "none", a row for each item; or the rows that items share (`CompressedEmbed`): "hashed" or
    "quotient", in tables of `rows` rows; functions: of "hashed". The vectors of all items are then made from
    them at each call, (V, D), by as many gathers as an item has rows, and scattered back for the gradient.
    """

    features: int = 64
    attributes: bool = True
    place: bool = True
    compression: Compression = "none"
    rows: int = 16_384
    functions: int = 2

    def setup(self) -> None:
        check_counts(self, "features")

    @nn.compact
    def __call__(self, catalogue: Catalogue, own: bool = True) -> jax.Array:
        """The vectors of all items: (V, D). own: False for what they would be without a row of their own."""
        schema = catalogue.schema
        if self.compression == "none":
            table = self.param("table", vocabulary_init, (schema.item_rows, self.features))[: schema.items]
        else:
            shared = CompressedEmbed(self.features, self.compression, self.rows, self.functions)
            nn.share_scope(self, shared)
            ids = catalogue.item_ids
            table = shared(jnp.arange(schema.items), schema.items) if ids is None else shared(ids, 0)
        if not own:
            table = jnp.broadcast_to(table[UNSEEN], table.shape)
        if more := catalogue.place.shape[0] - schema.items:
            unseen = jnp.broadcast_to(table[UNSEEN], (more, self.features))
            table = jnp.concatenate([table, unseen])
        if self.attributes:
            embed = AttributeEmbed(self.features)
            nn.share_scope(self, embed)  # the fields' parameters lie beside the table
            table = embed(table, schema, "item", catalogue.items)
        if self.place and schema.place:
            # A small start: the item's own row and category speak first.
            table = table + 0.1 * PlaceEmbed(self.features)(catalogue.place)
        return table
