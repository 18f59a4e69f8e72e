"""How often a candidate stands among the events that may be read: in all, and in a context like now."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Pair = tuple[jax.Array, jax.Array]


def repeats(
    candidate: jax.Array, item: jax.Array, readable: jax.Array, contexts: Sequence[Pair] = ()
) -> jax.Array:
    """Counts of each candidate's earlier events as features, (B, Q, C, 2 + 2F + 1) float32.

    candidate: (B, Q, C) item ids. item: (B, L) of the past. readable: bool (B, Q, L). contexts: for each of F
    fields its ids now, (B, Q), and those of the past, (B, L).
    With n the readable events, n_v those of the candidate, n^f and n_v^f those of them whose field f is as it
    is now: log(1 + n_v), n_v / n; for each field log(1 + n_v^f), n_v^f / n^f; log(1 + n). Shares of nothing
    are 0.
    """
    same = ((candidate[..., None] == item[:, None, None, :]) & readable[:, :, None, :]).astype(jnp.float32)
    n = readable.sum(axis=-1).astype(jnp.float32)[..., None]  # (B, Q, 1)
    features = _both(same.sum(axis=-1), n)
    for now, then in contexts:
        alike = (now[:, :, None] == then[:, None, :]) & readable
        count = jnp.einsum("bqcl,bql->bqc", same, alike.astype(jnp.float32))
        features += _both(count, alike.sum(axis=-1).astype(jnp.float32)[..., None])
    features.append(jnp.broadcast_to(jnp.log1p(n), candidate.shape))
    return jnp.stack(features, axis=-1)


def _both(count: jax.Array, total: jax.Array) -> list[jax.Array]:
    return [jnp.log1p(count), count / jnp.maximum(total, 1.0)]
