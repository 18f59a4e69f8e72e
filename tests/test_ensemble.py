"""An ensemble: members that start differently, asked together."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

from stjax.nn import (
    GRU,
    Choice,
    ConcatFusion,
    Ensemble,
    ItemEmbed,
    Pointer,
    Ranking,
    Recommender,
    Retrieval,
    Task,
    TimeEmbed,
)
from tests.models import questions, random_batch, random_parameters, run, run_steps
from tests.strict import strict

pytestmark = strict

TASKS = (Choice(), Task("stars", "rating", "regression", mean=3.0))


def model(ranking: Ranking | None = None) -> Recommender:
    return Recommender(
        items=ItemEmbed(6),
        encoders={"time": TimeEmbed(6)},
        fusion=ConcatFusion(8),
        interest=GRU(),
        head=Retrieval(known=("time",), pointer=Pointer(5, window=7)),
        ranking=ranking,
    )


def test_members_answer_by_the_mean_of_their_probabilities() -> None:
    batch, catalogue = random_batch(3, 11)
    one = model()
    both = Ensemble(one, 2)
    variables = random_parameters(both, batch, catalogue, method="loss")
    history, query, _ = questions(batch.events, ("time",))
    inner = [{"params": jax.tree.map(lambda x, k=k: x[k], variables["params"]["member"])} for k in range(2)]
    each = [np.asarray(run(one, v, history, query, catalogue, method="scores")) for v in inner]
    got = np.asarray(run(both, variables, history, query, catalogue, method="scores"))
    np.testing.assert_allclose(np.exp(got), np.mean(np.exp(each), axis=0), rtol=1e-4, atol=1e-7)
    losses = [run(one, v, batch, catalogue, method="loss")[0] for v in inner]
    loss = run(both, variables, batch, catalogue, method="loss")[0]
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


def test_members_rank_candidates_by_the_mean_of_their_probabilities_and_values() -> None:
    batch, catalogue = random_batch(3, 11)
    one = model(Ranking(TASKS, hidden=7))
    both = Ensemble(one, 2)
    variables = random_parameters(both, batch, catalogue, method="loss")
    history, query, target = questions(batch.events, ("time",))
    candidates = np.stack([target, np.full(3, 5), np.full(3, 2)], axis=1)
    asked = history, query, candidates, catalogue
    inner = [{"params": jax.tree.map(lambda x, k=k: x[k], variables["params"]["member"])} for k in range(2)]
    each = [run(one, v, *asked, method="rank") for v in inner]
    got = run(both, variables, *asked, method="rank")
    assert set(got) == {"chosen", "stars"}
    odds = np.mean([1 / (1 + np.exp(-np.asarray(own["chosen"], np.float64))) for own in each], axis=0)
    np.testing.assert_allclose(got["chosen"], np.log(odds / (1 - odds)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["stars"], np.mean([own["stars"] for own in each], axis=0), rtol=1e-4)
    state = run_steps(both, variables, history, catalogue)
    stepped = run(both, variables, state, query, candidates, catalogue, method="answer_rank")
    for name in got:
        np.testing.assert_allclose(stepped[name], got[name], rtol=1e-4, atol=1e-4)


def test_members_start_differently() -> None:
    batch, catalogue = random_batch(2, 5)
    both = Ensemble(model(), 2)
    init = jax.jit(partial(both.init, method="loss"))
    params = init(jax.random.key(0), batch, catalogue)["params"]["member"]
    kernel = params["head"]["output"]["project"]["kernel"]
    assert kernel.shape[0] == 2 and not np.allclose(kernel[0], kernel[1])


def test_no_members_and_no_ranking_head_are_refused() -> None:
    batch, catalogue = random_batch(2, 5)
    none = Ensemble(model(), 0)
    with pytest.raises(ValueError, match="members=0"):
        jax.eval_shape(lambda: none.init(jax.random.key(0), batch, catalogue, method="loss"))
    both = Ensemble(model(), 2)
    variables = random_parameters(both, batch, catalogue, method="loss")
    history, query, target = questions(batch.events, ("time",))
    with pytest.raises(ValueError, match="no ranking head"):
        run(both, variables, history, query, target[:, None], catalogue, method="rank")
