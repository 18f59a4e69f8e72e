"""Recurrences over events, in the parallel form (scan over a sequence) and the step form."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from stjax.ops.product import product
from stjax.ops.sequence import select


def gru_step(
    projected: jax.Array,
    h: jax.Array,
    valid: jax.Array,
    w_hidden: jax.Array,
    b_hidden: jax.Array,
    write: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One gated recurrent step (Cho et al., 2014, with the reset gate after the product).

        r = sigmoid(x_r + h U_r),  z = sigmoid(x_z + h U_z),  n = tanh(x_n + r * (h U_n + b)),
        h' = h + w (1 - z) (n - h)

    projected: (B, 3D), the input's share x W + c in the order r, z, n; its dtype is that of the products with
    U, all else is float32. h: (B, D). valid: (B,), False
    leaves the state as it is. w_hidden: (D, 3D). b_hidden: (D,). write: (B, D), what share of the update is
    written, w, 1 where it is None. Returns the next state, twice.
    """
    h = _gru_cell(_parts(projected, 3), h, valid, _parts(w_hidden, 3), b_hidden, write)
    return h, h


def gru(
    projected: jax.Array,
    h: jax.Array,
    valid: jax.Array,
    w_hidden: jax.Array,
    b_hidden: jax.Array,
    write: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """All steps of a sequence: (B, L, 3D), (B, D), (B, L) -> last state (B, D), outputs (B, L, D)."""
    weights = _parts(w_hidden, 3)

    def body(h: jax.Array, step: Any) -> tuple[jax.Array, jax.Array]:
        parts, valid, write = step
        h = _gru_cell(parts, h, valid, weights, b_hidden, write)
        return h, h

    h, outputs = jax.lax.scan(body, h, _steps((_parts(projected, 3), valid, write)))
    return h, outputs.swapaxes(0, 1)


def _gru_cell(
    parts: list[jax.Array],
    h: jax.Array,
    valid: jax.Array,
    weights: list[jax.Array],
    b_hidden: jax.Array,
    write: jax.Array | None,
) -> jax.Array:
    # One product a gate: XLA on CPU does not vectorise a fusion that cuts one product into gates, which made
    # the whole loop 2.5 times slower.
    h_r, h_z, h_n = (product("bd,de->be", h, w, parts[0].dtype) for w in weights)
    x_r, x_z, x_n = (x.astype(h.dtype) for x in parts)
    reset = jax.nn.sigmoid(x_r + h_r)
    keep = jax.nn.sigmoid(x_z + h_z)
    candidate = jnp.tanh(x_n + reset * (h_n + b_hidden))
    share = 1 - keep if write is None else write * (1 - keep)
    return select(valid, h + share * (candidate - h), h)


def lstm_step(
    projected: jax.Array,
    state: tuple[jax.Array, jax.Array],
    valid: jax.Array,
    w_hidden: jax.Array,
    write: jax.Array | None = None,
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """One step of long short-term memory (Hochreiter and Schmidhuber, 1997; f: Gers et al., 2000).

        i, f, o = sigmoid(x_i + h U_i), sigmoid(x_f + h U_f), sigmoid(x_o + h U_o),  g = tanh(x_g + h U_g),
        c' = f c + w i g,  h' = o tanh(c')

    projected: (B, 4D), the input's share x W + b in the order i, f, o, g; its dtype is that of the products
    with U, all else is float32. state: h and c, (B, D) each. valid:
    (B,), False leaves the state as it is. w_hidden: (D, 4D). write: (B, D), w, 1 where it is None. Returns
    the next state, and its h.
    """
    state = _lstm_cell(_parts(projected, 4), state, valid, _parts(w_hidden, 4), write)
    return state, state[0]


def lstm(
    projected: jax.Array,
    state: tuple[jax.Array, jax.Array],
    valid: jax.Array,
    w_hidden: jax.Array,
    write: jax.Array | None = None,
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """All steps of a sequence: (B, L, 4D), (B, D) twice, (B, L) -> last state, outputs (B, L, D)."""
    weights = _parts(w_hidden, 4)

    def body(state: tuple[jax.Array, jax.Array], step: Any) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        parts, valid, write = step
        state = _lstm_cell(parts, state, valid, weights, write)
        return state, state[0]

    state, outputs = jax.lax.scan(body, state, _steps((_parts(projected, 4), valid, write)))
    return state, outputs.swapaxes(0, 1)


def _lstm_cell(
    parts: list[jax.Array],
    state: tuple[jax.Array, jax.Array],
    valid: jax.Array,
    weights: list[jax.Array],
    write: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    h, c = state
    i, f, o, g = (
        x.astype(h.dtype) + product("bd,de->be", h, w, x.dtype) for x, w in zip(parts, weights, strict=True)
    )
    new = jax.nn.sigmoid(i) * jnp.tanh(g)
    next_c = jax.nn.sigmoid(f) * c + (new if write is None else write * new)
    next_h = jax.nn.sigmoid(o) * jnp.tanh(next_c)
    return select(valid, next_h, h), select(valid, next_c, c)


def _parts(x: jax.Array, count: int) -> list[jax.Array]:
    return jnp.split(x, count, axis=-1)


def _steps(x: Any) -> Any:
    """Time first, for a scan."""
    return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), x)


def linear_recurrence(
    decay: jax.Array, x: jax.Array, start: jax.Array, associative: bool | None = None
) -> jax.Array:
    """h_l = decay_l * h_(l-1) + x_l for every l: the sum of everything before, fading.

    decay, x: (B, L, ...), equal in shape or broadcast against each other after (B, L); real or complex.
    start: (B, ...), h before the first event. associative: by `associative_scan`, in O(log L) depth and twice
    the work, or by `scan`; None chooses by platform at lowering: `scan` on CPU, where it is several times
    faster, and where neither unrolling, nor chunks, nor a gradient written by hand made it any faster.
    Returns (B, L, ...).
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
