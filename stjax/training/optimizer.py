"""The optimizer: AdamW with warm-up, schedule, clipping, and decay of matrices only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from stjax.training.experiment import Optimizer

TABLES = ("embedding", "table")


def decays(path: tuple[Any, ...], parameter: Any) -> bool:
    """Whether weight decay acts on a parameter.

    The rule: it has at least two dimensions (so no norm or scalar), its name does not end in `bias`, and
    no part of its path is named `embedding` or `table` (a row that a batch does not touch must not shrink).
    path: as `jax.tree_util.tree_map_with_path` gives it.
    """
    names = [str(getattr(key, "key", key)) for key in path]
    named = names[-1].endswith("bias") or any(name in TABLES for name in names)
    return parameter.ndim >= 2 and not named


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
    return optax.chain(
        clip,
        optax.scale_by_adam(b1=settings.b1, b2=settings.b2),
        optax.add_decayed_weights(settings.weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(learning_rate(settings, total_steps)),
    )
