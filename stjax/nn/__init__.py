"""Linen modules: thin shells over `stjax.ops` that own parameters."""

from stjax.nn.base import Encoder, Fusion, Interest
from stjax.nn.content import ContextEmbed, ItemEmbed, UserEmbed
from stjax.nn.fusion import ConcatFusion, GatedFusion
from stjax.nn.heads import Retrieval
from stjax.nn.interest import GRU, SelfAttention
from stjax.nn.pointer import Pointer
from stjax.nn.recommender import Recommender, UserState
from stjax.nn.space import PlaceEmbed, SpaceEmbed
from stjax.nn.time import TimeEmbed

__all__ = [
    "GRU",
    "ConcatFusion",
    "ContextEmbed",
    "Encoder",
    "Fusion",
    "GatedFusion",
    "Interest",
    "ItemEmbed",
    "PlaceEmbed",
    "Pointer",
    "Recommender",
    "Retrieval",
    "SelfAttention",
    "SpaceEmbed",
    "TimeEmbed",
    "UserEmbed",
    "UserState",
]
