"""Every encoder, fusion and interest model of the library, small: what tests of combinations go through."""

from __future__ import annotations

import pytest

from stjax.nn import (
    GRU,
    HSTU,
    LSTM,
    AttentionFusion,
    CellEmbed,
    ConcatFusion,
    ContextEmbed,
    ConvolutionFusion,
    DecayedCounts,
    Encoder,
    Fusion,
    GapEmbed,
    GatedFusion,
    HomeEmbed,
    HyperFusion,
    Interest,
    Mean,
    MovementEmbed,
    ProfileEmbed,
    RhythmEmbed,
    SelfAttention,
    SpaceEmbed,
    SpatioTemporalBias,
    StateSpace,
    Time2Vec,
    TimeEmbed,
    UserEmbed,
    WindowCounts,
)

WINDOW = 7  # below the length of the histories in tests
BIAS = SpatioTemporalBias(gap_buckets=5, distance_buckets=3, power_law=True)

ENCODERS: dict[str, Encoder] = {
    "time": TimeEmbed(5, minute_of_day=True, day_of_month=True, month=True, weekend=True, year_harmonics=2),
    "time2vec": Time2Vec(5),
    "gap": GapEmbed(3),
    "windows": WindowCounts(3, at_most=WINDOW),
    "counts": DecayedCounts(3),
    "rhythm": RhythmEmbed(5),
    "space": SpaceEmbed(6, scales=3),
    "sphere": SpaceEmbed(5, encoding="sphere2vec", scales=3),
    "harmonics": SpaceEmbed(5, encoding="harmonics", degree=3),
    "cells": CellEmbed(3, levels=(9, 14), buckets=13),
    "movement": MovementEmbed(5),
    "home": HomeEmbed(3),
    "context": ContextEmbed(4),
    "user": UserEmbed(3),
    "profile": ProfileEmbed(3),
}
FUSIONS: dict[str, Fusion] = {
    "concat": ConcatFusion(8),
    "gated": GatedFusion(8),
    "attention": AttentionFusion(8, heads=2),
    "convolution": ConvolutionFusion(8, width=3),
    "hyper": HyperFusion(8, rank=3, hidden=5),
}
INTERESTS: dict[str, Interest] = {
    "gru": GRU(),
    "gru-gated": GRU(gates=("time", "distance")),
    "lstm": LSTM(),
    "lstm-gated": LSTM(gates=("time", "distance")),
    "mean": Mean(),
    "attention": SelfAttention(layers=1, heads=2, window=WINDOW),
    "attention-rotary-bias": SelfAttention(layers=1, heads=2, window=WINDOW, positions="rotary", bias=BIAS),
    "hstu": HSTU(layers=1, heads=2, window=WINDOW),
    "hstu-bias": HSTU(layers=1, heads=2, window=WINDOW, bias=BIAS),
    "state-space": StateSpace(layers=1),
}


class Together(Interest):
    """Several interest models of the same events. What they say is added up, so that an error of one shows,
    and one compilation tests them all."""

    parts: tuple[Interest, ...] = tuple(INTERESTS.values())

    def __call__(self, x, events, train=False):
        return sum(part(x, events, train) for part in self.parts)

    def init_state(self, batch, features):
        return tuple(part.init_state(batch, features) for part in self.parts)

    def step(self, state, x, event):
        steps = [part.step(own, x, event) for part, own in zip(self.parts, state, strict=True)]
        return tuple(own for own, _ in steps), sum(h for _, h in steps)


# One of each kind of state; the others are slow.
SOME_INTERESTS = [
    pytest.param(
        name, marks=() if name in ("gru", "attention-rotary-bias", "state-space") else pytest.mark.slow
    )
    for name in INTERESTS
]
