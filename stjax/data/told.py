"""What the catalogue may tell of a target: places that are known from held-out events alone."""

from __future__ import annotations

import numpy as np

from stjax.data.dataset import Dataset


def told_by_place(dataset: Dataset, part: int) -> int:
    """How many targets of a part are exactly where the catalogue has their item, and no training event of it.

    Such a target has given the catalogue the place of its item (see `LogColumns.latitude`), so that a model
    which knows the place of the request finds the answer by it. 0 where items stand still: then training
    events of the item are there, too.
    """
    rows = dataset.targets(part)
    place, own = dataset.store.columns["place"], np.asarray(dataset.catalogue.place)
    item = dataset.items(rows)
    there = (place[rows] == own[item]).all(axis=1)
    if not there.any():
        return 0
    learnt = dataset.train_rows[np.isin(dataset.items(dataset.train_rows), item[there])]
    seen = dataset.items(learnt)
    seen = seen[(place[learnt] == own[seen]).all(axis=1)]
    return int((there & ~np.isin(item, seen)).sum())
