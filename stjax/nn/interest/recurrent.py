"""What GRU and LSTM share: a stack of recurrent layers, optionally gated by time and distance."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Events
from stjax.nn.base import Interest, State
from stjax.nn.checks import check_counts
from stjax.nn.dropout import Dropout
from stjax.nn.interest.movement import Before, GapGates, GateName, gate_features
from stjax.nn.layers import Dense, LayerNorm
from stjax.nn.precision import compute
from stjax.nn.remat import recomputed


def project(
    x: jax.Array,
    features: tuple[jax.Array, ...],
    gates: tuple[GateName, ...],
    count: int,
    bias_init: nn.initializers.Initializer = nn.initializers.zeros,
) -> tuple[jax.Array, jax.Array | None]:
    """The input's share of the sums of a cell, for all events at once; called inside a compact method.

    With gates, gap features also enter each sum, as in Time-LSTM's output gate: so a layer can forget by
    elapsed time and distance.

    x: (..., D). features: (..., 2) of each gate. count: sums of the cell. bias_init: of the sums. Returns
    (..., count * D), and how much to write, float32 (..., D), None without gates.
    """
    d = x.shape[-1]
    rows = LayerNorm(name="norm")(x.reshape(-1, d))
    projected = Dense(count * d, bias_init=bias_init, name="input")(rows)
    if not gates:
        return projected.reshape(*x.shape[:-1], -1), None
    flat = [f.reshape(-1, f.shape[-1]) for f in features]
    sums = Dense(count * d, use_bias=False, float32="product", name="gap")(jnp.concatenate(flat, axis=-1))
    write = GapGates(gates, name="gates")(rows, flat)
    return (projected + compute(sums)).reshape(*x.shape[:-1], -1), write.reshape(x.shape)


class Recurrent(Interest):
    """A stack of recurrent layers with dropout after each; a subclass says which layer.

    State: what the layer keeps, and with gates the time and place of the last event, once for the stack.

    gates: "time", "distance" or both: gates that read the log gap and the log distance from the event before.
    remat: whether layers are computed again in the backward pass, see `stjax.nn.remat`.
    ValueError for less than one layer.
    """

    layers: int = 1
    dropout: float = 0.0
    gates: tuple[GateName, ...] = ()
    remat: bool = False

    def setup(self) -> None:
        check_counts(self, "layers")

    def layer(self, name: str) -> Callable[..., tuple[State, jax.Array]]:
        """A module that takes x, valid, its state and gap features, and returns its state and outputs."""
        raise TypeError(f"{type(self).__name__} must define layer")

    def empty(self, batch: int, features: int) -> State:
        """What one layer keeps, before the first event."""
        raise TypeError(f"{type(self).__name__} must define empty")

    def __call__(self, x: jax.Array, events: Events, train: bool = False) -> jax.Array:
        before = Before.of(events) if self.gates else ()
        return self._stack(before, self._empty(x.shape[0], x.shape[-1]), x, events, train)[1]

    def step(self, state: State, x: jax.Array, event: Events) -> tuple[State, jax.Array]:
        before, hidden = state
        hidden, y = self._stack(before, hidden, x, event, False)
        return (before.read(event) if self.gates else (), hidden), y

    def init_state(self, batch: int, features: int) -> State:
        return Before.none(batch) if self.gates else (), self._empty(batch, features)

    def _empty(self, batch: int, features: int) -> State:
        return tuple(self.empty(batch, features) for _ in range(self.layers))

    @nn.compact
    def _stack(
        self, before: State, hidden: State, x: jax.Array, events: Events, train: bool
    ) -> tuple[State, jax.Array]:
        features = gate_features(before.gap(events), self.gates) if self.gates else ()
        following = []
        for i, h in enumerate(hidden):
            h, x = recomputed(self.layer(f"layer_{i}"), self.remat, x, events.valid, h, features)
            x = Dropout(self.dropout)(x, train)
            following.append(h)
        return tuple(following), x
