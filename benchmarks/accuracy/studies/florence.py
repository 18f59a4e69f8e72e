"""TripBuilder Florence: one ingredient removed, added or replaced in configs/florence.py."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.accuracy.studies._vary import (
    config,
    encoders,
    head,
    model,
    other_fusions,
    other_interests,
)
from stjax.nn import (
    CellEmbed,
    GapEmbed,
    ItemEmbed,
    MovementEmbed,
    ProfileEmbed,
    SpaceEmbed,
    TimeEmbed,
)

chosen = config("florence")
base = replace(chosen, batching=replace(chosen.batching, within=None))

rows = {
    "all transitions learnt": base,
    "configs/florence.py: those within a trip": chosen,
    # removed
    "- space": encoders(base, space=None),
    "- context": encoders(base, context=None),
    "- space, context": encoders(base, space=None, context=None),
    "- category and place of items": model(base, items=ItemEmbed(64, attributes=False, place=False)),
    "- pointer": head(base, pointer=None),
    "- distance to the candidate": head(base, distance=None),
    "- distance, pointer": head(base, distance=None, pointer=None),
    # added
    "+ time": encoders(base, time=TimeEmbed()),
    "+ gaps": encoders(base, gaps=GapEmbed()),
    "+ cells": encoders(base, cells=CellEmbed(levels=(12, 14, 16))),
    "+ movement": encoders(base, movement=MovementEmbed()),
    "+ profile": encoders(base, profile=ProfileEmbed(field="categories")),
    "+ 4 interests": head(base, interests=4),
    "+ hidden values, 10%": model(base, hide=0.1),
    # alternatives of space
    "Sphere2Vec": encoders(base, space=SpaceEmbed(encoding="sphere2vec")),
    **other_fusions(base),
    **other_interests(base, window=64),
}
