"""Ranking metrics of one relevant item per target, their means and their standard errors.

A metric is a pure function of the target's rank (1 is best), so one integer per target is all that
an evaluation has to keep. Shapes: `B` targets of a block, `N` targets, `V` items, `M` seen items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stjax.events import FIRST

Array = Any  # jax.Array or numpy.ndarray: the metrics of a rank accept and return either


def target_rank(scores: Array, target: Array, seen: Array | None = None) -> jax.Array:
    """Rank of each target among all known items, ties counted against the target.

    scores: (B, V), higher is better. target: (B,) item ids, at least FIRST. Ids below FIRST are no
    candidates. seen: (B, M) ids taken out of the candidates, padded with ids below FIRST; no id
    twice in a row; the target stays a candidate.
    Returns int32 (B,): 1 + the number of other candidates scored at least as high as the target, or
    0 where a candidate's score is NaN.
    """
    scores, target = jnp.asarray(scores), jnp.asarray(target)[:, None]
    own = jnp.take_along_axis(scores, target, axis=1)  # (B, 1)
    column = jnp.arange(scores.shape[1])
    rank = 1 + jnp.sum(jnp.greater_equal(scores, own) & (column >= FIRST) & (column != target), axis=1)
    if seen is not None:  # those that were counted above: cheaper than a mask of (B, V)
        seen = jnp.asarray(seen)
        theirs = jnp.take_along_axis(scores, seen, axis=1)  # (B, M)
        rank -= jnp.sum((theirs >= own) & (seen >= FIRST) & (seen != target), axis=1)
    bad = jnp.any(jnp.isnan(scores[:, FIRST:]), axis=1)
    return jnp.where(bad, 0, rank).astype(jnp.int32)


def hit_rate(rank: Array, k: int) -> Array:
    """HR@k, which is Recall@k and Acc@k where one item is relevant: 1 if the rank is at most k."""
    return _numpy_of(rank).asarray(rank <= k, dtype=np.float32)


def ndcg(rank: Array, k: int) -> Array:
    """NDCG@k of one relevant item: 1 / log2(rank + 1) if the rank is at most k, else 0."""
    xp = _numpy_of(rank)
    return xp.where(rank <= k, 1.0 / xp.log2(rank + 1.0), 0.0)


def reciprocal_rank(rank: Array) -> Array:
    """1 / rank; its mean is the MRR."""
    return 1.0 / rank


def metric(name: str, rank: Array) -> Array:
    """Values of one metric by its printed name: MRR, or Acc, HR, Recall or NDCG with @k.

    rank: (N,) integers from 1. Returns floats (N,). Raises ValueError for another name.
    """
    kind, _, k = name.partition("@")
    if name == "MRR":
        return reciprocal_rank(rank)
    if kind in ("Acc", "HR", "Recall", "NDCG") and k.isdecimal() and int(k) > 0:
        return ndcg(rank, int(k)) if kind == "NDCG" else hit_rate(rank, int(k))
    raise ValueError(f"metric {name!r} is not MRR, Acc@k, HR@k, Recall@k or NDCG@k with k from 1")


def metric_names(ks: tuple[int, ...]) -> tuple[str, ...]:
    """The metrics of a table: Acc@1 where 1 is in `ks`, HR@k and NDCG@k of the others, MRR."""
    above = sorted(k for k in set(ks) if k > 1)
    first = ["Acc@1"] if 1 in ks else []
    return (*first, *(f"HR@{k}" for k in above), *(f"NDCG@{k}" for k in above), "MRR")


def auc(score: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Area under the ROC curve: the share of pairs of a positive and a negative in which the positive has the
    higher score, ties counting half (Mann and Whitney, 1947).

    score: (N,), higher is more likely. label: (N,), true for positives. weight: (N,), what each counts, 1 by
    default. Raises ValueError without a positive or without a negative.
    """
    weight = np.ones(len(score)) if weight is None else np.asarray(weight, np.float64)
    _, level = np.unique(score, return_inverse=True)
    positive = np.bincount(level, weight * label)
    negative = np.bincount(level, weight * (1 - np.asarray(label, np.float64)))
    pairs = positive.sum() * negative.sum()
    if pairs == 0:
        raise ValueError("AUC needs at least one positive and one negative")
    return float(positive @ (np.cumsum(negative) - 0.5 * negative) / pairs)


def log_loss(logit: np.ndarray, label: np.ndarray) -> np.ndarray:
    """-log p(label) of each instance, float64 (N,), from the logits of a positive label."""
    logit = np.asarray(logit, np.float64)
    return np.logaddexp(0.0, logit) - label * logit


def cluster_sums(values: np.ndarray, cluster: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values and number of values of each cluster that occurs, float64 (G,) each."""
    _, index = np.unique(cluster, return_inverse=True)
    return np.bincount(index, weights=values), np.bincount(index).astype(np.float64)


def mean_and_error(values: np.ndarray, cluster: np.ndarray) -> tuple[float, float | None]:
    """Mean over N targets and its cluster-robust standard error over users.

    values: (N,). cluster: (N,) integers, the user of each target. With m the mean, S_g the sum and
    n_g the number of the values of user g, of G users:

        SE² = G / (G − 1) · Σ_g (S_g − n_g m)² / N²

    the linearised variance of a ratio of sums (Liang and Zeger, 1986). With one target per user it
    is s² / N. None for a single user, of which no spread can be known.
    """
    if len(values) == 0:
        raise ValueError("no values to average: the part has no targets")
    total, count = cluster_sums(values, cluster)
    mean, groups = total.sum() / count.sum(), len(total)
    if groups == 1:
        return float(mean), None
    variance = groups / (groups - 1) * np.sum((total - count * mean) ** 2) / count.sum() ** 2
    return float(mean), float(np.sqrt(variance))


def bootstrap_means(
    values: np.ndarray, cluster: np.ndarray, *, samples: int = 2000, seed: int = 0
) -> np.ndarray:
    """Means of resampled logs: users are drawn with replacement, each with all of its targets.

    values: (N,), or (N, M) of M metrics, which then share the draws. cluster: (N,).
    Returns float64 (samples,) or (samples, M). Blocks of draws hold about 2^22 users.
    """
    columns = np.asarray(values, np.float64).reshape(len(values), -1).T
    sums = [cluster_sums(column, cluster) for column in columns]
    total, count = np.stack([total for total, _ in sums], axis=1), sums[0][1]
    groups, random = len(total), np.random.default_rng(seed)
    block = max(1, 2**22 // groups)
    means = []
    for start in range(0, samples, block):
        draw = random.integers(groups, size=(min(block, samples - start), groups))
        times = np.stack([np.bincount(drawn, minlength=groups) for drawn in draw])
        means.append(times @ total / (times @ count)[:, None])
    return np.concatenate(means).reshape(samples, *np.shape(values)[1:])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """Streaming count, mean and sum of squared deviations, for metrics of logs too long to keep.

    A pytree: it passes through jit, scan and merges over shards. count: float32 scalar;
    mean, m2: float32 by metric. Updates follow Chan, Golub and LeVeque (1983), which no
    cancellation harms.
    """

    count: Array
    mean: Mapping[str, Array]
    m2: Mapping[str, Array]

    @classmethod
    def empty(cls, names: tuple[str, ...]) -> Moments:
        """No observations yet of the named metrics."""
        zeros = {name: jnp.zeros(()) for name in names}
        return cls(jnp.zeros(()), zeros, dict(zeros))

    def add(self, rank: Array, real: Array) -> Moments:
        """With the targets of one block. rank: int (B,), from 1 where real. real: bool (B,)."""
        real = jnp.asarray(real)
        rank, weight = jnp.where(real, rank, 1), real.astype(jnp.float32)
        count = weight.sum()
        values = {name: metric(name, rank) for name in self.mean}
        mean = {n: jnp.sum(x * weight) / jnp.maximum(count, 1) for n, x in values.items()}
        m2 = {n: jnp.sum(weight * (x - mean[n]) ** 2) for n, x in values.items()}
        return self.merge(Moments(count, mean, m2))

    def merge(self, other: Moments) -> Moments:
        """Of both sets of observations together."""
        count = self.count + other.count
        share = other.count / jnp.maximum(count, 1)
        step = {name: other.mean[name] - self.mean[name] for name in self.mean}
        mean = {name: self.mean[name] + share * step[name] for name in self.mean}
        m2 = {
            name: self.m2[name] + other.m2[name] + self.count * share * step[name] ** 2 for name in self.mean
        }
        return Moments(count, mean, m2)

    def summary(self) -> dict[str, dict[str, float | None]]:
        """{metric: {mean, standard_error}} as `mean_and_error` with a user per target."""
        n = float(self.count)
        if n == 0:
            raise ValueError("no values to average: the part has no targets")
        return {
            name: {
                "mean": float(mean),
                "standard_error": (float(self.m2[name]) / (n * (n - 1))) ** 0.5 if n > 1 else None,
            }
            for name, mean in self.mean.items()
        }


def _numpy_of(x: Array) -> Any:
    return jnp if isinstance(x, jax.Array) else np
