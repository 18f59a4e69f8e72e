"""The optimizer: AdamW with warm-up, schedule, clipping, and decay of matrices only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stjax.training.experiment import Optimizer
from stjax.training.paths import named, of_member, vocabulary_of

TABLES = ("embedding", "table")


def decays(path: tuple[Any, ...], parameter: Any) -> bool:
    """Whether weight decay acts on a parameter.

    The rule: it has at least two dimensions (so no norm or scalar; the members of an ensemble do not count),
    its name does not end in `bias`, and no part of its path is named `embedding` or `table` (a row that a
    batch does not touch must not shrink).
    path: as `jax.tree_util.tree_map_with_path` gives it.
    """
    name, stacked = of_member(named(path))
    names = name.split("/")
    spared = names[-1].endswith("bias") or any(part in TABLES for part in names)
    return parameter.ndim - stacked >= 2 and not spared


def decay_mask(params: Any) -> Any:
    """The tree of `decays` over all parameters."""
    return jax.tree_util.tree_map_with_path(decays, params)


def learning_rate(settings: Optimizer, total_steps: int) -> Callable[[Any], Any]:
    """Rate of step 0, 1, ...: linear warm-up (the first step already moves), then the schedule.

    cosine: falls to zero after the last of `total_steps`.
    """
    warmup = settings.warmup_steps
    rest = max(total_steps - warmup, 1)

    def rate(step: Any) -> Any:
        value = settings.learning_rate * jnp.minimum((step + 1) / (warmup + 1), 1.0)
        if settings.schedule == "cosine":
            done = jnp.clip((step - warmup) / rest, 0.0, 1.0)
            value = value * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        return value

    return rate


def make_optimizer(settings: Optimizer, total_steps: int) -> optax.GradientTransformation:
    """The whole chain from gradient to update."""
    clip = optax.clip_by_global_norm(settings.clip_norm) if settings.clip_norm else optax.identity()
    rate = learning_rate(settings, total_steps)
    adam = (
        optax.scale_by_adam(b1=settings.b1, b2=settings.b2),
        optax.add_decayed_weights(settings.weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(rate),
    )
    if settings.tables == "adamw":
        return optax.chain(clip, *adam)
    scale = optax.scale_by_adam(b1=settings.b1, b2=settings.b2)
    if settings.tables == "adagrad":
        scale = scale_by_row_adagrad()
    times = settings.tables_rate / settings.learning_rate if settings.tables_rate else 1.0
    rows = optax.chain(scale, optax.scale_by_learning_rate(lambda step: times * rate(step)))
    return optax.chain(clip, optax.partition({"rest": optax.chain(*adam), "rows": rows}, row_labels))


def row_labels(params: Any) -> Any:
    """The tree of "rows", for tables of items and users, and "rest"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "rest" if vocabulary_of(named(path)) is None else "rows", params
    )


class RowSums(NamedTuple):
    """Of each row the sum over steps of its mean squared gradient: (V,) for parameters (V, ...)."""

    sums: Any


def scale_by_row_adagrad(initial: float = 0.1, eps: float = 1e-8) -> optax.GradientTransformation:
    """Adagrad with one sum a row instead of one a number: g / (sqrt(initial + sum of mean(g^2)) + eps).

    A row whose gradient is zero stays as it is, and so does its sum: updating only rows that a batch has read
    gives the same as updating all. initial: the sum before the first step.
    Sources: Duchi et al., JMLR 2011; one sum a row as in Mudigere et al., ISCA 2022.
    """

    def init(params: Any) -> RowSums:
        return RowSums(jax.tree.map(lambda p: jnp.full(p.shape[:1], initial, jnp.float32), params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, RowSums]:
        del params

        def grown(g: jax.Array, total: jax.Array) -> jax.Array:
            return total + jnp.square(g.reshape(g.shape[0], -1)).mean(axis=1)

        def scaled(g: jax.Array, total: jax.Array) -> jax.Array:
            return g / (jnp.sqrt(total) + eps).reshape(-1, *[1] * (g.ndim - 1))

        sums = jax.tree.map(grown, updates, state.sums)
        return jax.tree.map(scaled, updates, sums), RowSums(sums)

    return optax.GradientTransformation(init, update)
