"""Linen modules: thin shells over `stjax.ops` that own parameters."""

from stjax.nn.adaptation import MetaLearned, adapt
from stjax.nn.base import Encoder, Fusion, Interest
from stjax.nn.content import ContextEmbed, ItemEmbed, ProfileEmbed, UserEmbed
from stjax.nn.distance import Distance
from stjax.nn.ensemble import Ensemble
from stjax.nn.fusion import AttentionFusion, ConcatFusion, ConvolutionFusion, GatedFusion, HyperFusion
from stjax.nn.heads import Auxiliary, Retrieval
from stjax.nn.interest import GRU, HSTU, LSTM, Mean, SelfAttention, SpatioTemporalBias, StateSpace
from stjax.nn.objectives import GBCE, FullSoftmax, InBatch, Objective, SampledSoftmax
from stjax.nn.pointer import Pointer
from stjax.nn.ranking import Choice, Ranking, Task
from stjax.nn.recommender import Recommender, UserState
from stjax.nn.space import CellEmbed, HomeEmbed, MovementEmbed, PlaceEmbed, SpaceEmbed
from stjax.nn.time import DecayedCounts, GapEmbed, RhythmEmbed, Time2Vec, TimeEmbed, WindowCounts
from stjax.nn.when import NextTime

__all__ = [
    "GBCE",
    "GRU",
    "HSTU",
    "LSTM",
    "AttentionFusion",
    "Auxiliary",
    "CellEmbed",
    "Choice",
    "ConcatFusion",
    "ContextEmbed",
    "ConvolutionFusion",
    "DecayedCounts",
    "Distance",
    "Encoder",
    "Ensemble",
    "FullSoftmax",
    "Fusion",
    "GapEmbed",
    "GatedFusion",
    "HomeEmbed",
    "HyperFusion",
    "InBatch",
    "Interest",
    "ItemEmbed",
    "Mean",
    "MetaLearned",
    "MovementEmbed",
    "NextTime",
    "Objective",
    "PlaceEmbed",
    "Pointer",
    "ProfileEmbed",
    "Ranking",
    "Recommender",
    "Retrieval",
    "RhythmEmbed",
    "SampledSoftmax",
    "SelfAttention",
    "SpaceEmbed",
    "SpatioTemporalBias",
    "StateSpace",
    "Task",
    "Time2Vec",
    "TimeEmbed",
    "UserEmbed",
    "UserState",
    "WindowCounts",
    "adapt",
]
