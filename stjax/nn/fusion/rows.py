"""Parts of events as rows: XLA on CPU multiplies (N, D) up to twice as fast as (B, L, D)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def as_rows(parts: Mapping[str, jax.Array]) -> tuple[dict[str, jax.Array], tuple[int, ...]]:
    """{name: (..., D_name)} to {name: (N, D_name)}, sorted by name, and the leading shape."""
    lead = next(iter(parts.values())).shape[:-1]
    return {name: parts[name].reshape(-1, parts[name].shape[-1]) for name in sorted(parts)}, lead


def joined(rows: Mapping[str, jax.Array]) -> jax.Array:
    """All parts side by side, in the mapping's order: (N, sum of D_name)."""
    return jnp.concatenate(list(rows.values()), axis=-1)
