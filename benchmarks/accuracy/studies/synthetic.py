"""The synthetic city: the full model, and the same without time or without space."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.accuracy.studies._vary import config, encoders, head, model
from stjax.nn import ItemEmbed, Pointer
from stjax.training import Experiment

base = config("synthetic")
WINDOW = base.evaluation.length


def without_time(experiment: Experiment) -> Experiment:
    """Neither the times of the events nor that of the request are read; their order is."""
    pointer = Pointer(window=WINDOW, time=False)
    return head(encoders(experiment, time=None), known=(), pointer=pointer)


def without_space(experiment: Experiment) -> Experiment:
    """Neither places of events and items nor distances are read; ids and categories are."""
    pointer = Pointer(window=WINDOW, space=False)
    experiment = model(experiment, items=ItemEmbed(64, place=False))
    return head(encoders(experiment, space=None), pointer=pointer, distance=None)


# Every row is evaluated on the same targets, all of them.
rows = {
    name: replace(row, evaluation=replace(row.evaluation, validation_targets=0))
    for name, row in {
        "full model": base,
        "without time": without_time(base),
        "without space": without_space(base),
    }.items()
}
