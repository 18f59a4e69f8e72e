"""The loss of a position knows nothing after its target, whatever the model is built of."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from stjax.events import FIRST, Events
from stjax.nn import Auxiliary, Distance, ItemEmbed, Pointer, Recommender, Retrieval
from tests.library import ENCODERS, FUSIONS, INTERESTS
from tests.models import random_batch, random_parameters, run
from tests.random_events import SCHEMA

DAY = 86_400


def unpadded(events: Events, seed: int) -> Events:
    """Every event there, its item known."""
    random, shape = np.random.default_rng(seed), events.item.shape
    return events.replace(
        valid=np.ones(shape, bool),
        item=random.integers(FIRST, SCHEMA.items, shape).astype(np.int32),
        time=np.cumsum(random.integers(60, DAY, shape), axis=1).astype(np.int32),
    )


@pytest.mark.parametrize(
    ("encoders", "fusion", "interest"),
    [
        (tuple(ENCODERS), "concat", "hstu-bias"),
        (("home", "context", "profile"), "convolution", "gru-gated"),
        (("counts", "rhythm"), "hyper", "state-space"),
    ],
)
def test_the_loss_of_a_position_knows_nothing_after_its_target(
    encoders: tuple[str, ...], fusion: str, interest: str
) -> None:
    """Position l reads events 0..l and foretells event l + 1; what lies beyond is altered in every field."""
    length = 7
    batch, catalogue = random_batch(3, length, seed=1)
    events, others = (unpadded(random_batch(3, length, seed)[0].events, seed) for seed in (1, 2))
    ours = Recommender(
        items=ItemEmbed(8),
        encoders={name: ENCODERS[name] for name in encoders},
        fusion=FUSIONS[fusion],
        interest=INTERESTS[interest],
        head=Retrieval(
            known=("time",),
            pointer=Pointer(window=length),
            distance=Distance(),
            auxiliary=(Auxiliary("category"),),
        ),
    )
    params = random_parameters(ours, batch, catalogue, method="loss")

    def loss(position: int, altered_from: int) -> float:
        """Of one position, where the events from a number on are those of another batch."""

        def mixed(mine: Any, theirs: Any) -> Any:
            return np.concatenate([mine[:, :altered_from], theirs[:, altered_from:]], axis=1)

        weight = np.zeros((3, length), np.float32)
        weight[:, position] = 1.0
        asked = dataclasses.replace(batch, events=jax.tree.map(mixed, events, others), weight=weight)
        return float(run(ours, params, asked, catalogue, method="loss")[0])

    for position in range(length):
        untouched = loss(position, length + 1)
        assert loss(position, position + 2) == pytest.approx(untouched, rel=1e-6)
        assert abs(loss(position, position + 1) - untouched) > 1e-3  # the target itself
        assert abs(loss(position, position) - untouched) > 1e-3
