"""Losses from some of the catalogue's items against NumPy, and in expectation against the whole catalogue."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops import losses, sampling, softmax
from stjax.ops.near import Near
from tests.strict import strict

pytestmark = strict

N, V, D, S, FIRST = 13, 29, 5, 7, 2

sampled = jax.jit(losses.sampled_log_prob, static_argnums=6)
in_batch = jax.jit(losses.in_batch_log_prob, static_argnums=6)
gbce = jax.jit(losses.gbce_loss, static_argnums=(5, 6, 8))
full = jax.jit(softmax.catalogue_log_prob, static_argnums=4)


def setting(seed: int = 0):
    rng = np.random.default_rng(seed)
    h, table, bias = (rng.normal(size=s).astype("f4") for s in ((N, D), (V, D), (V,)))
    target = rng.integers(FIRST, V, N).astype(np.int32)
    return jnp.asarray(h), jnp.asarray(table), jnp.asarray(bias), jnp.asarray(target)


def negatives(seed: int = 1) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    log_count = jnp.asarray(rng.normal(size=S).astype("f4"))
    return jnp.asarray(rng.integers(FIRST, V, S).astype(np.int32)), log_count


@partial(jax.jit, static_argnums=0)
def near(seed: int = 2) -> Near:
    rng = np.random.default_rng(seed)
    here, there = (rng.normal((40.7, -74.0), 0.05, (n, 2)).astype("f4") for n in (N, V))
    there[5] = np.nan
    weights = jnp.asarray(rng.normal(0, 0.3, (N, 3)).astype("f4"))
    return Near.of(weights, jnp.asarray(here), jnp.asarray(there), (0.5, 3.0))


def logits_of(h: jax.Array, table: jax.Array, bias: jax.Array, extra: Near | None = None) -> np.ndarray:
    logits = np.asarray(h, np.float64) @ np.asarray(table, np.float64).T + np.asarray(bias)
    return logits if extra is None else logits + np.asarray(jax.jit(Near.logits)(extra))


def standard_errors(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How far the mean of independent draws, (R, ...), is from the truth."""
    return np.abs(draws.mean(0) - truth) / (draws.std(0, ddof=1) / np.sqrt(len(draws)) + 1e-7)


def test_sampled_softmax_is_its_formula() -> None:
    (h, table, bias, target), extra = setting(), near()
    ids, log_count = negatives()
    ids = ids.at[2].set(target[4]).at[3].set(ids[1])  # an accidental hit, an item twice
    logits, expected = logits_of(h, table, bias, extra), []
    for n in range(N):
        own = logits[n, target[n]]
        total = np.exp(own)
        for j, count in zip(ids, log_count, strict=True):
            if j != target[n]:
                total += np.exp(logits[n, j] - float(count))
        expected.append(own - np.log(total))
    found = sampled(h, table, bias, target, ids, log_count, FIRST, extra)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    order = np.random.default_rng(3).permutation(S)
    other = sampled(h, table, bias, target, ids[order], log_count[order], FIRST, extra)
    np.testing.assert_allclose(found, other, rtol=1e-5, atol=1e-6)
    twice = jnp.tile(ids, 2), jnp.tile(log_count + jnp.float32(np.log(2)), 2)
    np.testing.assert_allclose(
        found, sampled(h, table, bias, target, *twice, FIRST, extra), rtol=1e-5, atol=1e-6
    )


def test_all_items_as_negatives_are_the_full_softmax() -> None:
    """Value and gradients: listed, or drawn uniformly as often as there are items, whatever the key."""
    h, table, bias, target = setting()
    g = jnp.arange(1.0, N + 1)
    every = jnp.arange(FIRST, V, dtype=jnp.int32), jnp.zeros(V - FIRST)
    drawn = sampling.uniform(jax.random.key(5), V - FIRST, V, FIRST)

    @jax.jit
    def both(args: Any, ids: jax.Array, count: jax.Array) -> Any:
        def value(f: Any) -> Any:
            return jax.value_and_grad(lambda a: jnp.vdot(g, f(*a)), argnums=0)(args)

        return (
            value(lambda h, t, b: softmax.catalogue_log_prob(h, t, b, target, FIRST)),
            value(lambda h, t, b: losses.sampled_log_prob(h, t, b, target, ids, count, FIRST)),
        )

    for ids, count in (every, drawn):
        one, other = both((h, table, bias), ids, count)
        jax.tree.map(partial(np.testing.assert_allclose, atol=2e-4, rtol=1e-5), one, other)


@pytest.mark.parametrize("proposal", ["uniform", "popular"])
def test_the_normaliser_is_unbiased_and_the_gradient_approaches_the_full_one(proposal: str) -> None:
    h, table, bias, target = setting(4)
    counts = jnp.asarray(np.random.default_rng(7).integers(1, 30, V))
    truth = full(h, table, bias, target, FIRST)

    @partial(jax.jit, static_argnames="n")
    def draw(key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
        if proposal == "uniform":
            ids, log_count = sampling.uniform(key, n, V, FIRST)
        else:
            ids, log_count = sampling.weighted(key, n, sampling.popularity(counts, 0.75, FIRST))

        def log_prob(h: jax.Array) -> jax.Array:
            return losses.sampled_log_prob(h, table, bias, target, ids, log_count, FIRST)

        log_p, pull = jax.vjp(log_prob, h)
        return log_p, pull(jnp.ones(N))[0]

    exact = jax.grad(lambda h: full(h, table, bias, target, FIRST).sum())(h)
    error = {}
    for n in (5, 20, 80):
        keys = jax.random.split(jax.random.key(n), 2000)
        log_p, gradient = jax.vmap(partial(draw, n=n))(keys)
        # 1 / p is proportional to the normaliser; a mean of R draws is within 5 standard errors.
        assert standard_errors(np.exp(-np.asarray(log_p)), np.exp(-np.asarray(truth))).max() < 5
        error[n] = np.abs(np.asarray(gradient).mean(0) - exact).mean()
    assert error[20] < error[5] / 2 and error[80] < error[20] / 2  # the bias falls with 1 / n, or faster
    assert error[80] < 0.01


def test_a_correction_of_the_target_would_not_approach_the_full_softmax() -> None:
    """The convention that was not taken, at 40 draws an item."""
    h, table, bias, target = setting()
    ids, log_count = sampling.uniform(jax.random.key(0), 40 * (V - FIRST), V, FIRST)
    truth = full(h, table, bias, target, FIRST)
    found = sampled(h, table, bias, target, ids, log_count, FIRST)
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-5)
    corrected = bias.at[target].add(-log_count[0])
    other = sampled(h, table, corrected, target, ids, log_count, FIRST)
    assert np.abs(other - truth).max() > 0.5


def test_padding_counts_nothing_and_its_gradients_are_finite() -> None:
    h, table, bias, target = setting()
    ids, log_count = negatives()
    padded, weight = target.at[3].set(0).at[6].set(1), jnp.ones(N).at[3].set(0.0).at[6].set(0.0)

    def every(h: jax.Array, table: jax.Array, target: jax.Array) -> jax.Array:
        one = -sampled(h, table, bias, target, ids, log_count, FIRST)
        two = -in_batch(h, table, bias, target, weight, None, FIRST)
        three = gbce(h, table, bias, target, ids, 0.75, FIRST)
        return losses.weighted_sum(one + two + three, weight)

    each = jax.jit(jax.value_and_grad(every, (0, 1)))
    value, (d_h, d_table) = each(h, table, padded)
    other = each(h.at[3].add(5.0), table.at[:FIRST].add(7.0), padded)[0]
    np.testing.assert_allclose(value, other, rtol=1e-6)
    np.testing.assert_allclose(value, each(h, table, target)[0], rtol=1e-6)
    assert np.isfinite(d_h).all() and np.isfinite(d_table).all()
    assert not np.asarray(d_h)[[3, 6]].any() and not np.asarray(d_table)[:FIRST].any()
    assert np.asarray(d_h)[[0, 1, 2, 4, 5]].all()
    infinite = sampled(h, table, bias, padded, ids, log_count, FIRST)
    np.testing.assert_array_equal(np.isinf(infinite), np.asarray(weight) == 0)


@pytest.mark.parametrize("loss", ["sampled", "in_batch", "gbce"])
def test_gradients_by_finite_differences(loss: str) -> None:
    h, table, bias, target = setting()
    ids, log_count = negatives()
    extra = near()
    weight = jnp.linspace(0.5, 1.5, N).at[2].set(0.0)

    def value(h: jax.Array, table: jax.Array, bias: jax.Array, w: jax.Array) -> jax.Array:
        here = extra.with_rows((w, extra.here))
        if loss == "sampled":
            each = -losses.sampled_log_prob(h, table, bias, target, ids, log_count, FIRST, here)
        elif loss == "in_batch":
            each = -losses.in_batch_log_prob(h, table, bias, target, weight, None, FIRST, here)
        else:
            each = losses.gbce_loss(h, table, bias, target, ids, 0.75, FIRST, here)
        return losses.weighted_sum(each, weight)

    args = h, table, bias, extra.weights
    run = jax.jit(jax.value_and_grad(value, (0, 1, 2, 3)))
    whole = run(*args)
    for seed in range(3):
        keys = jax.random.split(jax.random.key(seed), 4)
        way = [0.01 * jax.random.normal(k, x.shape) for k, x in zip(keys, args, strict=True)]
        up, down = (run(*(a + sign * w for a, w in zip(args, way, strict=True)))[0] for sign in (1.0, -1.0))
        slope = sum(float(jnp.vdot(g, w)) for g, w in zip(whole[1], way, strict=True))
        np.testing.assert_allclose((up - down) / 2, slope, rtol=1e-2, atol=1e-4)


def test_blocks_of_positions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    h, table, bias, target = setting()
    extra, g = near(), jnp.arange(1.0, N + 1)

    def value(h: jax.Array, table: jax.Array, w: jax.Array) -> jax.Array:
        here = extra.with_rows((w, extra.here))
        return jnp.vdot(g, losses.in_batch_log_prob(h, table, bias, target, g, None, FIRST, here))

    args = h, table, extra.weights
    whole = jax.jit(jax.value_and_grad(value, (0, 1, 2)))(*args)
    monkeypatch.setattr(softmax, "LEAST_ROWS", 4)
    monkeypatch.setattr(softmax, "BLOCK_ENTRIES", 1)
    blocks = jax.jit(jax.value_and_grad(lambda *a: value(*a), (0, 1, 2)))(*args)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-5), whole, blocks)


def test_in_batch_softmax_is_over_the_distinct_targets() -> None:
    h, table, bias, target = setting()
    target = target.at[5].set(target[1]).at[8].set(target[1])
    weight = jnp.ones(N).at[0].set(0.0)
    target = target.at[0].set(4).at[1:].set(jnp.where(target[1:] == 4, 5, target[1:]))
    found = in_batch(h, table, bias, target, weight, None, FIRST)
    logits, distinct = logits_of(h, table, bias), sorted(set(np.asarray(target)[1:].tolist()))
    assert 4 not in distinct and len(distinct) < N - 1
    total = np.log(np.exp(logits[:, distinct]).sum(1))
    expected = logits[np.arange(N), target] - total
    np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-4, atol=1e-5)
    order = np.random.default_rng(0).permutation(N)
    other = in_batch(h[order], table, bias, target[order], weight[order], None, FIRST)
    np.testing.assert_allclose(found[order][weight[order] > 0], other[weight[order] > 0], rtol=1e-5)


def test_in_batch_softmax_with_known_frequencies_estimates_the_full_one() -> None:
    """The first position is kept, the targets of the others are drawn anew: the normaliser is unbiased."""
    h, table, bias, target = setting()
    q = np.random.default_rng(5).uniform(0.5, 3.0, V)
    q[:FIRST] = 0
    log_q = jnp.log(jnp.asarray((q / q.sum()).astype("f4")))

    @jax.jit
    def draw(key: jax.Array) -> jax.Array:
        others = jax.random.categorical(key, log_q, shape=(N - 1,)).astype(jnp.int32)
        batch = target.at[1:].set(others)
        return losses.in_batch_log_prob(h, table, bias, batch, jnp.ones(N), log_q, FIRST)[0]

    draws = jax.vmap(draw)(jax.random.split(jax.random.key(1), 4000))
    truth = full(h, table, bias, target, FIRST)[0]
    assert standard_errors(np.exp(-np.asarray(draws)), np.exp(-np.asarray(truth))) < 5


@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
def test_gbce_is_the_paper_s_formula(t: float) -> None:
    (h, table, bias, target), extra = setting(), near()
    ids = negatives()[0].at[2].set(target[4])
    logits, alpha = logits_of(h, table, bias, extra), S / (V - FIRST)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    p, expected = 1 / (1 + np.exp(-logits)), []
    for n in range(N):
        others = sum(np.log(1 - p[n, j]) for j in ids if j != target[n])
        expected.append(-(np.log(p[n, target[n]] ** beta) + others) / (S + 1))
    found = gbce(h, table, bias, target, ids, t, FIRST, extra)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    if t == 0:
        assert beta == 1  # SASRec's binary cross-entropy


def test_gbce_of_all_items_is_the_expectation_of_its_draws() -> None:
    h, table, bias, target = setting()
    every, times = jnp.arange(FIRST, V, dtype=jnp.int32), S / (V - FIRST)
    expected = gbce(h, table, bias, target, every, 0.75, FIRST, None, times)

    def draw(key: jax.Array) -> jax.Array:
        ids, _ = sampling.uniform(key, S, V, FIRST)
        return losses.gbce_loss(h, table, bias, target, ids, 0.75, FIRST)

    draws = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(3), 2000))
    assert standard_errors(np.asarray(draws), np.asarray(expected)).max() < 5


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_gbce_with_t_1_learns_probabilities_that_fit(t: float) -> None:
    """Targets drawn from p: at sigmoid(score) = p the expected gradient is zero; with t = 0 it is not."""
    p = np.random.default_rng(0).dirichlet(np.ones(V - FIRST)).astype("f4")
    score = jnp.asarray(np.r_[np.zeros(FIRST), np.log(p / (1 - p))].astype("f4"))
    n = V - FIRST
    every, times = jnp.arange(FIRST, V, dtype=jnp.int32), S / n

    def loss(bias: jax.Array) -> jax.Array:
        h, table = jnp.zeros((n, 1)), jnp.zeros((V, 1))
        return jnp.vdot(jnp.asarray(p), losses.gbce_loss(h, table, bias, every, every, t, FIRST, None, times))

    gradient = np.abs(jax.jit(jax.grad(loss))(score)).max()
    assert gradient < 1e-6 if t == 1 else gradient > 1e-2


def test_no_array_of_positions_by_items_exists() -> None:
    n, v = 8192, 20_000
    args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, D), (v, D), (v,))]
    ids = jax.ShapeDtypeStruct((n,), jnp.int32)
    drawn = jax.ShapeDtypeStruct((1024,), jnp.int32), jax.ShapeDtypeStruct((1024,), jnp.float32)

    def loss(h: jax.Array, table: jax.Array, bias: jax.Array, target: jax.Array, drawn: Any) -> Any:
        one = losses.sampled_log_prob(h, table, bias, target, drawn[0], drawn[1], FIRST).sum()
        return losses.in_batch_log_prob(h, table, bias, target, jnp.ones(n), None, FIRST).sum() + one

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*args, ids, drawn).compile()
    memory = compiled.memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < n * 1024 * 4 * 2 < n * v * 4 / 4


def test_uniform_draws() -> None:
    draw = jax.jit(sampling.uniform, static_argnums=(1, 2, 3))
    ids, log_count = draw(jax.random.key(0), V - FIRST, V, FIRST)
    np.testing.assert_array_equal(ids, np.arange(FIRST, V))
    np.testing.assert_allclose(log_count, 0, atol=1e-6)
    many = jax.vmap(lambda k: draw(k, S, V, FIRST)[0])(jax.random.split(jax.random.key(1), 3000))
    counts = np.stack([np.bincount(row, minlength=V) for row in np.asarray(many)])
    assert counts.shape[1] == V and not counts[:, :FIRST].any()
    assert standard_errors(counts[:, FIRST:].astype(float), np.full(V - FIRST, S / (V - FIRST))).max() < 5
    ids, log_count = draw(jax.random.key(2), 1000, 1_500_000_000, FIRST)  # beyond what a float32 holds
    assert (np.diff(ids) > 0).all() and len(set((np.asarray(ids) % 16).tolist())) == 16
    np.testing.assert_allclose(log_count, np.log(1000 / 1.5e9), rtol=1e-6)
    with pytest.raises(ValueError, match="cannot draw 3 of 0 items"):
        sampling.uniform(jax.random.key(0), 3, FIRST, FIRST)


def test_weighted_draws() -> None:
    counts = jnp.asarray(np.random.default_rng(3).integers(0, 50, V).astype(np.int32)).at[9].set(0)
    weights = sampling.popularity(counts, 0.5, FIRST)
    expected = np.sqrt(np.asarray(counts, float)) * (np.arange(V) >= FIRST)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    draw = jax.jit(lambda k: sampling.weighted(k, S, weights))
    ids, log_count = jax.vmap(draw)(jax.random.split(jax.random.key(1), 3000))
    share = S * expected / expected.sum()
    np.testing.assert_allclose(np.exp(log_count), share[np.asarray(ids)], rtol=1e-4)
    found = np.stack([np.bincount(row, minlength=V) for row in np.asarray(ids)]).astype(float)
    assert found.shape[1] == V and not found[:, expected == 0].any()
    assert standard_errors(found[:, expected > 0], share[expected > 0]).max() < 5
    even = sampling.popularity(counts, 0.0, FIRST)
    np.testing.assert_array_equal(even, np.arange(V) >= FIRST)


def test_points_on_the_edges_of_strata_fall_on_ids_with_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = jnp.asarray([0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    for u, drawn in ((0.0, [2, 4, 5]), (1 - 2.0**-24, [2, 5, 5])):  # 2 - 2^-24 is 2 in float32
        monkeypatch.setattr(jax.random, "uniform", lambda key, shape, u=u: jnp.full(shape, u))
        ids, log_count = sampling.weighted(jax.random.key(0), 3, weights)
        np.testing.assert_array_equal(ids, drawn)
        np.testing.assert_allclose(log_count, 0, atol=1e-6)
        np.testing.assert_array_equal(sampling.uniform(jax.random.key(0), 5, 7, FIRST)[0], np.arange(2, 7))


def test_weighted_draws_of_a_long_tail_are_from_the_distribution_they_name() -> None:
    """Weights below the rounding of the cumulative sum: what cannot be drawn has no share."""
    items = 20_000
    weights = jnp.full(items, 1e-5).at[0].set(1e2).at[-1].set(0.0)
    draw = jax.jit(lambda k: sampling.weighted(k, 1024, weights))
    ids, log_count = jax.vmap(draw)(jax.random.split(jax.random.key(2), 300))
    assert np.isfinite(log_count).all() and int(ids.max()) < items - 1
    # Each draw over its expected count, summed, estimates how many items there are.
    tail = np.where(np.asarray(ids) > 0, np.exp(-np.asarray(log_count, float)), 0).sum(1)
    assert 0.5 < tail.mean() / items < 1.1
