"""Content: items with their attributes, the context fields of events, and users."""

from stjax.nn.content.attributes import AttributeEmbed
from stjax.nn.content.compression import CompressedEmbed
from stjax.nn.content.context import ContextEmbed
from stjax.nn.content.items import ItemEmbed
from stjax.nn.content.profile import ProfileEmbed
from stjax.nn.content.users import UserEmbed
from stjax.nn.content.values import MultiEmbed, NumericEmbed, VectorEmbed, vocabulary_init

__all__ = [
    "AttributeEmbed",
    "CompressedEmbed",
    "ContextEmbed",
    "ItemEmbed",
    "MultiEmbed",
    "NumericEmbed",
    "ProfileEmbed",
    "UserEmbed",
    "VectorEmbed",
    "vocabulary_init",
]
