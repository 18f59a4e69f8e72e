"""Spatiotemporal bias of attention: how long ago and how far away a past event was, as a learned logit."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from stjax.ops import attention, geo
from stjax.ops import time as ops

SHORTEST_KM, LONGEST_KM = 1.0, 100.0  # where the heads' power laws start to fall, at first

Parameters = Mapping[str, jax.Array]


def logit_bias(
    params: Parameters, lag: jax.Array | np.ndarray, seconds: jax.Array | None, km: jax.Array | None
) -> jax.Array:
    """The sum of the terms that `params` has, as `stjax.ops.moments.Bias` describes: a pure function."""
    total = jnp.float32(0)
    if "lag" in params:
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


class SpatioTemporalBias(nn.Module):
    """What each head adds to the logit of a past event for its time gap and its distance.

    gap_buckets: a learned logit for each power of two of a second, up to 2^gap_buckets (HSTU, Zhai et al.,
      ICML 2024; intervals as in TiSASRec, Li et al., WSDM 2020); 0 leaves it out.
    distance_buckets: a learned logit for each power of two of a kilometre from 1/16 km, and one where either
      place is unknown (intervals in space and time as in STAN, Luo et al., WWW 2021); 0 leaves it out.
    power_law: -alpha log(1 + gap / tau), with alpha > 0 and tau learned per head, and the same for
      kilometres, where an unknown place has a learned logit; per-head slopes as in ALiBi (Press et al.,
      ICLR 2022), of the logarithm.
    """

    gap_buckets: int = 26
    distance_buckets: int = 16
    power_law: bool = False

    @property
    def reads_time(self) -> bool:
        return self.gap_buckets > 0 or self.power_law

    @property
    def reads_place(self) -> bool:
        return self.distance_buckets > 0 or self.power_law

    @nn.compact
    def __call__(self, heads: int) -> dict[str, jax.Array]:
        """The parameters that `logit_bias` reads. Raises ValueError if every term is off."""
        if not (self.reads_time or self.reads_place):
            raise ValueError("SpatioTemporalBias has no term; give buckets or power_law, or use bias=None")
        params = {}

        def add(name: str, shape: tuple[int, ...], init: nn.initializers.Initializer) -> None:
            params[name] = self.param(name, init, shape, jnp.float32)

        zeros = nn.initializers.zeros
        if self.gap_buckets:
            add("gap", (heads, self.gap_buckets), zeros)
        if self.distance_buckets:
            add("distance", (heads, self.distance_buckets + 1), zeros)
        if self.power_law:
            add("gap_weight", (heads,), nn.initializers.constant(-2.0))
            add("log_tau", (heads,), _spread(ops.HOUR, ops.WEEK))
            add("distance_weight", (heads,), nn.initializers.constant(-2.0))
            add("log_km", (heads,), _spread(SHORTEST_KM, LONGEST_KM))
            add("unknown", (heads,), zeros)
        return params


def _spread(least: float, most: float) -> nn.initializers.Initializer:
    """Logarithms of scales, from the least for the first head to the most for the last."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        del key
        return jnp.linspace(np.log(least), np.log(most), shape[0], dtype=dtype)

    return init
