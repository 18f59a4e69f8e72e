"""Pointwise attention (HSTU, Zhai et al., ICML 2024) by platform: a kernel on TPUs, else tiles."""

from __future__ import annotations

from typing import Any

import jax

from stjax.ops import blocked
from stjax.ops.bias import logit_bias
from stjax.ops.moments import Bias, Moments


def silu_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    events: Moments,
    bias: Bias,
    params: Any,
    window: int,
    block: int | None = None,
) -> jax.Array:
    """As `stjax.ops.blocked.silu_attention`, in arguments and result.

    On TPUs a kernel does it where there is more than one tile, `bias` is `stjax.ops.bias.logit_bias` and
    `pointwise_tpu.covers` the rest. Where a program is for several devices, it has to name their mesh (see
    `stjax.ops.devices`), or the kernel is not used.
    """

    def tiles(q, k, v, events: Moments, params: Any) -> jax.Array:
        return blocked.silu_attention(q, k, v, events, bias, params, window, block)

    if block is not None or q.shape[1] <= blocked.PLAIN_LENGTH or bias is not logit_bias:
        return tiles(q, k, v, events, params)

    from stjax.ops import pointwise_tpu  # Pallas takes long to import

    if not pointwise_tpu.covers(q, params, events, window):
        return tiles(q, k, v, events, params)

    def kernel(q, k, v, events: Moments, params: Any) -> jax.Array:
        y = pointwise_tpu.silu_attention(q, k, v, events, params, window)
        return y / blocked.count_read(events.valid, window).astype(y.dtype)[..., None, None]

    return jax.lax.platform_dependent(q, k, v, events, params, tpu=kernel, default=tiles)
