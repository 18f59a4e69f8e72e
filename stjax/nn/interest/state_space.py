"""Continuous-time state space interest: a diagonal linear recurrence whose step is the real time gap."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from stjax.events import Events
from stjax.nn.base import Interest, State
from stjax.nn.checks import check_counts
from stjax.nn.dropout import Dropout
from stjax.nn.interest.movement import Before
from stjax.nn.layers import Dense, LayerNorm
from stjax.nn.precision import compute
from stjax.nn.remat import recomputed
from stjax.ops import gaps
from stjax.ops import time as ops
from stjax.ops.recurrence import linear_recurrence

TYPICAL_GAP = 6 * ops.HOUR  # where the state of a new layer has about unit variance
LONGEST_RUN = 256  # events: the slowest forgetting by count of a new layer
HARMONICS = (1.0, 1 / 7, 2.0, 2 / 7, 3.0, 3 / 7)  # cycles a day: of day and week in turn


class StateSpaceLayer(nn.Module):
    """One layer: pre-norm, N complex modes, gated output, residual; then a feed-forward network.

        h_l = f_l exp(lambda dt_l) h_(l-1) + gain i_l (B u_l),      lambda = -rate + 2 pi i frequency
        f_l = exp(-softplus(W_f u_l + V_f s_l + b_f)),  i_l = sigmoid(W_i u_l + V_i s_l + b_i)
        y_l = (Re(C h_l) + D u_l) sigmoid(W_g u_l + b_g)

    u: the normed input. dt: time since the event before. s: log distance from it, or that it is unknown. A
    diagonal state as in S5 (Smith et al., ICLR 2023) and LRU (Orvieto et al., ICML 2023), gates that read
    the input as in Mamba (Gu and Dao, 2023). The gap is the real one, not learned as there: a wait fades the
    state by its length, however it is cut. f forgets by count of events, which also tells ties apart.

    New modes spread over time constants of `shortest` to `longest` seconds and over runs of 1 to 256 events.
    Up to half of them, the slow ones, turn once a day, a week, or a fraction of them: so the state holds at
    which phases of the user's days and weeks something happened. A frequency is learned in units of 1 / its
    first time constant: a step of training turns no mode by much within its memory.
    """

    modes: int
    expansion: int
    dropout: float
    shortest: int
    longest: int

    @nn.compact
    def __call__(
        self, x: jax.Array, gap: gaps.Gap, valid: jax.Array, train: bool, state: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """x (B, L, D) is the parallel form, x (B, D) the step form; state: (B, 2N), real then imaginary."""
        shape, d, n = x.shape, x.shape[-1], self.modes
        x = x.reshape(-1, d)
        u = LayerNorm(name="norm")(x)
        moved = gaps.distance_features(gap).reshape(-1, 2)
        far = partial(Dense, float32="product")
        taus, frequencies, runs = initial_modes(n, self.shortest, self.longest)

        # A run of r events: softplus(bias) = 1 / r.
        forget_bias = nn.initializers.constant(np.log(np.expm1(1 / runs)).astype(np.float32))
        count_rate = nn.softplus(
            Dense(n, bias_init=forget_bias, float32="result", name="forget")(u)
            + far(n, use_bias=False, kernel_init=nn.initializers.zeros, name="forget_distance")(moved)
        )
        write = nn.sigmoid(
            Dense(n, bias_init=nn.initializers.constant(2.0), float32="result", name="write")(u)
            + far(n, use_bias=False, kernel_init=nn.initializers.zeros, name="write_distance")(moved)
        )

        log_rate = self.param("log_rate", nn.initializers.constant(-np.log(taus).astype(np.float32)), (n,))
        detune = self.param("detune", nn.initializers.zeros, (n,))
        frequency = jnp.asarray(frequencies, jnp.float32) + detune / jnp.asarray(taus, jnp.float32)
        decay = mode_decay(gap.seconds, jnp.exp(log_rate), frequency, count_rate.reshape(*shape[:-1], n))

        fresh = 1 - np.exp(-2 * (TYPICAL_GAP / ops.DAY / taus + 1 / runs))
        log_gain = self.param(
            "log_gain", nn.initializers.constant(0.5 * np.log(fresh).astype(np.float32)), (n,)
        )
        write = write * jnp.exp(log_gain)
        own = jax.lax.complex(
            write * Dense(n, float32="result", name="input_real")(u),
            write * Dense(n, float32="result", name="input_imaginary")(u),
        ).reshape(*shape[:-1], n)
        state, h = _recur(decay, own, valid, state)

        y = Dense(d, float32="result", name="output")(h.reshape(-1, 2 * n))
        y = compute(y + self.param("skip", nn.initializers.ones, (d,)) * u.astype(jnp.float32))
        x = x + Dropout(self.dropout)(y * nn.sigmoid(Dense(d, name="gate")(u)), train)
        y = Dense(self.expansion * d, name="up")(LayerNorm(name="feed_norm")(x))
        x = x + Dropout(self.dropout)(Dense(d, name="down")(nn.gelu(y)), train)
        return state, x.reshape(shape)


class StateSpace(Interest):
    """A stack of state space layers. State: 2N floats a layer, and the time and place of the last event.

    modes: N. expansion: of the feed-forward network. shortest, longest: seconds, the time constants that new
    modes spread over. remat: whether layers are computed again in the backward pass, see `stjax.nn.remat`.
    ValueError for less than one of the first three, and for times that are not ascending.
    """

    layers: int = 2
    modes: int = 64
    expansion: int = 4
    dropout: float = 0.2
    shortest: int = 10 * ops.MINUTE
    longest: int = 90 * ops.DAY
    remat: bool = False

    def setup(self) -> None:
        check_counts(self, "layers", "modes", "expansion")
        if not 0 < self.shortest <= self.longest:
            raise ValueError(f"shortest={self.shortest}, longest={self.longest} must be seconds, ascending")

    def __call__(self, x: jax.Array, events: Events, train: bool = False) -> jax.Array:
        return self._stack(Before.of(events), self._empty(x.shape[0]), x, events, train)[1]

    def step(self, state: State, x: jax.Array, event: Events) -> tuple[State, jax.Array]:
        before, hidden = state
        hidden, y = self._stack(before, hidden, x, event, False)
        return (before.read(event), hidden), y

    def init_state(self, batch: int, features: int) -> State:
        return Before.none(batch), self._empty(batch)

    def _empty(self, batch: int) -> State:
        return tuple(jnp.zeros((batch, 2 * self.modes)) for _ in range(self.layers))

    @nn.compact
    def _stack(
        self, before: Before, hidden: State, x: jax.Array, events: Events, train: bool
    ) -> tuple[State, jax.Array]:
        gap, following = before.gap(events), []
        for i, h in enumerate(hidden):
            layer = StateSpaceLayer(
                self.modes, self.expansion, self.dropout, self.shortest, self.longest, name=f"layer_{i}"
            )
            h, x = recomputed(layer, self.remat, x, gap, events.valid, train, h)
            following.append(h)
        return tuple(following), LayerNorm(name="norm")(x)


def mode_decay(seconds: jax.Array, rate: jax.Array, frequency: jax.Array, count_rate: jax.Array) -> jax.Array:
    """exp(lambda dt) f: (...) int32 seconds, (N,) and (N,) a day, (..., N) an event -> (..., N) complex64.

    Phases lose whole turns in integers. What fades below float32's smallest number is 0, its gradient too.
    """
    days = seconds.astype(jnp.float32)[..., None] / ops.DAY
    size = jnp.exp(-(days * rate + count_rate))
    angle = 2 * jnp.pi * ops.cycles(seconds, frequency)
    return jax.lax.complex(size * jnp.cos(angle), size * jnp.sin(angle))


def initial_modes(modes: int, shortest: int, longest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Time constants in days, frequencies in cycles a day, and runs in events of new modes: (N,) each."""
    taus = np.geomspace(shortest, longest, modes) / ops.DAY
    # The golden ratio's multiples spread runs evenly among the modes of any range of time constants.
    runs = LONGEST_RUN ** np.remainder(np.arange(1, modes + 1) * (np.sqrt(5) - 1) / 2, 1.0)
    frequencies = np.zeros(modes)
    for turn, mode in enumerate(range(modes - 1, -1, -2)):
        harmonic = HARMONICS[turn % len(HARMONICS)]
        if taus[mode] * harmonic >= 1:  # fades over a turn or more
            frequencies[mode] = harmonic
    return taus, frequencies, runs


def _recur(
    decay: jax.Array, own: jax.Array, valid: jax.Array, state: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The recurrence over (B, L, N), or one step of (B, N): last state, and (..., 2N) of every event."""
    start = jax.lax.complex(*jnp.split(state, 2, axis=-1))
    decay = jnp.where(valid[..., None], decay, jnp.ones_like(decay))
    own = jnp.where(valid[..., None], own, jnp.zeros_like(own))
    h = linear_recurrence(decay, own, start) if own.ndim == 3 else decay * start + own
    h = jnp.concatenate([h.real, h.imag], axis=-1)
    return (h[:, -1] if own.ndim == 3 else h), h
