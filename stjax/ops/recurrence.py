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
