"""Causal self-attention interest (SASRec, Kang and McAuley, ICDM 2018), pre-norm, within a sliding window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from stjax.events import Events
from stjax.nn.base import Interest
from stjax.nn.checks import check_counts
from stjax.nn.dropout import Dropout
from stjax.nn.interest.bias import SpatioTemporalBias
from stjax.nn.layers import Dense, LayerNorm
from stjax.nn.remat import recomputed
from stjax.ops import attention, blocked, rotary
from stjax.ops.bias import Parameters, logit_bias
from stjax.ops.moments import Moments, moments, newest
from stjax.ops.ring import advance, write

KeysValues = tuple[jax.Array, jax.Array]  # (B, W, H, D / H) each, a ring


class WindowState(NamedTuple):
    """The last `window` events: keys and values a layer; validity, and time and place where a bias reads
    them, once for all layers. All are rings (`stjax.ops.ring`); following: the row of the next event."""

    layers: tuple[KeysValues, ...]
    valid: jax.Array  # (B, W)
    time: jax.Array | None  # (B, W)
    place: jax.Array | None  # (B, W, 2)
    following: jax.Array  # int32 (B,)


class Memory(NamedTuple):
    """What is known of the rows of all layers: their moments, their lags (B, W) behind the newest event, and
    the row (B,) that it takes."""

    moments: Moments
    lag: jax.Array
    row: jax.Array


class Reader(NamedTuple):
    """How a layer reads the past: the whole sequence at once, or the newest event from a memory.

    whole: of `stjax.ops.blocked` or `pointwise`. one: its plain form, of `stjax.ops.attention`.
    here: the moments of the events that read. memory: None in the parallel form.
    """

    whole: Callable[..., jax.Array]
    one: Callable[..., jax.Array]
    window: int
    rotary: bool
    here: Moments
    memory: Memory | None

    def __call__(
        self, q: jax.Array, k: jax.Array, v: jax.Array, params: Parameters, kept: KeysValues | None
    ) -> tuple[KeysValues | None, jax.Array]:
        """q, k, v: (B, L, H, D) without a memory, else (B, H, D) of the newest event; so is what is read."""
        if kept is None or self.memory is None:
            if self.rotary:
                position = np.arange(q.shape[1])
                q, k = rotary.rotate(q, position), rotary.rotate(k, position)
            return None, self.whole(q, k, v, self.here, logit_bias, params, self.window)
        there, lag, row = self.memory
        keys, values = write(kept[0], k, row), write(kept[1], v, row)  # float32, of any precision
        turned = rotary.rotate(keys, -np.arange(self.window), lag) if self.rotary else keys
        mask, bias = newest(self.here, there, lag, logit_bias, params)
        return (keys, values), self.one(q[:, None], turned, values, mask, bias)[:, 0]


class AttentionLayer(nn.Module):
    """One layer: attention, then a feed-forward network.

    The order of events enters only through their lag l - m < window, as a learned bias or by rotation, so
    that a memory of the last `window` keys and values gives the step form the same result at any length.
    """

    heads: int
    window: int
    expansion: int
    dropout: float
    positions: Literal["learned", "rotary"]
    bias: SpatioTemporalBias | None

    @nn.compact
    def __call__(
        self, x: jax.Array, read: Reader, train: bool, memory: KeysValues | None
    ) -> tuple[KeysValues | None, jax.Array]:
        """Without a memory x is (B, L, D), the parallel form; with one x is (B, D), the step form."""
        shape, d = x.shape, x.shape[-1]
        x = x.reshape(-1, d)  # XLA on CPU multiplies and fuses (N, D) up to twice as fast as (B, L, D)
        qkv = Dense(3 * d, name="qkv")(LayerNorm(name="norm")(x))
        q, k, v = jnp.split(qkv.reshape(*shape[:-1], 3 * self.heads, d // self.heads), 3, axis=-2)
        params = {} if self.bias is None else self.bias(self.heads)
        if self.positions == "learned":
            params["lag"] = self.param("lag_bias", nn.initializers.zeros, (self.heads, self.window))
        memory, mixed = read(q, k, v, params, memory)
        x = x + Dropout(self.dropout)(Dense(d, name="out")(mixed.reshape(x.shape)), train)
        y = Dense(self.expansion * d, name="up")(LayerNorm(name="feed_norm")(x))
        x = x + Dropout(self.dropout)(Dense(d, name="down")(nn.gelu(y)), train)
        return memory, x.reshape(shape)


class Windowed(Interest):
    """A stack of layers that each read the last `window` events; subclasses say what a layer is.

    bias: adds to the logits what time gaps and distances say, with parameters of its own in each layer.
    remat: whether layers are computed again in the backward pass, see `stjax.nn.remat`.
    ValueError for less than one layer, head or event, and for heads that do not divide the features.
    """

    layers: int = 2
    heads: int = 2
    window: int = 256
    dropout: float = 0.2
    bias: SpatioTemporalBias | None = None
    remat: bool = False

    def setup(self) -> None:
        check_counts(self, "layers", "heads", "window")

    def layer(self, name: str) -> nn.Module:
        """A layer of that name, called as `AttentionLayer` is."""
        raise TypeError(f"{type(self).__name__} must define layer")

    def reader(self, here: Moments, memory: Memory | None) -> Reader:
        """How the layers read the past."""
        raise TypeError(f"{type(self).__name__} must define reader")

    def __call__(self, x: jax.Array, events: Events, train: bool = False) -> jax.Array:
        return self._stack(None, x, events, train)[1]

    def step(self, state: WindowState, x: jax.Array, event: Events) -> tuple[WindowState, jax.Array]:
        following, y = self._stack(state, x, event, False)
        assert following is not None
        return following, y

    def init_state(self, batch: int, features: int) -> WindowState:
        shape = (batch, self.window)
        width = (*shape, self.heads, features // self.heads)
        # An array of its own for every leaf, so that the state can be donated.
        layers = tuple((jnp.zeros(width), jnp.zeros(width)) for _ in range(self.layers))
        time, place = self._read(jnp.zeros(shape, jnp.int32), jnp.full((*shape, 2), jnp.nan))
        return WindowState(layers, jnp.zeros(shape, bool), time, place, jnp.zeros(batch, jnp.int32))

    @nn.compact
    def _stack(
        self, state: WindowState | None, x: jax.Array, events: Events, train: bool
    ) -> tuple[WindowState | None, jax.Array]:
        if x.shape[-1] % self.heads:
            raise ValueError(f"heads={self.heads} does not divide the {x.shape[-1]} features")
        now = (events.valid, *self._read(events.time, events.place))
        if state is None:
            read, memories = self.reader(moments(*now), None), (None,) * self.layers
        else:
            row, lag, following = advance(state.following, events.valid, self.window)
            valid, time, place = jax.tree.map(lambda m, n: write(m, n, row), tuple(state[1:4]), now)
            here = moments(*jax.tree.map(lambda n: n[:, None], now))
            read, memories = self.reader(here, Memory(moments(valid, time, place), lag, row)), state.layers
            state = WindowState(state.layers, valid, time, place, following)
        layers = []
        for i, memory in enumerate(memories):
            memory, x = recomputed(self.layer(f"layer_{i}"), self.remat, x, read, train, memory)
            layers.append(memory)
        state = None if state is None else state._replace(layers=tuple(layers))
        return state, LayerNorm(name="norm")(x)

    def _read(self, time: jax.Array, place: jax.Array) -> tuple[jax.Array | None, jax.Array | None]:
        """Time and place, where the bias reads them."""
        bias = self.bias
        return (
            time if bias is not None and bias.reads_time else None,
            place if bias is not None and bias.reads_place else None,
        )

    def _layer_bias(self) -> SpatioTemporalBias | None:
        return None if self.bias is None else self.bias.clone(parent=None, name=None)


class SelfAttention(Windowed):
    """A stack of causal attention layers. State: keys and values of the last `window` events a layer.

    positions: `learned`, a bias for each lag; or `rotary` (Su et al., 2021), without parameters.
    """

    expansion: int = 4
    positions: Literal["learned", "rotary"] = "learned"

    def setup(self) -> None:
        super().setup()
        check_counts(self, "expansion")

    def layer(self, name: str) -> AttentionLayer:
        if self.positions not in ("learned", "rotary"):
            raise ValueError(f"positions={self.positions!r} must be 'learned' or 'rotary'")
        return AttentionLayer(
            self.heads,
            self.window,
            self.expansion,
            self.dropout,
            self.positions,
            self._layer_bias(),
            name=name,
        )

    def reader(self, here: Moments, memory: Memory | None) -> Reader:
        rotates = self.positions == "rotary"
        return Reader(blocked.softmax_attention, attention.attend, self.window, rotates, here, memory)
