"""Memories of the last W events as rings: a new event takes the row of the oldest, and no other row moves."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def advance(following: jax.Array, keep: jax.Array, width: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where one event of each user goes, how long ago the rows are then, and where the next one goes.

    following: int32 (B,), the row of the next event, 0 at first. keep: bool (B,), False for an event that is
    not kept. width: W. Returns the row (B,), W for none; the lag of each row (B, W), 0 for the last event
    that is kept, also of rows not yet written; and `following` after the event.
    """
    after = jnp.where(keep, (following + 1) % width, following)
    lag = (after[:, None] - 1 - jnp.arange(width, dtype=after.dtype)) % width
    return jnp.where(keep, following, width), lag, after


def write(memory: jax.Array, x: jax.Array, row: jax.Array) -> jax.Array:
    """Set one row of each memory, or none where it is W: (B, W, ...), (B, ...) and (B,)."""
    return memory.at[jnp.arange(row.shape[0]), row].set(x.astype(memory.dtype), mode="drop")
