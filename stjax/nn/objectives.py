"""What a retrieval head is trained on: the whole catalogue, or some of it where it is large.

Shapes: z (N, D) vectors of N positions, table (V, D) of the items, bias (V,), target (N,) ids, weight (N,).
Draws come from the `dropout` stream. Outside training nothing is drawn: an objective is then what its draws
estimate. All of them rank by z . table^T + bias at serving time.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import FIRST
from stjax.nn.checks import check_counts
from stjax.ops import losses, sampling, softmax
from stjax.ops.near import Near
from stjax.ops.softmax import Mixture


class Objective(nn.Module):
    """Subclass this to add your own."""

    def loss(
        self,
        z: jax.Array,
        table: jax.Array,
        bias: jax.Array,
        target: jax.Array,
        weight: jax.Array,
        near: Near | None = None,
        mixture: Mixture | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Sum of weight * loss over positions, those of weight 0 counting nothing.

        near: adds the distance to the logits. mixture: (log share of the catalogue, log share * probability
        of another model), (N,) each; the loss is then of their sum.
        """
        raise TypeError(f"{type(self).__name__} must define loss")

    def log_prob(
        self,
        z: jax.Array,
        table: jax.Array,
        bias: jax.Array,
        target: jax.Array,
        near: Near | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Log-probabilities of the targets, (N,), -inf for ids below FIRST. Raises ValueError without any."""
        raise ValueError(
            f"{type(self).__name__} gives no probability that could be mixed with a pointer's or with those "
            "of several interests; use FullSoftmax or SampledSoftmax, or pointer=None and interests=1"
        )


class FullSoftmax(Objective):
    """Cross-entropy over the whole catalogue, in blocks: what the others stand for where it is too large."""

    def loss(self, z, table, bias, target, weight, near=None, mixture=None, train=False) -> jax.Array:
        return softmax.catalogue_loss(z, table, bias, target, weight, FIRST, near, mixture)

    def log_prob(self, z, table, bias, target, near=None, train=False) -> jax.Array:
        return softmax.catalogue_log_prob(z, table, bias, target, FIRST, near)


class SampledSoftmax(Objective):
    """Estimate of the full softmax from negatives drawn anew in each step, with logQ correction.

    Outside training, and where the catalogue has no more items than `negatives`, it is the full softmax.

    negatives: items drawn, for the whole batch. batch_share: of the draws, from the batch's own targets, so
    that frequent items, which lead the softmax, are drawn more often (mixed negative sampling, Yang et al.,
    WWW 2020); the others are drawn uniformly. ValueError unless 0 <= batch_share < 1, negatives >= 1.
    """

    negatives: int = 1024
    batch_share: float = 0.5

    def loss(self, z, table, bias, target, weight, near=None, mixture=None, train=False) -> jax.Array:
        if self._whole(table, train):
            return softmax.catalogue_loss(z, table, bias, target, weight, FIRST, near, mixture)
        log_p = self.log_prob(z, table, bias, target, near, train)
        if mixture is not None:
            log_p = jnp.logaddexp(mixture[0] + log_p, mixture[1])
        return losses.weighted_sum(-log_p, weight)

    def log_prob(self, z, table, bias, target, near=None, train=False) -> jax.Array:
        if self._whole(table, train):
            return softmax.catalogue_log_prob(z, table, bias, target, FIRST, near)
        if self.has_variable("drawn", "ids"):
            drawn, log_count = self.get_variable("drawn", "ids"), self.get_variable("drawn", "log_count")
        else:
            drawn, log_count = self.draw(self.make_rng("dropout"), table.shape[0], target)
        return losses.sampled_log_prob(z, table, bias, target, drawn, log_count, FIRST, near)

    def _whole(self, table: jax.Array, train: bool) -> bool:
        if not 0 <= self.batch_share < 1:
            raise ValueError(f"batch_share={self.batch_share} must be at least 0 and below 1")
        check_counts(self, "negatives")
        if self.has_variable("drawn", "ids"):
            return False
        return not train or table.shape[0] - FIRST <= self.negatives

    def draw(self, key: jax.Array, items: int, target: jax.Array) -> sampling.Drawn:
        """Negatives for targets (N,) among `items` ids, and the log of how often each is expected.

        Who draws before the model is called passes both as the variables `ids` and `log_count` of the
        collection "drawn"; see stjax/training/rows.py.
        """
        return sampling.mixed(key, self.negatives, items, target.reshape(-1), self.batch_share, FIRST)


class GBCE(Objective):
    """Generalised binary cross-entropy (gSASRec; Petrov & Macdonald, RecSys 2023). Gives no log_prob.

    negatives: items drawn uniformly, for the whole batch. calibration: t between 0, SASRec's binary
    cross-entropy, and 1, probabilities that fit. ValueError otherwise, or with no negatives.
    From the logit of each item log V is taken, which changes no order and no optimum: a new model then gives
    every item the probability 1 / V instead of 1/2, from where Adam would need hundreds of steps.
    """

    negatives: int = 256
    calibration: float = 0.75

    def loss(self, z, table, bias, target, weight, near=None, mixture=None, train=False) -> jax.Array:
        if not 0 <= self.calibration <= 1:
            raise ValueError(f"calibration={self.calibration} must lie between 0 and 1")
        check_counts(self, "negatives")
        if mixture is not None:
            self.log_prob(z, table, bias, target)
        items, times = table.shape[0], 1.0
        if train:
            drawn, _ = sampling.uniform(self.make_rng("dropout"), self.negatives, items, FIRST)
        else:
            drawn, times = jnp.arange(FIRST, items), self.negatives / (items - FIRST)
        bias = bias - jnp.log(items - FIRST)
        each = losses.gbce_loss(z, table, bias, target, drawn, self.calibration, FIRST, near, times)
        return losses.weighted_sum(each, weight)


class InBatch(Objective):
    """Softmax over the distinct targets of the batch, each counted once. Gives no log_prob.

    That is the in-batch softmax with the logQ correction (Yi et al., RecSys 2019) by frequencies in the batch
    itself: no statistics are kept between steps. It costs N products a position, so N positions of a batch
    should be far fewer than the items of the catalogue, or the full softmax is cheaper.
    """

    def loss(self, z, table, bias, target, weight, near=None, mixture=None, train=False) -> jax.Array:
        if mixture is not None:
            self.log_prob(z, table, bias, target)
        log_p = losses.in_batch_log_prob(z, table, bias, target, weight, None, FIRST, near)
        return losses.weighted_sum(-log_p, weight)
