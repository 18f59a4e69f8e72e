"""Fusion by attention over the modalities of one event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Events
from stjax.nn.base import Fusion
from stjax.nn.checks import check_counts
from stjax.nn.fusion.rows import as_rows, joined
from stjax.nn.layers import Dense, LayerNorm
from stjax.ops.product import product


class AttentionFusion(Fusion):
    """One query, made of all modalities, attends to each of them, in several heads.

        x = W [parts],  q = Q x,  (k_m, v_m) = W_m parts_m + e_m
        F = LayerNorm(x + O sum_m softmax_m(q . k_m) v_m)

    e_m is the learned vector of modality m. Scaled dot products: Vaswani et al., NeurIPS 2017; a set pooled
    by a query instead of M queries: Lee et al., Set Transformer, ICML 2019; Jaegle et al., Perceiver, ICML
    2021. Since the query sees all parts, each weight depends on every modality, as in self-attention among
    them, of which pooling keeps one vector as well; with 5 modalities that takes about 5 times longer on CPU.

    heads: divides features, ValueError otherwise.
    """

    heads: int = 4

    def setup(self) -> None:
        super().setup()
        check_counts(self, "heads")

    @nn.compact
    def __call__(self, parts: Mapping[str, jax.Array], events: Events) -> jax.Array:
        d = self.features
        if d % self.heads:
            raise ValueError(f"heads={self.heads} does not divide the {d} features")
        rows, lead = as_rows(parts)
        x = Dense(d, name="join")(joined(rows))
        q = Dense(d, name="query")(x)
        pairs = [jnp.split(Dense(2 * d, name=f"part_{name}")(part), 2, -1) for name, part in rows.items()]
        keys, values = zip(*pairs, strict=True)
        x = x + Dense(d, name="out")(_pool(q, keys, values, self.heads))
        return LayerNorm(name="norm")(x).reshape(*lead, d)


def _pool(q: jax.Array, keys: Sequence[jax.Array], values: Sequence[jax.Array], heads: int) -> jax.Array:
    """Attention of one query a row to M keys: (N, D) and M times (N, D) to (N, D).

    Heads are summed and spread by a product with their 0/1 membership: no sum over a short axis D / H.
    """
    d = q.shape[-1]
    member = jnp.repeat(jnp.eye(heads), d // heads, axis=1)  # (H, D)
    q = q * (d // heads) ** -0.5
    logits = jnp.stack([product("nd,dh->nh", q * k, member.T) for k in keys])  # (M, N, H)
    weights = jax.nn.softmax(logits, axis=0)
    spread = [product("nh,hd->nd", w, member, q.dtype).astype(q.dtype) for w in weights]
    mixed = [w * v for w, v in zip(spread, values, strict=True)]
    return jnp.stack(mixed).sum(axis=0)
