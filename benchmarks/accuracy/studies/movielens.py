"""MovieLens-100K: one ingredient removed, added or replaced in configs/movielens.py.

It is taken as it was before the search for its hyperparameters: two layers, dropout .3 everywhere, batches of
128, learning rate .003.
"""

from __future__ import annotations

import dataclasses

from benchmarks.accuracy.studies._vary import config, encoders, head, model
from stjax.nn import (
    GBCE,
    GRU,
    HSTU,
    Auxiliary,
    GatedFusion,
    InBatch,
    ItemEmbed,
    ProfileEmbed,
    SampledSoftmax,
    SelfAttention,
    StateSpace,
    UserEmbed,
)

tuned = config("movielens")
attention = SelfAttention(layers=2, heads=2, window=50, expansion=1, dropout=0.3)
base = dataclasses.replace(
    head(model(tuned, interest=attention, dropout=0.3), dropout=0.3),
    batching=dataclasses.replace(tuned.batching, batch_size=128),
    optimizer=dataclasses.replace(tuned.optimizer, learning_rate=3e-3),
)

rows = {
    "untuned": base,
    # removed
    "- time": encoders(base, time=None),
    "- context": encoders(base, context=None),
    "- genres and year": model(base, items=ItemEmbed(64, attributes=False)),
    # added
    "+ user attributes": encoders(base, user=UserEmbed(16, ids=False)),
    "+ user attributes and id": encoders(base, user=UserEmbed(16)),
    "+ profile of genres": encoders(base, profile=ProfileEmbed(field="genre")),
    "+ genre as auxiliary target": head(base, auxiliary=(Auxiliary("genre"),)),
    "+ 4 interests": head(base, interests=4),
    # alternatives
    "gates": model(base, fusion=GatedFusion(64)),
    "rotary positions": model(base, interest=attention.clone(positions="rotary")),
    "GRU": model(base, interest=GRU(dropout=0.3)),
    "HSTU": model(base, interest=HSTU(layers=2, window=50, dropout=0.3)),
    "state space": model(base, interest=StateSpace(layers=2, dropout=0.3)),
    "sampled softmax, 256 negatives": head(base, objective=SampledSoftmax(256)),
    "gBCE, 256 negatives": head(base, objective=GBCE(256)),
    "in-batch": head(base, objective=InBatch()),
}
