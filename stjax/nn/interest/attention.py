"""Causal self-attention interest (SASRec, Kang and McAuley, ICDM 2018), pre-norm, within a sliding window."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Events
from stjax.nn.base import Interest, State
from stjax.nn.dropout import Dropout
from stjax.ops import attention
from stjax.ops.sequence import push


class AttentionLayer(nn.Module):
    """One layer: attention with a learned bias for each lag, then a feed-forward network.

    The order of events enters only through the bias of the lag l - m < window, so that a bounded memory of
    the last `window` keys and values gives the step form the same result at any length of history.
    """

    heads: int
    window: int
    expansion: int
    dropout: float

    @nn.compact
    def __call__(
        self, x: jax.Array, valid: jax.Array, train: bool, memory: State | None = None
    ) -> tuple[State | None, jax.Array]:
        """Without a memory x is (B, L, D), the parallel form; with one x is (B, D), the step form."""
        shape, d = x.shape, x.shape[-1]
        x = x.reshape(-1, d)  # XLA on CPU multiplies and fuses (N, D) up to twice as fast as (B, L, D)
        qkv = nn.Dense(3 * d, name="qkv")(nn.LayerNorm(name="norm")(x))
        q, k, v = jnp.split(qkv.reshape(*shape[:-1], 3 * self.heads, d // self.heads), 3, axis=-2)
        bias = self.param("lag_bias", nn.initializers.zeros, (self.heads, self.window))
        if memory is None:
            mixed = _parallel(q, k, v, valid, bias)
        else:
            memory, mixed = _step(memory, q, k, v, valid, bias)
        x = x + Dropout(self.dropout)(nn.Dense(d, name="out")(mixed.reshape(x.shape)), train)
        y = nn.Dense(self.expansion * d, name="up")(nn.LayerNorm(name="feed_norm")(x))
        x = x + Dropout(self.dropout)(nn.Dense(d, name="down")(nn.gelu(y)), train)
        return memory, x.reshape(shape)


def _parallel(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array, bias: jax.Array) -> jax.Array:
    length, window = q.shape[1], bias.shape[1]
    lag = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    mask = attention.causal_mask(length, window) & valid[:, None, None, :]
    return attention.attend(q, k, v, mask, bias[:, jnp.clip(lag, 0, window - 1)])


def _step(
    memory: State, q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array, bias: jax.Array
) -> tuple[State, jax.Array]:
    keys, values, real = memory
    keys, values, real = push(keys, k, valid), push(values, v, valid), push(real, valid, valid)
    mask = real[:, None, None, :]
    mixed = attention.attend(q[:, None], keys, values, mask, bias[None, :, None, ::-1])
    return (keys, values, real), mixed[:, 0]


class SelfAttention(Interest):
    """A stack of causal attention layers. State: keys and values of the last `window` events a layer."""

    layers: int = 2
    heads: int = 2
    window: int = 256
    expansion: int = 4
    dropout: float = 0.2

    def __call__(self, x: jax.Array, events: Events, train: bool = False) -> jax.Array:
        return self._stack((None,) * self.layers, x, events.valid, train)[1]

    def step(self, state: State, x: jax.Array, event: Events) -> tuple[State, jax.Array]:
        return self._stack(state, x, event.valid, False)

    def init_state(self, batch: int, features: int) -> State:
        shape = (batch, self.window, self.heads, features // self.heads)
        empty = jnp.zeros(shape), jnp.zeros(shape), jnp.zeros((batch, self.window), bool)
        return (empty,) * self.layers

    @nn.compact
    def _stack(self, state: State, x: jax.Array, valid: jax.Array, train: bool) -> tuple[State, jax.Array]:
        if x.shape[-1] % self.heads:
            raise ValueError(f"heads={self.heads} does not divide the {x.shape[-1]} features")
        following = []
        for i, memory in enumerate(state):
            layer = AttentionLayer(self.heads, self.window, self.expansion, self.dropout, name=f"layer_{i}")
            memory, x = layer(x, valid, train, memory)
            following.append(memory)
        return tuple(following), nn.LayerNorm(name="norm")(x)
