"""Hierarchical sequential transduction units (HSTU, Zhai et al., ICML 2024): attention without softmax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.nn.dropout import Dropout
from stjax.nn.interest.attention import KeysValues, Memory, Reader, Windowed
from stjax.nn.interest.bias import SpatioTemporalBias
from stjax.nn.layers import Dense, LayerNorm
from stjax.ops import attention, pointwise
from stjax.ops.moments import Moments


class HSTULayer(nn.Module):
    """One layer: U, V, Q, K = split(silu(f(norm(x)))); x + g(norm(silu(Q K^T + bias) V / n) * U)."""

    heads: int
    window: int
    dropout: float
    bias: SpatioTemporalBias | None

    @nn.compact
    def __call__(
        self, x: jax.Array, read: Reader, train: bool, memory: KeysValues | None
    ) -> tuple[KeysValues | None, jax.Array]:
        """Without a memory x is (B, L, D), the parallel form; with one x is (B, D), the step form."""
        shape, d = x.shape, x.shape[-1]
        x = x.reshape(-1, d)
        uvqk = nn.silu(Dense(4 * d, name="uvqk")(LayerNorm(name="norm")(x)))
        u, vqk = uvqk[:, :d], uvqk[:, d:]
        v, q, k = jnp.split(vqk.reshape(*shape[:-1], 3 * self.heads, d // self.heads), 3, axis=-2)
        params = {} if self.bias is None else self.bias(self.heads)
        params["lag"] = self.param("lag_bias", nn.initializers.zeros, (self.heads, self.window))
        memory, mixed = read(q, k, v, params, memory)
        y = LayerNorm(name="mixed_norm")(mixed.reshape(x.shape)) * u
        x = x + Dense(d, name="out")(Dropout(self.dropout)(y, train))
        return memory, x.reshape(shape)


class HSTU(Windowed):
    """A stack of HSTU layers. State: keys and values of the last `window` events a layer, and their times.

    Each layer adds to its logits a learned bias for each lag below `window`, and `bias`: by default one for
    each power of two of the time gap, as in the paper. n is the number of events that are read, at most
    `window`, so that neither padding nor the length of the batch changes a result.
    """

    bias: SpatioTemporalBias | None = SpatioTemporalBias(gap_buckets=26, distance_buckets=0)

    def layer(self, name: str) -> HSTULayer:
        return HSTULayer(self.heads, self.window, self.dropout, self._layer_bias(), name=name)

    def reader(self, here: Moments, memory: Memory | None) -> Reader:
        return Reader(pointwise.silu_attention, attention.attend_silu, self.window, False, here, memory)
