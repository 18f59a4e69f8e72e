"""TripBuilder Florence: one ingredient removed, added or replaced in configs/florence.py."""

from __future__ import annotations

from benchmarks.accuracy.studies._vary import config, encoders, head, model
from stjax.nn import (
    GRU,
    HSTU,
    LSTM,
    AttentionFusion,
    Auxiliary,
    CellEmbed,
    ConvolutionFusion,
    Distance,
    GatedFusion,
    HyperFusion,
    ItemEmbed,
    MovementEmbed,
    SelfAttention,
    SpaceEmbed,
    SpatioTemporalBias,
    StateSpace,
)

base = config("florence")
bias = SpatioTemporalBias()

rows = {
    "configs/florence.py": base,
    # removed
    "- time": encoders(base, time=None),
    "- space": encoders(base, space=None),
    "- context": encoders(base, context=None),
    "- time, space, context": encoders(base, time=None, space=None, context=None),
    "- category and place of items": model(base, items=ItemEmbed(64, attributes=False, place=False)),
    "- pointer": head(base, pointer=None),
    # added
    "+ distance to the candidate": head(base, distance=Distance()),
    "+ distance, - pointer": head(base, distance=Distance(), pointer=None),
    "+ cells": encoders(base, cells=CellEmbed(levels=(12, 14, 16))),
    "+ movement": encoders(base, movement=MovementEmbed()),
    "+ category as auxiliary target": head(base, auxiliary=(Auxiliary("category"),)),
    "+ 4 interests": head(base, interests=4),
    "+ hidden values, 10%": model(base, hide=0.1),
    # alternatives of space
    "Sphere2Vec": encoders(base, space=SpaceEmbed(encoding="sphere2vec")),
    # alternatives of fusion
    "gates": model(base, fusion=GatedFusion(64)),
    "attention over modalities": model(base, fusion=AttentionFusion(64)),
    "convolution": model(base, fusion=ConvolutionFusion(64)),
    "hypernetwork": model(base, fusion=HyperFusion(64)),
    # alternatives of interest
    "GRU with time and distance gates": model(base, interest=GRU(gates=("time", "distance"))),
    "LSTM": model(base, interest=LSTM()),
    "self-attention": model(base, interest=SelfAttention(layers=1, window=64)),
    "self-attention, spatiotemporal bias": model(
        base, interest=SelfAttention(layers=1, window=64, bias=bias)
    ),
    "HSTU": model(base, interest=HSTU(layers=1, window=64)),
    "state space": model(base, interest=StateSpace(layers=1)),
}
