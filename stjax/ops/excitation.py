"""How often, and how lately, each past event's item was there: sums of kernels over the events of one id.

    s_k(q, m) = sum_{j read by q} [id_j = id_m] exp(-(now_q - time_j) / tau_k)

as the intensity of a self-exciting process has them (Hawkes, Biometrika, 1971); without a tau the kernel is 1
and the sum counts. Shapes: `B` batch, `Q` requests, `M` past events, `K` kernels. Nothing here has gradients.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stjax.ops import time as ops


def sums(
    ids: jax.Array, time: jax.Array, now: jax.Array, read: jax.Array, taus: tuple[int, ...]
) -> jax.Array:
    """Of any requests: ids, time (B, M), now (B, Q), read bool (B, Q, M) to (B, 1 + K, Q, M) float32.

    ids: below 0 for events that count nowhere. The first of the sums is the count. O(Q M^2).
    """
    kernels = _kernels(now[:, :, None], time[:, None, :], taus)
    return jnp.einsum("bkqj,bjm->bkqm", jnp.where(read[:, None], kernels, 0.0), _same(ids))


def consecutive_sums(
    ids: jax.Array, time: jax.Array, now: jax.Array, window: int, taus: tuple[int, ...]
) -> jax.Array:
    """The same of the last Q of M events, each request reading its own event and the window - 1 before it.

    Times ascend, and no request is before its event. O(Q M): from one event to the next the sums fade, the
    new event comes in, and the one that leaves the window goes out.
    """
    requests, events = now.shape[1], ids.shape[1]
    own = events - requests  # the event of the first request
    start, same = max(0, own - window + 1), _same(ids)
    kernels = _kernels(time[:, own, None], time[:, start : own + 1], taus)
    first = jnp.einsum("bkj,bjm->bkm", kernels, same[:, start : own + 1])
    fade = _kernels(time[:, own + 1 :], time[:, own:-1], taus)
    come = [jnp.moveaxis(fade, -1, 0), jnp.moveaxis(same[:, own + 1 :], 1, 0)]
    if leaves := events > window:
        old = jnp.arange(own + 1, events) - window
        gone = jnp.where(old >= 0, _kernels(time[:, own + 1 :], time[:, jnp.maximum(old, 0)], taus), 0.0)
        come += [jnp.moveaxis(gone, -1, 0), jnp.moveaxis(same[:, jnp.maximum(old, 0)], 1, 0)]

    def body(total: jax.Array, step: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        total = step[0][..., None] * total + step[1][:, None]
        if leaves:
            total = jnp.maximum(total - step[2][..., None] * step[3][:, None], 0.0)
        return total, total

    rest = jax.lax.scan(body, first, come)[1]
    total = jnp.concatenate([first[None], rest])  # (Q, B, 1 + K, M)
    since = jnp.moveaxis(_kernels(now, time[:, own:], taus), -1, 0)
    return jnp.moveaxis(since[..., None] * total, 0, 2)


def _kernels(now: jax.Array, time: jax.Array, taus: tuple[int, ...]) -> jax.Array:
    """(B, ...) to (B, 1 + K, ...): one, and exp(-gap / tau) for each tau."""
    seconds = ops.elapsed(now, time).astype(jnp.float32)
    return jnp.stack([jnp.ones_like(seconds), *(jnp.exp(seconds * (-1.0 / tau)) for tau in taus)], axis=1)


def _same(ids: jax.Array) -> jax.Array:
    return ((ids[:, :, None] == ids[:, None, :]) & (ids >= 0)[:, None, :]).astype(jnp.float32)
