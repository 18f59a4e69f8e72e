"""Scoring a large catalogue takes memory for a few users at a time, however many ask."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import pytest

from stjax.events import Query
from stjax.serving.answers import no_filters
from stjax.serving.mesh import Devices
from stjax.serving.programs import ENTRIES, Programs, Weights, _derive
from stjax.serving.settings import Shapes
from tests.models import random_batch
from tests.random_events import SCHEMA
from tests.serving import plain

ITEMS = 1_048_583  # so that eight users are scored together
USERS = 61


def shapes(tree: Any) -> Any:
    """The shapes of arrays, with those of a row for each item of SCHEMA as long as ITEMS."""

    def large(x: Any) -> jax.ShapeDtypeStruct:
        rows = [ITEMS if size == SCHEMA.items else size for size in x.shape[:1]]
        return jax.ShapeDtypeStruct((*rows, *x.shape[1:]), x.dtype)

    return jax.tree.map(large, tree)


@pytest.mark.parametrize("filtered", [False, True])
def test_no_array_holds_the_scores_of_all_who_ask(filtered: bool) -> None:
    model, (batch, catalogue) = plain(), random_batch(2, 3)
    catalogue = dataclasses.replace(
        catalogue,
        place=shapes(catalogue.place),
        items=shapes(catalogue.items),
        schema=dataclasses.replace(SCHEMA, items=ITEMS),
    )
    key = jax.random.key(0)
    params = jax.eval_shape(partial(model.init, method="loss"), key, batch, catalogue)["params"]
    derived = jax.eval_shape(partial(_derive, model, Devices()), params, catalogue)
    weights = Weights(params, catalogue, *derived)
    assert weights.space.shape == (ITEMS, 3)
    programs = Programs(model, USERS, Shapes(batches=(USERS,)))
    states = jax.eval_shape(lambda: model.init_state(programs.slots))
    filters = no_filters(USERS, ITEMS) if filtered else None
    compiled = programs.recommend.lower(
        states, weights, programs.cold(USERS), Query(), filters, None, 10
    ).compile()
    # Scores of eight users, a few times over: logits, log-probabilities, what is allowed of them, the best.
    together = ENTRIES * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * together < USERS * ITEMS * 4
    for kind in ("f32", "pred"):
        assert f"{kind}[{USERS},{ITEMS}]" not in compiled.as_text()
        assert f"{kind}[{ENTRIES // ITEMS + 1},{ITEMS}]" not in compiled.as_text()
