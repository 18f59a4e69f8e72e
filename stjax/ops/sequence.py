"""Sequences: the previous event, and the memory of the last events that the step forms carry."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def shift(x: jax.Array, fill: float | int | bool = 0, by: int = 1) -> jax.Array:
    """What stood `by` positions earlier: (B, L, ...) -> (B, L, ...), the first ones filled."""
    length = x.shape[1]
    head = jnp.full_like(x[:, : min(by, length)], fill)
    return jnp.concatenate([head, x[:, : max(length - by, 0)]], axis=1)


def push(memory: jax.Array, x: jax.Array, keep: jax.Array) -> jax.Array:
    """Append one entry to a memory of the last W, where `keep` is True: (B, W, ...), (B, ...), (B,)."""
    grown = jnp.concatenate([memory[:, 1:], x[:, None].astype(memory.dtype)], axis=1)
    return select(keep, grown, memory)


def select(keep: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` for the rows where keep (B,) is True, `old` for the others."""
    return jnp.where(keep.reshape(keep.shape + (1,) * (new.ndim - keep.ndim)), new, old)


def last(x: jax.Array, valid: jax.Array) -> jax.Array:
    """The entry at each row's last valid position, zeros where none is: (B, L, ...), (B, L) -> (B, ...)."""
    count = valid.sum(axis=1)
    position = jnp.maximum(count - 1, 0).reshape((-1,) + (1,) * (x.ndim - 1)).astype(jnp.int32)
    found = jnp.take_along_axis(x, position, axis=1)[:, 0]
    return select(count > 0, found, jnp.zeros_like(found))


def shuffled(key: jax.Array, valid: jax.Array) -> jax.Array:
    """An order drawn for each row, its valid entries first: indices (B, L) from bool (B, L)."""
    return jnp.argsort(jnp.where(valid, jax.random.uniform(key, valid.shape), 2.0), axis=1)


def take(x: jax.Array, order: jax.Array) -> jax.Array:
    """Each row's entries in an order of its own: (B, L, ...), (B, L) -> (B, L, ...)."""
    return jnp.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - 2)), axis=1)


def next_same(ids: jax.Array) -> jax.Array:
    """Where the same id comes next: (B, L) to int32 (B, L), L where it does not. By sorting: O(L log L)."""
    length = ids.shape[1]
    order = jnp.argsort(ids, axis=1, stable=True).astype(jnp.int32)
    ordered = jnp.take_along_axis(ids, order, axis=1)
    following = jnp.where(ordered[:, 1:] == ordered[:, :-1], order[:, 1:], length)
    following = jnp.pad(following, ((0, 0), (0, 1)), constant_values=length)
    return jnp.zeros_like(order).at[jnp.arange(ids.shape[0])[:, None], order].set(following)
