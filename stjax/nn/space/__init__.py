"""Space: coordinates, map cells, movement, home."""

from stjax.nn.space.cells import CellEmbed
from stjax.nn.space.home import HomeEmbed
from stjax.nn.space.movement import MovementEmbed
from stjax.nn.space.place import (
    PlaceEmbed,
    SpaceEmbed,
    event_place,
    last_known,
    last_known_at,
    located,
)

__all__ = [
    "CellEmbed",
    "HomeEmbed",
    "MovementEmbed",
    "PlaceEmbed",
    "SpaceEmbed",
    "event_place",
    "last_known",
    "last_known_at",
    "located",
]
