"""Rematerialisation: activations that the backward pass computes again instead of keeping them."""

from __future__ import annotations

from typing import Any

from flax import linen as nn


def recomputed(layer: Any, remat: bool, x: Any, *rest: Any) -> Any:
    """layer(x, *rest); with `remat` nothing but x is kept of it for the backward pass.

    The result and the gradients are the same, for the work of one more forward pass (Chen et al., Training
    Deep Nets with Sublinear Memory Cost, 2016).
    """

    def call(layer: Any, x: Any) -> Any:
        return layer(x, *rest)

    return nn.remat(call)(layer, x) if remat else call(layer, x)
