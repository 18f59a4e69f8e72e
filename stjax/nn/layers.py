"""Dense layers and layer norms that compute in the precision of the model they are part of.

Names, shapes and initial values of their parameters are those of Flax; parameters are float32.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.nn.precision import compute, compute_dtype
from stjax.ops.norm import layer_norm
from stjax.ops.product import product


class Dense(nn.Module):
    """x W + b over the last axis: (..., N) to (..., features).

    float32: what stays float32 in any precision. "result": what comes out, the sums as they are, for what a
      softmax, a gate of a state or a sum with embeddings reads. "product": the factors as well, for inputs
      that are times, distances and counts, whose numbers a bfloat16 would blur.
    """

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    float32: Literal["", "result", "product"] = ""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = jnp.float32 if self.float32 == "product" else compute_dtype()
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        rows = "abcdefgh"[: x.ndim - 1]
        y = product(f"{rows}x,xy->{rows}y", x, kernel, dtype)
        if self.use_bias:
            y = y + self.param("bias", self.bias_init, (self.features,), jnp.float32)
        return y if self.float32 else y.astype(dtype)


class LayerNorm(nn.Module):
    """Over the last axis, to mean 0 and variance 1, then scaled and shifted (Ba et al., 2016).

    Mean and variance are float32, the result is of the model's precision.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return compute(layer_norm(x, scale, bias))
