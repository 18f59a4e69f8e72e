"""Three forms, one result: the whole sequence, step by step, chunk by chunk, for every part of the library.

Random gaps, ties in time, missing places and values, rows of unequal length, histories beyond every window.
Fusions and interest models keep separate states, and the one gives the other nothing but its features: each
fusion with one interest model and each interest model with one fusion reach all code. All other pairs are
`slow`, and run by `python -m pytest -m slow`.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

import stjax.nn
from stjax.events import FIRST, Catalogue, Events, Query
from stjax.nn import (
    ConcatFusion,
    Distance,
    Encoder,
    Ensemble,
    Fusion,
    Interest,
    ItemEmbed,
    NextTime,
    Pointer,
    Recommender,
    Retrieval,
    TimeEmbed,
)
from stjax.nn.interest import GRU
from tests.library import ENCODERS, FUSIONS, INTERESTS, WINDOW
from tests.models import questions, random_batch, random_parameters, run, run_steps
from tests.strict import strict

pytestmark = strict

B, L = 3, 17
KNOWN = ("time", "place", "scene")


@partial(jax.jit, static_argnums=0)
def both(
    model: Recommender | Ensemble, variables: Any, history: Events, query: Query, catalogue: Catalogue
) -> Any:
    """The answer after the history read at once, and read in two chunks: one program, one compilation."""
    whole = model.apply(variables, history, query, catalogue, method="scores")
    state, half = model.init_state(B), (L + 1) // 2
    for chunk in (history[:, :half], history[:, half:]):
        state = model.apply(variables, state, chunk, catalogue, method="read")
    return whole, model.apply(variables, state, query, catalogue, method="answer")


def check(model: Recommender | Ensemble, by_step: bool = False) -> None:
    """The answer after the history, read at once, in two chunks, and (by_step) one call an event."""
    batch, catalogue = random_batch(B, L)
    variables = random_parameters(model, batch, catalogue, method="loss")
    history, query, _ = questions(batch.events, model.known)
    some = np.asarray(history.valid.any(axis=1))
    assert some.sum() >= 2 and history.valid.sum(axis=1).max() > WINDOW
    whole, chunks = both(model, variables, history, query, catalogue)
    answers = [chunks]
    if by_step:
        state = run_steps(model, variables, history, catalogue)
        answers.append(run(model, variables, state, query, catalogue, method="answer"))
    for answer in answers:
        np.testing.assert_allclose(whole[some][:, FIRST:], answer[some][:, FIRST:], atol=1e-4)


def build(encoders: Any, fusion: Fusion, interest: Interest, head: Retrieval) -> Recommender:
    return Recommender(items=ItemEmbed(6), encoders=encoders, fusion=fusion, interest=interest, head=head)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder(name: str) -> None:
    check(build({name: ENCODERS[name]}, ConcatFusion(8), GRU(), Retrieval()))


PAIRS = [
    pytest.param(*pair, marks=() if "concat" in pair or "gru" in pair else pytest.mark.slow)
    for pair in itertools.product(FUSIONS, INTERESTS)
]


@pytest.mark.parametrize(("fusion", "interest"), PAIRS)
def test_every_fusion_with_every_interest_model(fusion: str, interest: str) -> None:
    few = {name: ENCODERS[name] for name in ("counts", "movement")}
    check(build(few, FUSIONS[fusion], INTERESTS[interest], Retrieval()))


def test_everything_at_once_event_by_event() -> None:
    head = Retrieval(known=KNOWN, pointer=Pointer(5, window=WINDOW), distance=Distance(), interests=2)
    check(build(ENCODERS, FUSIONS["convolution"], INTERESTS["hstu-bias"], head), by_step=True)


def test_a_request_whose_time_is_not_known() -> None:
    head = Retrieval(known=("place", "scene"), pointer=Pointer(5, window=WINDOW))
    when = NextTime(edges=(0, 60, 3600, 86_400), hidden=8)
    check(build({"time": TimeEmbed(6)}, ConcatFusion(8), GRU(), head).clone(when=when), by_step=True)


@pytest.mark.slow
def test_an_ensemble() -> None:
    head = Retrieval(known=KNOWN, pointer=Pointer(5, window=WINDOW))
    check(Ensemble(build({"time": TimeEmbed(6)}, ConcatFusion(8), GRU(), head), 2), by_step=True)


def test_the_matrix_holds_the_whole_library() -> None:
    """A part that is exported and not in the matrix would go untested."""
    exported = {getattr(stjax.nn, name) for name in stjax.nn.__all__}
    parts = {
        part for part in exported if isinstance(part, type) and issubclass(part, (Encoder, Fusion, Interest))
    } - {Encoder, Fusion, Interest}
    assert parts == {type(x) for x in (*ENCODERS.values(), *FUSIONS.values(), *INTERESTS.values())}


@pytest.mark.slow
def test_gradients_of_everything_are_finite() -> None:
    head = Retrieval(known=KNOWN, pointer=Pointer(5, window=WINDOW))
    model = build(ENCODERS, FUSIONS["hyper"], INTERESTS["state-space"], head)
    batch, catalogue = random_batch(B, L, seed=1)
    variables = random_parameters(model, batch, catalogue, method="loss")
    gradients = jax.grad(lambda v: run(model, v, batch, catalogue, method="loss")[0])(variables)
    for path, g in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(g).all(), path
