"""Retrieval: from interest and request to a probability for every item of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import FIRST, Catalogue
from stjax.nn.checks import check_counts
from stjax.nn.distance import Distance
from stjax.nn.dropout import Dropout
from stjax.nn.layers import Dense, LayerNorm
from stjax.nn.objectives import FullSoftmax, Objective
from stjax.nn.past import Moment, Past
from stjax.nn.pointer import Pointer
from stjax.nn.request import RequestEmbed
from stjax.ops import softmax
from stjax.ops.near import Near


@dataclass(frozen=True)
class Auxiliary:
    """A categorical item field of the next item, whose prediction is a part of the loss and of no score."""

    field: str
    """Of the catalogue: category."""
    weight: float = 0.1
    """Of its loss beside the item's."""


class Retrieval(nn.Module):
    """p(next item | interest, query): a catalogue softmax, mixed with a pointer into the past.

    known: the query fields that may be read: "time", "place", names of categorical event fields. What is
      not named here cannot reach the score; it is printed beside every metric.
    pointer: None leaves the plain softmax, for data where nothing is repeated.
    distance: how far each item is from here, as part of its logit; None for data without places.
    interests: vectors per user. With more than one the softmax is their mixture, by a learned prior
      (mixture of softmaxes, Yang et al., ICLR 2018), for users who want several things at once.
    objective: what training maximises over the catalogue.
    auxiliary: item fields predicted on the side. Where the pointer's `kind` is one of them, that prediction
      is a part of the pointer too: which kind comes now is then learnt from every target, not from repeats
      alone.
    """

    known: tuple[str, ...] = ()
    pointer: Pointer | None = None
    distance: Distance | None = None
    interests: int = 1
    objective: Objective = FullSoftmax()
    auxiliary: tuple[Auxiliary, ...] = ()
    dropout: float = 0.0

    def setup(self) -> None:
        check_counts(self, "interests")
        self.request = RequestEmbed()
        self.output = Output(self.interests, self.dropout)
        self.bias = ItemBias()
        self.side = {a.field: Side(name=f"auxiliary_{a.field}") for a in self.auxiliary}

    def loss(
        self,
        u: jax.Array,
        now: Moment,
        past: Past,
        target: jax.Array,
        weight: jax.Array,
        table: jax.Array,
        catalogue: Catalogue,
        train: bool = False,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Sum over positions of weight * loss, auxiliary losses included, and of weight * scalars to log.

        u: (B, L, D) requests. target: (B, L) item ids. weight: (B, L). table: (V, D') item vectors.
        Computed in blocks of positions: no (B, L, V) array exists.
        """
        z, prior = self.output(u, table.shape[1], train)
        near = self._near(u.reshape(-1, u.shape[-1]), now.place.reshape(-1, 2), catalogue)
        bias, flat, weights = self.bias(catalogue), target.reshape(-1), weight.reshape(-1)
        z = z.reshape(-1, *z.shape[-2:])
        side, sums = self._side_losses(u, target, weight, catalogue)
        mixture = None
        if self.pointer is not None:
            copied, gate = self.pointer.log_prob(u, now, past, target, catalogue, self._kinds(u, catalogue))
            sums["pointer_share"] = (nn.sigmoid(gate) * weight).sum()
            parts = nn.log_sigmoid(-gate), nn.log_sigmoid(gate) + copied
            mixture = parts[0].reshape(-1), parts[1].reshape(-1)
        if self.interests == 1:
            loss = self.objective.loss(z[:, 0], table, bias, flat, weights, near, mixture, train)
            return loss + side, sums
        log_p = self._log_prob(z, prior.reshape(-1, self.interests), table, bias, flat, near, train)
        if mixture is not None:
            log_p = jnp.logaddexp(mixture[0] + log_p, mixture[1])
        # Positions of weight 0 may hold padding as their target, whose log-probability is -inf.
        return -jnp.where(weights > 0, log_p * weights, 0.0).sum() + side, sums

    def scores(
        self, u: jax.Array, now: Moment, past: Past, table: jax.Array, catalogue: Catalogue
    ) -> jax.Array:
        """log p(item) for the whole catalogue, -inf for ids that are no candidates.

        u: (B, D), one request a row; now: (B, 1). Returns (B, V).
        """
        z, prior = self.output(u, table.shape[1])
        near, bias = self._near(u, now.place[:, 0], catalogue), self.bias(catalogue)
        each = [
            jax.nn.log_softmax(softmax.catalogue_logits(z[:, k], table, bias, FIRST, near))
            + prior[:, k, None]
            for k in range(self.interests)
        ]
        log_p = each[0] if len(each) == 1 else jax.nn.logsumexp(jnp.stack(each), axis=0)
        if self.pointer is None:
            return log_p
        u = u[:, None]
        log_past, gate = self.pointer(u, now, past, catalogue, self._kinds(u, catalogue))
        rows = jnp.arange(u.shape[0])[:, None]
        mass = jnp.zeros_like(log_p).at[rows, past.item].add(jnp.exp(log_past[:, 0]))
        copied = jnp.log(mass) + nn.log_sigmoid(gate)
        candidate = jnp.arange(table.shape[0]) >= FIRST
        return jnp.where(candidate, jnp.logaddexp(log_p + nn.log_sigmoid(-gate), copied), -jnp.inf)

    def _near(self, u: jax.Array, here: jax.Array, catalogue: Catalogue) -> Near | None:
        return None if self.distance is None else self.distance(u, here, catalogue.place)

    def _kinds(self, u: jax.Array, catalogue: Catalogue) -> jax.Array | None:
        """Logits of the kind of the next item, where they are learnt: (..., C)."""
        kind = None if self.pointer is None else self.pointer.kind
        return self.side[kind](u, catalogue.schema[kind].size) if kind in self.side else None

    def _log_prob(
        self,
        z: jax.Array,
        prior: jax.Array,
        table: jax.Array,
        bias: jax.Array,
        target: jax.Array,
        near: Near | None,
        train: bool,
    ) -> jax.Array:
        """log p(target) of the mixture: z (N, K, D), prior (N, K) to (N,)."""
        k = self.interests
        if near is not None and k > 1:
            near = near.with_rows(jax.tree.map(lambda x: jnp.repeat(x, k, axis=0), near.rows()))
        flat = z.reshape(-1, z.shape[-1])
        log_p = self.objective.log_prob(flat, table, bias, jnp.repeat(target, k), near, train)
        log_p = log_p.reshape(-1, k)
        if k == 1:
            return log_p[:, 0]
        some = jnp.isfinite(log_p)  # -inf at padding, where logsumexp would have no gradient
        return jnp.where(some[:, 0], jax.nn.logsumexp(jnp.where(some, log_p, 0.0) + prior, axis=-1), -jnp.inf)

    def _side_losses(
        self, u: jax.Array, target: jax.Array, weight: jax.Array, catalogue: Catalogue
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        total, sums = jnp.float32(0), {}
        for a in self.auxiliary:
            if a.field not in catalogue.items.categorical:
                have = sorted(catalogue.items.categorical)
                raise ValueError(
                    f"auxiliary: no categorical item field {a.field!r}; the catalogue has {have}"
                )
            value = catalogue.items.categorical[a.field][target]
            log_p = jax.nn.log_softmax(self.side[a.field](u, catalogue.schema[a.field].size))
            own = jnp.take_along_axis(log_p, value[..., None], axis=-1)[..., 0]
            loss = -jnp.where(value >= FIRST, own * weight, 0.0).sum()
            total, sums[f"{a.field}_loss"] = total + a.weight * loss, loss
        return total, sums


class Output(nn.Module):
    """From a request to vectors in the space of item vectors, and their log-priors."""

    interests: int
    dropout: float

    @nn.compact
    def __call__(self, u: jax.Array, width: int, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """(..., D) to (..., K, width) and (..., K)."""
        u = Dropout(self.dropout)(LayerNorm(name="norm")(u), train)
        z = Dense(self.interests * width, name="project")(u)
        z = z.reshape(*u.shape[:-1], self.interests, width)
        if self.interests == 1:
            return z, jnp.zeros(z.shape[:-1])
        return z, jax.nn.log_softmax(Dense(self.interests, float32="result", name="prior")(u))


class ItemBias(nn.Module):
    """One learned number per item: its popularity beyond what the vectors say.

    Of items that training has not seen, the mean of all; of rows that are not in use, -inf.
    """

    @nn.compact
    def __call__(self, catalogue: Catalogue) -> jax.Array:
        """(V,)"""
        schema = catalogue.schema
        bias = self.param("bias", nn.initializers.zeros, (schema.item_rows,))
        if catalogue.count is None:
            return bias[: schema.items]
        rows, mean = catalogue.place.shape[0], bias[FIRST : schema.items].mean()
        # Cut or filled up in place: to concatenate would gather what several devices share.
        bias = jax.lax.pad(bias, jnp.zeros((), bias.dtype), [(0, rows - len(bias), 0)])
        index = jnp.arange(rows)
        return jnp.where(index < catalogue.count, jnp.where(index < schema.items, bias, mean), -jnp.inf)


class Side(nn.Module):
    """Logits of an auxiliary target."""

    @nn.compact
    def __call__(self, u: jax.Array, size: int) -> jax.Array:
        return Dense(size, float32="result", name="project")(LayerNorm(name="norm")(u))
