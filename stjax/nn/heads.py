"""Retrieval: from interest and request to a probability for every item of the catalogue."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import FIRST, Catalogue
from stjax.nn.dropout import Dropout
from stjax.nn.past import Moment, Past
from stjax.nn.pointer import Pointer
from stjax.nn.request import RequestEmbed
from stjax.ops import attention, softmax


class ItemBias(nn.Module):
    """One learned number per item: its popularity beyond what the vectors say."""

    @nn.compact
    def __call__(self, items: int) -> jax.Array:
        return self.param("bias", nn.initializers.zeros, (items,))


class Retrieval(nn.Module):
    """p(next item | interest, query): a catalogue softmax, mixed with a pointer into the past.

    known: the query fields that may be read: "time", "place", names of categorical event fields. What is
      not named here cannot reach the score; it is printed beside every metric.
    pointer: None leaves the plain softmax, for data where nothing is repeated.
    """

    known: tuple[str, ...] = ()
    pointer: Pointer | None = None
    dropout: float = 0.0

    def setup(self) -> None:
        self.request = RequestEmbed()
        self.output = Output(self.dropout)
        self.bias = ItemBias()

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
    ) -> tuple[jax.Array, jax.Array]:
        """Sum over positions of -weight * log p(target), and of weight * the pointer's share.

        u: (B, L, D) requests. target: (B, L) item ids. weight: (B, L). table: (V, D') item vectors.
        Computed in blocks of positions: no (B, L, V) array exists.
        """
        z = self.output(u, table.shape[1], train)
        flat = z.reshape(-1, z.shape[-1]), table, self.bias(table.shape[0]), target.reshape(-1)
        if self.pointer is None:
            return softmax.catalogue_loss(*flat, weight.reshape(-1), first=FIRST), jnp.float32(0)
        chosen = softmax.catalogue_log_prob(*flat, first=FIRST).reshape(target.shape)
        log_past, gate = self.pointer(u, now, past, catalogue)
        hit = past.item[:, None, :] == target[:, :, None]
        copied = attention.masked_logsumexp(log_past, hit & (log_past > attention.NEVER))
        mixed = jnp.logaddexp(nn.log_sigmoid(-gate) + chosen, nn.log_sigmoid(gate) + copied)
        # Positions of weight 0 may hold padding as their target, whose log-probability is -inf.
        return -jnp.where(weight > 0, mixed * weight, 0.0).sum(), (nn.sigmoid(gate) * weight).sum()

    def scores(
        self, u: jax.Array, now: Moment, past: Past, table: jax.Array, catalogue: Catalogue
    ) -> jax.Array:
        """log p(item) for the whole catalogue, -inf for ids that are no candidates.

        u: (B, D), one request a row; now: (B, 1). Returns (B, V).
        """
        logits = self.output(u, table.shape[1]) @ table.T + self.bias(table.shape[0])
        candidate = jnp.arange(table.shape[0]) >= FIRST
        log_p = jax.nn.log_softmax(jnp.where(candidate, logits.astype(jnp.float32), -jnp.inf))
        if self.pointer is None:
            return log_p
        log_past, gate = self.pointer(u[:, None], now, past, catalogue)
        rows = jnp.arange(u.shape[0])[:, None]
        mass = jnp.zeros_like(log_p).at[rows, past.item].add(jnp.exp(log_past[:, 0]))
        copied = jnp.log(mass) + nn.log_sigmoid(gate)
        return jnp.where(candidate, jnp.logaddexp(log_p + nn.log_sigmoid(-gate), copied), -jnp.inf)


class Output(nn.Module):
    """From a request to the space of item vectors."""

    dropout: float

    @nn.compact
    def __call__(self, u: jax.Array, width: int, train: bool = False) -> jax.Array:
        u = Dropout(self.dropout)(nn.LayerNorm(name="norm")(u), train)
        return nn.Dense(width, name="project")(u)
