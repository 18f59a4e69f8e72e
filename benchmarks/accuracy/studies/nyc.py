"""Foursquare NYC: one ingredient removed, added or replaced in configs/nyc.py."""

from __future__ import annotations

from benchmarks.accuracy.studies._vary import (
    config,
    encoders,
    head,
    model,
    other_fusions,
    other_interests,
)
from stjax.nn import (
    Auxiliary,
    CellEmbed,
    DecayedCounts,
    Distance,
    HomeEmbed,
    ItemEmbed,
    MovementEmbed,
    ProfileEmbed,
    RhythmEmbed,
    Time2Vec,
    UserEmbed,
    WindowCounts,
)

base = head(config("nyc"), distance=None)

rows = {
    "configs/nyc.py without distance": base,
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
    "+ profile": encoders(base, profile=ProfileEmbed()),
    "+ category as auxiliary target": head(base, auxiliary=(Auxiliary("category"),)),
    "+ 4 interests": head(base, interests=4),
    "+ hidden values, 10%": model(base, hide=0.1),
    **other_fusions(base),
    **other_interests(base, window=128),
}
