"""Recurrences over events, in the parallel form (scan over a sequence) and the step form."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stjax.ops.sequence import select


def gru_step(
    projected: jax.Array, h: jax.Array, valid: jax.Array, w_hidden: jax.Array, b_hidden: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One gated recurrent step (Cho et al., 2014, with the reset gate after the product).

        r = sigmoid(x_r + h U_r),  z = sigmoid(x_z + h U_z),  n = tanh(x_n + r * (h U_n + b)),
        h' = (1 - z) n + z h

    projected: (B, 3D), the input's share x W + c in the order r, z, n. h: (B, D). valid: (B,), False
    leaves the state as it is. w_hidden: (D, 3D). b_hidden: (D,). Returns the next state, twice.
    """
    x_r, x_z, x_n = jnp.split(projected, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h @ w_hidden, 3, axis=-1)
    reset = jax.nn.sigmoid(x_r + h_r)
    update = jax.nn.sigmoid(x_z + h_z)
    candidate = jnp.tanh(x_n + reset * (h_n + b_hidden))
    h = select(valid, (1 - update) * candidate + update * h, h)
    return h, h


def gru(
    projected: jax.Array, h: jax.Array, valid: jax.Array, w_hidden: jax.Array, b_hidden: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """All steps of a sequence: (B, L, 3D), (B, D), (B, L) -> last state (B, D), outputs (B, L, D)."""

    def body(carry: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return gru_step(step[0], carry, step[1], w_hidden, b_hidden)

    h, outputs = jax.lax.scan(body, h, (projected.swapaxes(0, 1), valid.swapaxes(0, 1)))
    return h, outputs.swapaxes(0, 1)


def linear_recurrence(
    decay: jax.Array, x: jax.Array, start: jax.Array, associative: bool | None = None
) -> jax.Array:
    """h_l = decay_l * h_(l-1) + x_l for every l: the sum of everything before, fading.

    decay, x: (B, L, ...), equal in shape or broadcast against each other after (B, L); real or complex.
    start: (B, ...), h before the first event. associative: by `associative_scan`, in O(log L) depth and twice
    the work, or by `scan`; None chooses by platform at lowering: `scan` on CPU, where it is several times
    faster. Returns (B, L, ...).
    """
    shape = jnp.broadcast_shapes(decay.shape, x.shape)
    dtype = jnp.result_type(decay, x)
    decay, x = (jnp.broadcast_to(a, shape).astype(dtype) for a in (decay, x))
    start = jnp.broadcast_to(start, shape[:1] + shape[2:]).astype(dtype)
    if associative is None:
        return jax.lax.platform_dependent(decay, x, start, cpu=_by_scan, default=_by_associative_scan)
    return (_by_associative_scan if associative else _by_scan)(decay, x, start)


def _by_scan(decay: jax.Array, x: jax.Array, start: jax.Array) -> jax.Array:
    def body(h: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        h = step[0] * h + step[1]
        return h, h

    return jax.lax.scan(body, start, (decay.swapaxes(0, 1), x.swapaxes(0, 1)))[1].swapaxes(0, 1)


def _by_associative_scan(decay: jax.Array, x: jax.Array, start: jax.Array) -> jax.Array:
    def join(
        first: tuple[jax.Array, jax.Array], second: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        return first[0] * second[0], second[0] * first[1] + second[1]

    faded, own = jax.lax.associative_scan(join, (decay, x), axis=1)
    return faded * start[:, None] + own
