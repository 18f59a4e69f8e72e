"""Objectives of the retrieval head: exact outside training, drawn from one stream in it, refusals."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.events import FIRST
from stjax.nn.objectives import GBCE, FullSoftmax, InBatch, Objective, SampledSoftmax
from stjax.ops import softmax
from stjax.ops.near import Near
from tests.strict import strict

pytestmark = strict

N, V, D = 13, 31, 5
OBJECTIVES = {
    "full": FullSoftmax(),
    "sampled": SampledSoftmax(7),
    "sampled uniformly": SampledSoftmax(7, batch_share=0.0),
    "gbce": GBCE(7),
    "in batch": InBatch(),
}


def setting(seed: int = 0) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """(z, table, bias, target), of which two are padding, and weight."""
    rng = np.random.default_rng(seed)
    z, table, bias = (jnp.asarray(rng.normal(size=s).astype("f4")) for s in ((N, D), (V, D), (V,)))
    target = jnp.asarray(rng.integers(FIRST, V, N).astype(np.int32)).at[3].set(0).at[5].set(1)
    weight = jnp.asarray(rng.uniform(0.5, 1.5, N).astype("f4")).at[3].set(0.0).at[5].set(0.0)
    return (z, table, bias, target), weight


@partial(jax.jit, static_argnames=("objective", "train", "method"))
def run(objective: Objective, *args: Any, key: Any = None, train: bool = False, method: str = "loss") -> Any:
    rngs = None if key is None else {"dropout": key}
    return objective.apply({}, *args, train=train, method=method, rngs=rngs)


def mixture() -> tuple[jax.Array, jax.Array]:
    k = jax.random.split(jax.random.key(9))
    return -jax.random.exponential(k[0], (N,)), jax.random.normal(k[1], (N,)) - 3.0


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_padding_counts_nothing_and_gradients_are_finite(objective: Objective) -> None:
    args, weight = setting()

    @jax.jit
    def loss(z: jax.Array, table: jax.Array, bias: jax.Array) -> Any:
        def value(z: jax.Array, table: jax.Array, bias: jax.Array) -> jax.Array:
            return run(objective, z, table, bias, args[3], weight, key=jax.random.key(1), train=True)

        return jax.value_and_grad(value, (0, 1, 2))(z, table, bias)

    value, gradients = loss(*args[:3])
    for g in gradients:
        assert np.isfinite(g).all() and np.asarray(g).any()
    assert not np.asarray(gradients[0])[[3, 5]].any()
    assert not np.asarray(gradients[1])[:FIRST].any()
    changed, _ = loss(args[0].at[3].add(2.0), args[1].at[:FIRST].add(3.0), args[2].at[0].add(4.0))
    np.testing.assert_allclose(value, changed, rtol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_distance_is_part_of_the_logits(objective: Objective) -> None:
    """A spline that says 2 where an item's place is unknown, else 0, is a bias of the items."""
    (z, table, bias, target), weight = setting()
    unknown = np.arange(V) % 3 == 0
    there = np.where(unknown[:, None], np.nan, 40.0).astype("f4").repeat(2, axis=1)
    weights = jnp.zeros((N, 2)).at[:, 0].set(2.0)
    near = Near.of(weights, jnp.full((N, 2), 40.0), jnp.asarray(there), (1e9,))
    key, shifted = jax.random.key(3), bias + jnp.where(unknown, 2.0, 0.0)
    found = run(objective, z, table, bias, target, weight, near, key=key, train=True)
    expected = run(objective, z, table, shifted, target, weight, None, key=key, train=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["full", "sampled", "sampled uniformly"])
def test_outside_training_a_softmax_is_the_full_one(name: str) -> None:
    args, weight = setting()
    objective = OBJECTIVES[name]
    expected = softmax.catalogue_log_prob(*args, first=FIRST)
    np.testing.assert_allclose(run(objective, *args, method="log_prob"), expected, rtol=1e-5)
    counted = np.asarray(weight) > 0
    total = -float(np.dot(np.asarray(weight)[counted], np.asarray(expected)[counted]))
    np.testing.assert_allclose(run(objective, *args, weight), total, rtol=1e-5)
    small = SampledSoftmax(V - FIRST)
    np.testing.assert_allclose(run(small, *args, weight, train=True), total, rtol=1e-5)


@pytest.mark.parametrize("name", ["full", "sampled"])
def test_the_loss_is_of_the_log_probabilities_mixed_or_not(name: str) -> None:
    args, weight = setting()
    objective, key = OBJECTIVES[name], jax.random.key(4)
    log_p = run(objective, *args, key=key, train=True, method="log_prob")
    share, other = mixture()
    for given, mixed in ((None, log_p), ((share, other), jnp.logaddexp(share + log_p, other))):
        expected = -np.where(weight > 0, weight * mixed, 0).sum()
        found = run(objective, *args, weight, None, given, key=key, train=True)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_sampled_mixture_has_finite_gradients_at_padding() -> None:
    args, weight = setting()
    key = jax.random.key(2)

    def loss(z: jax.Array, mixed: Any) -> jax.Array:
        return run(OBJECTIVES["sampled"], z, *args[1:], weight, None, mixed, key=key, train=True)

    for g in jax.tree.leaves(jax.grad(loss, (0, 1))(args[0], mixture())):
        assert np.isfinite(g).all() and not np.asarray(g)[[3, 5]].any() and np.asarray(g)[0].any()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_normaliser_is_unbiased_whatever_is_drawn(share: float) -> None:
    """1 / p is proportional to it: the mean of many draws is within 5 standard errors of the full one."""
    args, weight = setting()
    log_prob = partial(run, SampledSoftmax(9, share), *args, method="log_prob")
    draw = jax.vmap(lambda k: log_prob(key=k, train=True))
    draws = np.exp(-np.asarray(draw(jax.random.split(jax.random.key(0), 3000)), np.float64))
    exact, counted = np.exp(-np.asarray(log_prob(), np.float64)), np.asarray(weight) > 0
    assert np.isinf(draws[:, ~counted]).all()
    draws, exact = draws[:, counted], exact[counted]
    assert (np.abs(draws.mean(0) - exact) < 5 * draws.std(0) / np.sqrt(len(draws))).all()


def test_gbce_outside_training_is_the_mean_of_its_draws() -> None:
    args, weight = setting()
    draw = jax.vmap(lambda k: run(OBJECTIVES["gbce"], *args, weight, key=k, train=True))
    draws = np.asarray(draw(jax.random.split(jax.random.key(0), 3000)))
    expected = float(run(OBJECTIVES["gbce"], *args, weight))
    assert abs(draws.mean() - expected) < 5 * draws.std() / np.sqrt(len(draws)) < 0.05 * expected


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_each_objective_learns_which_item_follows(objective: Objective) -> None:
    """Twelve contexts, each followed by one item nine times of ten: it becomes the first of all."""
    contexts, rng = 12, np.random.default_rng(1)
    answer = FIRST + rng.permutation(V - FIRST)[:contexts]
    context = rng.integers(0, contexts, (150, 64))
    other = rng.integers(FIRST, V, context.shape)
    target = np.where(rng.random(context.shape) < 0.9, answer[context], other).astype(np.int32)
    start = (
        jnp.asarray(rng.normal(0, 0.3, (contexts, 8)).astype("f4")),
        jnp.asarray(rng.normal(0, 0.3, (V, 8)).astype("f4")),
        jnp.zeros(V),
    )

    def step(params: Any, batch: Any) -> tuple[Any, None]:
        context, target, key = batch

        def loss(params: Any) -> jax.Array:
            z, table, bias = params
            ones = jnp.ones(64)
            return run(objective, z[context], table, bias, target, ones, key=key, train=True) / 64

        rate = 4.0 if isinstance(objective, GBCE) else 1.0  # its loss is a mean over negatives
        return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss)(params)), None

    batches = jnp.asarray(context), jnp.asarray(target), jax.random.split(jax.random.key(0), 150)
    (z, table, bias), _ = jax.jit(lambda p, b: jax.lax.scan(step, p, b))(start, batches)
    best = np.argmax((z @ table.T + bias)[:, FIRST:], axis=1) + FIRST
    assert (best == answer).mean() > 0.9


@pytest.mark.parametrize("name", ["gbce", "in batch"])
def test_what_is_no_probability_of_the_catalogue_cannot_be_mixed(name: str) -> None:
    args, weight = setting()
    with pytest.raises(ValueError, match=r"no probability.*use FullSoftmax or SampledSoftmax"):
        run(OBJECTIVES[name], *args, method="log_prob")
    with pytest.raises(ValueError, match=r"or pointer=None and interests=1"):
        run(OBJECTIVES[name], *args, weight, None, mixture())


def test_impossible_settings_are_refused() -> None:
    args, weight = setting()
    for objective, message in (
        (SampledSoftmax(0), "negatives=0 must be at least 1"),
        (GBCE(0), "negatives=0 must be at least 1"),
        (SampledSoftmax(batch_share=1.0), "batch_share=1.0 must be at least 0 and below 1"),
        (GBCE(calibration=1.5), "calibration=1.5 must lie between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            run(objective, *args, weight)
