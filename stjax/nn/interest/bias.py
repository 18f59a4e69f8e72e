"""Spatiotemporal bias of attention: how long ago and how far away a past event was, as a learned logit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from stjax.nn.checks import check_counts
from stjax.ops import time as ops

SHORTEST_KM, LONGEST_KM = 1.0, 100.0  # where the heads' power laws start to fall, at first


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

    def setup(self) -> None:
        check_counts(self, "gap_buckets", "distance_buckets", least=0)

    @property
    def reads_time(self) -> bool:
        return self.gap_buckets > 0 or self.power_law

    @property
    def reads_place(self) -> bool:
        return self.distance_buckets > 0 or self.power_law

    @nn.compact
    def __call__(self, heads: int) -> dict[str, jax.Array]:
        """The parameters that `stjax.ops.bias.logit_bias` reads. Raises ValueError if every term is off."""
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
