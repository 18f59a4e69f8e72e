"""Cells of the map that hold the place of an event, from coarse to fine."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Catalogue, Events
from stjax.nn.base import Encoder
from stjax.nn.checks import check_counts
from stjax.nn.space.place import event_place
from stjax.ops import cells, geo


class CellEmbed(Encoder):
    """The sum of an embedding of the event's map cell at each level; an unknown place is learned.

    Near places share the rows of their coarse cells, and a place that training has not seen has those of its
    neighbourhood. Cells are found and hashed inside the model, so there is no vocabulary of cells to keep.

    levels: of the Web-Mercator quadtree, 0 (the world) to 16 (600 m at the equator); 12 is 10 km.
    buckets: rows of the table of each level; cells that fall into one bucket share its row.
    """

    levels: tuple[int, ...] = (6, 9, 12, 15)
    buckets: int = 4_096

    def setup(self) -> None:
        super().setup()
        check_counts(self, "buckets")

    @nn.compact
    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        place = event_place(events, catalogue)
        small = nn.initializers.normal(0.02)
        table = self.param("cells", small, (len(self.levels) * self.buckets, self.features))
        missing = self.param("missing", small, (self.features,))
        rows = cells.hashed(geo.fill(place), self.levels, self.buckets)
        rows = rows + jnp.arange(len(self.levels), dtype=jnp.int32) * self.buckets
        x: jax.Array = table[rows].sum(axis=-2)
        return jnp.where(geo.known(place)[..., None], x, missing)
