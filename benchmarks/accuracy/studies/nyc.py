"""Foursquare NYC: one ingredient removed, added or replaced in configs/nyc.py."""

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
    DecayedCounts,
    Distance,
    GatedFusion,
    HomeEmbed,
    HyperFusion,
    ItemEmbed,
    MovementEmbed,
    RhythmEmbed,
    SelfAttention,
    SpatioTemporalBias,
    StateSpace,
    Time2Vec,
    UserEmbed,
    WindowCounts,
)

base = config("nyc")
everywhere = SpatioTemporalBias()

rows = {
    "configs/nyc.py": base,
    # removed
    "- time": encoders(base, time=None),
    "- space": encoders(base, space=None),
    "- time, space": encoders(base, time=None, space=None),
    "- category and place of items": model(base, items=ItemEmbed(64, attributes=False, place=False)),
    "- pointer": head(base, pointer=None),
    "- dropout": model(base, dropout=0.0),
    # added
    "+ distance to the candidate": head(base, distance=Distance()),
    "+ rhythm": encoders(base, rhythm=RhythmEmbed()),
    "+ window counts": encoders(base, windows=WindowCounts()),
    "+ decayed counts": encoders(base, counts=DecayedCounts()),
    "+ Time2Vec": encoders(base, time2vec=Time2Vec()),
    "+ cells": encoders(base, cells=CellEmbed()),
    "+ movement": encoders(base, movement=MovementEmbed()),
    "+ home": encoders(base, home=HomeEmbed()),
    "+ user": encoders(base, user=UserEmbed()),
    "+ category as auxiliary target": head(base, auxiliary=(Auxiliary("category"),)),
    "+ 4 interests": head(base, interests=4),
    "+ hidden values, 10%": model(base, hide=0.1),
    # alternatives of fusion
    "gates": model(base, fusion=GatedFusion(64)),
    "attention over modalities": model(base, fusion=AttentionFusion(64)),
    "convolution": model(base, fusion=ConvolutionFusion(64)),
    "hypernetwork": model(base, fusion=HyperFusion(64)),
    # alternatives of interest
    "GRU with time and distance gates": model(base, interest=GRU(gates=("time", "distance"))),
    "LSTM": model(base, interest=LSTM()),
    "self-attention": model(base, interest=SelfAttention(layers=1, window=128)),
    "self-attention, spatiotemporal bias": model(
        base, interest=SelfAttention(layers=1, window=128, bias=everywhere)
    ),
    "HSTU": model(base, interest=HSTU(layers=1, window=128)),
    "state space": model(base, interest=StateSpace(layers=1)),
}
