"""The bias of attention's logits by lag, time gap and distance: a pure function of its parameters."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops import attention, geo
from stjax.ops import time as ops

Parameters = Mapping[str, jax.Array]


def logit_bias(
    params: Parameters, lag: jax.Array | np.ndarray, seconds: jax.Array | None, km: jax.Array | None
) -> jax.Array:
    """The sum of the terms that `params` has, as `stjax.ops.moments.Bias` describes: a pure function."""
    total = jnp.float32(0)
    if "lag" in params:
        if lag.ndim == 3:
            total += attention.bucket_bias(params["lag"], jnp.asarray(lag))
        else:
            total += attention.lag_bias(params["lag"], lag)[None]
    if seconds is not None and "gap" in params:
        table = params["gap"]
        total += attention.bucket_bias(table, ops.log_bucket(seconds, table.shape[1]))
    if seconds is not None and "gap_weight" in params:
        gap = seconds.astype(jnp.float32)
        total += _decay(params["gap_weight"], params["log_tau"], gap)
    if km is not None and "distance" in params:
        table, unknown = params["distance"], params["distance"].shape[1] - 1
        bucket = jnp.where(km < 0, unknown, geo.distance_bucket(km, unknown))
        total += attention.bucket_bias(table, bucket)
    if km is not None and "distance_weight" in params:
        decay = _decay(params["distance_weight"], params["log_km"], jnp.maximum(km, 0.0))
        total += jnp.where(km[:, None] < 0, params["unknown"][:, None, None], decay)
    return total


def _decay(weight: jax.Array, log_scale: jax.Array, x: jax.Array) -> jax.Array:
    return attention.decay_bias(jax.nn.softplus(weight), jnp.exp(log_scale), x)
