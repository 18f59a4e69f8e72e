"""Metrics against plain Python, standard errors against the bootstrap, streams against whole arrays."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.events import FIRST
from stjax.metrics import (
    Moments,
    auc,
    bootstrap_means,
    log_loss,
    mean_and_error,
    metric,
    metric_names,
    target_rank,
)

NAMES = metric_names((1, 5, 10))


def rank_in_python(scores: list[float], target: int, seen: set[int]) -> int:
    """How many candidates stand at or before the target."""
    candidates = [v for v in range(FIRST, len(scores)) if v == target or v not in seen]
    return sum(scores[v] >= scores[target] for v in candidates)


def metric_in_python(name: str, rank: int) -> float:
    kind, _, k = name.partition("@")
    if kind == "MRR":
        return 1 / rank
    if rank > int(k):
        return 0.0
    return 1 / math.log2(rank + 1) if kind == "NDCG" else 1.0


@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_rank_agrees_with_counting(levels: int) -> None:
    random = np.random.default_rng(levels)
    scores = random.integers(levels, size=(31, 53)).astype(np.float32)  # few levels: many ties
    target = random.integers(FIRST, 53, size=31)
    seen = [set(random.choice(53, size=k, replace=False).tolist()) for k in range(31)]
    padded = np.asarray([sorted(s) + [0] * (37 - len(s)) for s in seen])
    padded[padded < FIRST] = 0
    plain = [rank_in_python(s, t, set()) for s, t in zip(scores.tolist(), target, strict=True)]
    without = [rank_in_python(s, t, z) for s, t, z in zip(scores.tolist(), target, seen, strict=True)]
    assert target_rank(scores, target).tolist() == plain
    assert target_rank(scores, target, padded).tolist() == without
    assert plain != without


def test_ties_never_help() -> None:
    scores = np.zeros((3, 13), np.float32)
    target = np.asarray([2, 7, 12])
    assert target_rank(scores, target).tolist() == [11, 11, 11]
    seen = np.asarray([[0, 0, 0], [5, 0, 0], [2, 12, 4]])  # the last row holds its own target
    assert target_rank(scores, target, seen).tolist() == [11, 10, 9]


def test_padding_and_unseen_are_no_candidates() -> None:
    scores = np.asarray([[9.0, 9.0, 1.0, 0.0], [np.nan, np.nan, 0.0, 1.0]], np.float32)
    assert target_rank(scores, np.asarray([2, 3])).tolist() == [1, 1]


def test_infinite_scores_rank_and_nan_is_marked() -> None:
    scores = np.zeros((4, 7), np.float32)
    scores[0, 3] = -np.inf
    scores[1, 3] = np.inf
    scores[2, 3] = np.nan
    scores[3, 6] = np.nan
    assert target_rank(scores, np.full(4, 3)).tolist() == [5, 1, 0, 0]


@pytest.mark.parametrize("name", [*NAMES, "Recall@3", "Acc@7", "HR@1", "NDCG@1"])
def test_metrics_agree_with_their_definitions(name: str) -> None:
    rank = np.arange(1, 24)
    expected = [metric_in_python(name, int(r)) for r in rank]
    np.testing.assert_allclose(metric(name, rank), expected, rtol=1e-6)
    np.testing.assert_allclose(metric(name, jnp.asarray(rank)), expected, rtol=1e-6)


def test_metric_names_of_a_table() -> None:
    assert metric_names((10, 1, 5)) == ("Acc@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10", "MRR")
    assert metric_names((20,)) == ("HR@20", "NDCG@20", "MRR")


@pytest.mark.parametrize("name", ["MRR@5", "HR", "HR@0", "HR@x", "AUC", "NDCG@-1", "hr@5"])
def test_unknown_metric_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="metric"):
        metric(name, np.asarray([1]))


def test_random_scores_are_at_chance() -> None:
    random = np.random.default_rng(0)
    candidates, targets = 101, 4001
    scores = random.random((targets, candidates + FIRST), np.float32)
    rank = np.asarray(target_rank(scores, random.integers(FIRST, candidates + FIRST, targets)))
    for name in NAMES:
        chance = sum(metric_in_python(name, r) for r in range(1, candidates + 1)) / candidates
        mean, error = mean_and_error(np.asarray(metric(name, rank)), np.arange(targets))
        assert error is not None
        assert 0 < abs(mean - chance) < 4 * error


def test_error_with_one_target_per_user_is_the_classical_one() -> None:
    values = np.random.default_rng(1).random(47)
    mean, error = mean_and_error(values, np.random.default_rng(2).permutation(47))
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / 47**0.5)


def test_repeating_every_target_adds_no_certainty() -> None:
    random = np.random.default_rng(3)
    values, user = random.random(211), random.integers(29, size=211)
    once = mean_and_error(values, user)
    thrice = mean_and_error(np.tile(values, 3), np.tile(user, 3))
    assert thrice == pytest.approx(once)


def test_clustered_error_agrees_with_the_bootstrap() -> None:
    random = np.random.default_rng(4)
    user = np.repeat(np.arange(307), random.geometric(0.2, 307))
    values = random.random(307)[user] + 0.3 * random.random(len(user))  # users differ
    mean, error = mean_and_error(values, user)
    means = bootstrap_means(values, user, samples=4000, seed=5)
    assert error is not None
    assert means.mean() == pytest.approx(mean, abs=4 * error / 4000**0.5 + 0.1 * error)
    assert means.std() == pytest.approx(error, rel=0.06)
    both = bootstrap_means(np.stack([values**2, values], axis=1), user, samples=4000, seed=5)
    np.testing.assert_allclose(both[:, 1], means, rtol=1e-12)  # metrics share the draws
    assert error > 1.5 * values.std() / len(values) ** 0.5  # the plain formula would be far too small


def test_error_needs_two_users_and_a_mean_needs_a_target() -> None:
    assert mean_and_error(np.asarray([0.0, 1.0]), np.asarray([7, 7])) == (0.5, None)
    with pytest.raises(ValueError, match="no targets"):
        mean_and_error(np.asarray([]), np.asarray([]))


def test_bootstrap_depends_on_its_seed_only() -> None:
    values, user = np.random.default_rng(6).random(97), np.arange(97) // 3
    first = bootstrap_means(values, user, samples=50, seed=1)
    assert np.array_equal(first, bootstrap_means(values, user, samples=50, seed=1))
    assert not np.array_equal(first, bootstrap_means(values, user, samples=50, seed=2))
    assert len(first) == 50


def test_bootstrap_in_many_blocks_has_all_samples() -> None:
    users = 2**21 - 1  # two draws per block
    means = bootstrap_means(np.ones(users), np.arange(users), samples=5)
    assert means.tolist() == [1.0] * 5


def test_streamed_moments_agree_with_the_whole() -> None:
    rank = np.random.default_rng(7).integers(1, 30, size=101)
    padded = np.concatenate([rank, np.zeros(4, int)]).reshape(15, 7)
    real = np.arange(105).reshape(15, 7) < 101

    def body(moments: Moments, block: tuple[jax.Array, jax.Array]) -> tuple[Moments, None]:
        return moments.add(*block), None

    blocks = (jnp.asarray(padded), jnp.asarray(real))
    moments = jax.jit(lambda m: jax.lax.scan(body, m, blocks)[0])(Moments.empty(NAMES))
    parts = [Moments.empty(NAMES).add(padded[k::3], real[k::3]) for k in range(3)]
    for result in (moments, parts[0].merge(parts[1]).merge(parts[2])):
        for name, entry in result.summary().items():
            mean, error = mean_and_error(np.asarray(metric(name, rank)), np.arange(101))
            assert entry["mean"] == pytest.approx(mean, rel=1e-5)
            assert entry["standard_error"] == pytest.approx(error, rel=1e-4)


def test_moments_of_nothing_and_of_one() -> None:
    empty = Moments.empty(NAMES)
    nothing = empty.merge(empty).add(np.asarray([3]), np.asarray([False]))
    assert nothing.mean["MRR"] == 0  # finite, so that later blocks can still be added
    with pytest.raises(ValueError, match="no targets"):
        nothing.summary()
    one = nothing.add(np.asarray([4, 9]), np.asarray([True, False]))
    assert one.summary()["MRR"] == {"mean": 0.25, "standard_error": None}


@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_auc_counts_pairs_in_order_and_half_of_the_ties(levels: int) -> None:
    random = np.random.default_rng(levels)
    score, label = random.integers(levels, size=97).astype("f4"), random.random(97) < 0.3
    pairs = [(p > n) + 0.5 * (p == n) for p in score[label] for n in score[~label]]
    assert auc(score, label) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    # Only the order counts; turned round it is the complement; a weight is a repetition.
    assert auc(np.exp(score / levels), label) == auc(score, label)
    assert auc(-score, label) == pytest.approx(1 - auc(score, label), abs=1e-12)
    times = random.integers(3, size=97)
    repeated = np.repeat(score, times), np.repeat(label, times)
    assert auc(score, label, times) == pytest.approx(auc(*repeated), abs=1e-12)


def test_auc_needs_both_kinds() -> None:
    for label in (np.zeros(3), np.ones(3)):
        with pytest.raises(ValueError, match="at least one positive and one negative"):
            auc(np.arange(3.0), label)


def test_log_loss_is_minus_log_of_the_probability_of_what_happened() -> None:
    logit, label = np.asarray([-3.0, 0.0, 2.0, 800.0, 800.0]), np.asarray([1, 0, 1, 1, 0])
    p = [1 / (1 + math.exp(-z)) for z in (-3.0, 0.0, 2.0)]
    expected = [-math.log(p[0]), -math.log(1 - p[1]), -math.log(p[2]), 0.0, 800.0]
    np.testing.assert_allclose(log_loss(logit, label), expected, rtol=1e-12)
