"""The time of the next event: a histogram of gaps, and answers in expectation over it."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.events import FIRST, Query
from stjax.nn import (
    GRU,
    ConcatFusion,
    ItemEmbed,
    NextTime,
    Pointer,
    Ranking,
    Recommender,
    Retrieval,
    Task,
    TimeEmbed,
)
from stjax.nn.past import Past
from tests.models import questions, random_batch, random_parameters, run
from tests.strict import strict

pytestmark = strict

EDGES = (0, 60, 3_600, 86_400)


def model(known: tuple[str, ...] = ()) -> Recommender:
    return Recommender(
        items=ItemEmbed(6),
        encoders={"time": TimeEmbed(6)},
        fusion=ConcatFusion(8),
        interest=GRU(),
        head=Retrieval(known=known, pointer=Pointer(5, window=7)),
        when=NextTime(edges=EDGES, hidden=8),
    )


def test_the_answer_is_the_expectation_over_the_gaps() -> None:
    batch, catalogue = random_batch(3, 11)
    untimed, timed = model(), model(("time",))
    variables = random_parameters(untimed, batch, catalogue, method="loss")
    history, _, _ = questions(batch.events, ())
    rows = np.flatnonzero(np.asarray(history.valid.any(axis=1)))
    history = history[rows]
    last = np.asarray(history.valid).sum(axis=1) - 1
    time, offset = (np.asarray(x)[np.arange(len(rows)), last] for x in (history.time, history.utc_offset))

    def density(m: Recommender) -> jax.Array:
        table = m.items(catalogue)
        x, h = m._encode(history, table, catalogue, False)
        past = m._past(history, x, h).at(jnp.asarray(last))
        return m.when(h[jnp.arange(len(rows)), last], jax.tree.map(lambda x: x[:, 0], past))

    log_p = np.asarray(jax.jit(partial(untimed.apply, method=density))(variables))
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1.0, atol=1e-5)
    expected = 0.0
    for k, gap in enumerate((30, 1_830, 45_000, 86_400)):
        query = Query(jnp.asarray(time + gap, jnp.int32), jnp.asarray(offset))
        answer = np.asarray(run(timed, variables, history, query, catalogue, method="scores"))
        expected = expected + np.exp(log_p[:, k, None] + answer)
    got = np.exp(np.asarray(run(untimed, variables, history, Query(), catalogue, method="scores")))
    np.testing.assert_allclose(got[:, FIRST:], expected[:, FIRST:], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(got.sum(axis=1), 1.0, atol=1e-4)


def test_the_loss_reads_the_bin_of_each_gap() -> None:
    when = NextTime(edges=EDGES, hidden=8)
    time = jnp.asarray([[0, 59, 60, 3_599, 3_600], [86_399, 86_400, 10_000_000, 1, 61]], jnp.int32)
    zeros = jnp.zeros((2, 5), jnp.int32)
    last = Past(zeros, zeros, zeros, jnp.zeros((2, 5, 2)), jnp.ones((2, 5), bool), jnp.zeros((2, 5, 0)))
    h, weight = jax.random.normal(jax.random.key(0), (2, 5, 8)), jnp.asarray([[1.0] * 5, [1, 1, 2, 0, 1]])
    variables = random_parameters(when, h, last)
    log_p = np.asarray(run(when, variables, h, last))
    bins = [[0, 0, 1, 1, 2], [2, 3, 3, 0, 1]]
    expected = -sum(float(weight[b, i]) * log_p[b, i, bins[b][i]] for b in range(2) for i in range(5))
    np.testing.assert_allclose(
        run(when, variables, h, last, time, weight, method="loss"), expected, rtol=1e-5
    )


def test_training_reads_the_time_of_the_next_event() -> None:
    batch, catalogue = random_batch(3, 11)
    variables = random_parameters(model(), batch, catalogue, method="loss")
    target = np.asarray(batch.events.valid).sum(axis=1) - 1  # the last event is only ever a target
    row = int(np.argmax(np.asarray(batch.weight).sum(axis=1)))
    moved = batch.events.time.at[row, target[row]].add(7_200)
    losses = [
        run(model(), variables, dataclasses.replace(batch, events=e), catalogue, method="loss")[0]
        for e in (batch.events, batch.events.replace(time=moved))
    ]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("edges", [(), (0,), (60, 3_600), (0, 60, 60)])
def test_edges_that_are_no_histogram(edges: tuple[int, ...]) -> None:
    batch, catalogue = random_batch(2, 5)
    wrong = model().clone(when=NextTime(edges=edges))
    with pytest.raises(ValueError, match="edges="):
        jax.eval_shape(lambda: wrong.init(jax.random.key(0), batch, catalogue, method="loss"))


def test_what_does_not_fit_each_other() -> None:
    batch, catalogue = random_batch(2, 5)
    ranked = model().clone(ranking=Ranking((Task("click", "score", threshold=0.0),)))
    with pytest.raises(ValueError, match="needs a time"):
        jax.eval_shape(lambda: ranked.init(jax.random.key(0), batch, catalogue, method="loss"))
