"""The continuous-time state space model: decay by elapsed time, against plain loops in float64."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.events import Events
from stjax.nn.interest.state_space import StateSpace, initial_modes, mode_decay
from stjax.ops import time as ops
from tests.random_events import random_events
from tests.strict import strict

pytestmark = strict
B, L, D, N = 3, 11, 6, 5
MODEL = StateSpace(layers=2, modes=N, expansion=2, dropout=0.0)
RATE = jnp.asarray([1e-2, 0.3, 1.0, 24.0, 144.0], jnp.float32)  # a day
FREQUENCY = jnp.asarray([0.0, 1.0, 1 / 7, 2.0, -0.31], jnp.float32)  # cycles a day
decay_of = jax.jit(mode_decay)


@partial(jax.jit, static_argnames=("model", "method"))
def run(model: StateSpace, variables, *args, method: str = "__call__"):
    return model.apply(variables, *args, method=method)


def events_of(seed: int, full: bool = False) -> Events:
    return jax.tree.map(jnp.asarray, random_events(B, L, seed, full=full))


def features(seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(B, L, D)), jnp.float32)


def parameters(model: StateSpace = MODEL, seed: int = 0):
    shapes = jax.eval_shape(model.init, jax.random.key(0), features(0), events_of(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), x.dtype), shapes)


VARIABLES = parameters()


def test_step_by_step_equals_the_whole_sequence() -> None:
    x = features(1)
    for seed, full in ((1, False), (2, True)):
        events = events_of(seed, full)
        assert (np.diff(events.time) == 0)[np.asarray(events.valid[:, 1:])].any()  # ties
        whole = run(MODEL, VARIABLES, x, events)
        state = MODEL.init_state(B, D)
        for position in range(L):
            event = events[:, position]
            after, y = run(MODEL, VARIABLES, state, x[:, position], event, method="step")
            keep = np.asarray(event.valid)
            np.testing.assert_allclose(whole[keep, position], y[keep], atol=1e-5)
            jax.tree.map(lambda a, b, k=~keep: np.testing.assert_array_equal(a[k], b[k]), after, state)
            state = after
        assert sum(leaf.size for leaf in jax.tree.leaves(state)) == B * (2 * 2 * N + 4)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def norm(x: np.ndarray, p) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def dense(x: np.ndarray, p) -> np.ndarray:
    return x @ p["kernel"] + p.get("bias", 0.0)


def km_between(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.radians(a), np.radians(b)
    h = np.sin((b[0] - a[0]) / 2) ** 2 + np.cos(a[0]) * np.cos(b[0]) * np.sin((b[1] - a[1]) / 2) ** 2
    return 2 * 6371.0088 * np.arcsin(np.sqrt(h))


def loop_layer(x: np.ndarray, time: np.ndarray, place: np.ndarray, p, tau: np.ndarray, turn: np.ndarray):
    """One layer over the events of one user, as the paper's formulas have it."""
    h, outputs = np.zeros(N, complex), []
    for t in range(len(x)):
        u = norm(x[t], p["norm"])
        known = t > 0 and np.isfinite(place[[t - 1, t]]).all()
        s = np.asarray([0.2 * np.log1p(km_between(place[t - 1], place[t]) / 0.05), 0] if known else [0.0, 1])
        forget = dense(u, p["forget"]) + dense(s, p["forget_distance"])
        write = sigmoid(dense(u, p["write"]) + dense(s, p["write_distance"]))
        days = (time[t] - time[t - 1]) / 86_400 if t else 0.0
        mode = -np.exp(p["log_rate"]) + 2j * np.pi * (turn + p["detune"] / tau)
        own = dense(u, p["input_real"]) + 1j * dense(u, p["input_imaginary"])
        faded = np.exp(mode * days) / (1 + np.exp(forget))  # exp(-softplus)
        h = faded * h + np.exp(p["log_gain"]) * write * own
        y = dense(np.concatenate([h.real, h.imag]), p["output"]) + p["skip"] * u
        y = x[t] + y * sigmoid(dense(u, p["gate"]))
        up = dense(norm(y, p["feed_norm"]), p["up"])
        gelu = 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
        outputs.append(y + dense(gelu, p["down"]))
    return np.stack(outputs)


def test_the_model_is_the_plain_loop() -> None:
    x, events = features(1), jax.tree.map(np.asarray, events_of(2, full=True))
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), VARIABLES["params"])
    tau, turn, _ = initial_modes(N, MODEL.shortest, MODEL.longest)
    whole = run(MODEL, VARIABLES, x, events)
    for i in range(B):
        y = np.asarray(x[i], np.float64)
        for layer in ("layer_0", "layer_1"):
            time, place = events.time[i].astype(np.int64), events.place[i].astype(np.float64)
            y = loop_layer(y, time, place, p[layer], tau, turn)
        np.testing.assert_allclose(whole[i], norm(y, p["norm"]), atol=2e-4)


def test_neither_padding_nor_the_future_changes_anything() -> None:
    x, events, other, garbage = features(1), events_of(1), features(5), events_of(9, full=True)

    def mix(keep: jax.Array) -> tuple[jax.Array, Events]:
        def choose(a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.where(keep.reshape(keep.shape + (1,) * (a.ndim - 2)), a, b)

        return choose(x, other), jax.tree.map(choose, events, garbage)

    whole, valid = run(MODEL, VARIABLES, x, events), np.asarray(events.valid)
    padded_x, padded = mix(events.valid)
    same = run(MODEL, VARIABLES, padded_x, padded.replace(valid=events.valid))
    np.testing.assert_array_equal(whole[valid], same[valid])
    past = jnp.broadcast_to(jnp.arange(L) < 5, (B, L))
    changed = run(MODEL, VARIABLES, *mix(past))
    keep = valid & np.asarray(past)
    np.testing.assert_allclose(whole[keep], changed[keep], atol=1e-6)
    assert np.abs(whole[valid & ~keep] - changed[valid & ~keep]).max() > 1e-2


def test_gradients_are_finite_and_reach_every_parameter() -> None:
    """Gaps of 0 s, of 60 years, places at 0 km: nothing of it may poison a gradient."""
    x, events, weight = features(2), events_of(2, full=True), features(3)
    time = events.time.at[:, 3].set(events.time[:, 2]).at[:, -1].set(2**31 - 1)
    events = events.replace(time=time, place=events.place.at[:, 3:5].set(events.place[:, 3:4]))

    @jax.jit
    def gradient(variables, x):
        return jax.grad(lambda v, x: (MODEL.apply(v, x, events) * weight).sum(), (0, 1))(variables, x)

    for path, g in jax.tree_util.tree_leaves_with_path(gradient(VARIABLES, x)):
        assert np.isfinite(g).all() and (np.asarray(g) != 0).any(), path


def test_whole_weeks_later_is_the_same_and_slower_is_not() -> None:
    x, events = features(1), events_of(2, full=True)
    whole = run(MODEL, VARIABLES, x, events)
    later = events.replace(time=events.time + 107 * ops.WEEK)
    np.testing.assert_allclose(whole, run(MODEL, VARIABLES, x, later), atol=1e-6)
    slower = events.replace(time=events.time + jnp.arange(L, dtype=jnp.int32) * 36_000)
    nowhere = events.replace(place=jnp.full_like(events.place, jnp.nan))
    for changed in (slower, nowhere):
        assert jnp.abs(whole - run(MODEL, VARIABLES, x, changed)).max() > 1e-2


def test_a_wait_is_as_long_as_its_parts() -> None:
    rng = np.random.default_rng(0)
    one, other = (jnp.asarray(np.exp(rng.uniform(0, 19, 300)), jnp.int32) for _ in range(2))
    none = jnp.zeros((300, N))
    whole = decay_of(one + other, RATE, FREQUENCY, none)
    parts = decay_of(one, RATE, FREQUENCY, none) * decay_of(other, RATE, FREQUENCY, none)
    np.testing.assert_allclose(whole, parts, atol=2e-5)


def test_decay_is_exact_from_ties_to_decades() -> None:
    seconds = jnp.asarray([0, 1, 59, ops.DAY, 10 * ops.WEEK + 1, 2 * ops.YEAR, 2**31 - 1], jnp.int32)
    counts = jnp.full((7, N), 0.5, jnp.float32)
    days = np.asarray(seconds, np.float64)[:, None] / ops.DAY
    rate, frequency = np.asarray(RATE, np.float64), np.asarray(FREQUENCY, np.float64)
    expected = np.exp(-days * rate - 0.5 + 2j * np.pi * days * frequency)
    np.testing.assert_allclose(decay_of(seconds, RATE, FREQUENCY, counts), expected, atol=3e-5)

    def total(rate, frequency, counts):
        return jnp.sum(mode_decay(seconds, rate, frequency, counts).real)

    gradients = jax.jit(jax.grad(total, (0, 1, 2)))(RATE, FREQUENCY, counts)
    d_rate = (-days * expected).real.sum(axis=0)
    d_frequency = (2j * np.pi * days * expected).real.sum(axis=0)
    np.testing.assert_allclose(gradients[0], d_rate, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(gradients[1], d_frequency, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(gradients[2], -np.real(expected), atol=3e-5)
    assert (np.asarray(gradients[2])[-1, 1:] == 0).all()  # faded to nothing


def test_phases_hold_where_float32_has_lost_them() -> None:
    """A mode that never fades: 24,855 days at 3 turns a day, and still the right hour."""
    seconds = jnp.asarray([2**31 - 1 - k * 7_919 for k in range(50)], jnp.int32)
    zeros = jnp.zeros((50, 1))
    decay = decay_of(seconds, jnp.zeros(1), jnp.full(1, 3.0, jnp.float32), zeros)[:, 0]
    angle = 2 * np.pi * (3 * np.asarray(seconds, np.int64) % ops.DAY) / ops.DAY
    np.testing.assert_allclose(decay, np.exp(1j * angle), atol=1e-4)


def test_an_event_that_writes_nothing_forgets_as_much_as_waiting() -> None:
    """With nothing forgotten by count and nothing written, an event in between changes nothing."""
    events = events_of(2, full=True)[:, :3]
    params = jax.tree.map(lambda v: v, VARIABLES["params"])
    for layer in ("layer_0", "layer_1"):
        params[layer]["forget"] = jax.tree.map(jnp.zeros_like, params[layer]["forget"])
        params[layer]["forget"]["bias"] = jnp.full(N, -30.0)
        params[layer]["forget_distance"] = jax.tree.map(jnp.zeros_like, params[layer]["forget_distance"])
    quiet = jax.tree.map(lambda v: v, params)
    for layer in ("layer_0", "layer_1"):
        quiet[layer] |= {"write": jax.tree.map(jnp.zeros_like, params[layer]["write"])}
        quiet[layer]["write"]["bias"] = jnp.full(N, -60.0)
        quiet[layer]["write_distance"] = jax.tree.map(jnp.zeros_like, params[layer]["write_distance"])
    x = features(1)

    def read(between: bool) -> jax.Array:
        state, _ = run(
            MODEL, {"params": params}, MODEL.init_state(B, D), x[:, 0], events[:, 0], method="step"
        )
        if between:
            event = events[:, 1]
            state, _ = run(MODEL, {"params": quiet}, state, x[:, 1], event, method="step")
        event = events[:, 2]
        (_, hidden), _ = run(MODEL, {"params": quiet}, state, x[:, 2], event, method="step")
        return jnp.concatenate(hidden, axis=-1)

    np.testing.assert_allclose(read(True), read(False), atol=1e-5)
    assert jnp.abs(read(True)).max() > 1e-4


def test_initial_modes_span_minutes_to_months_days_and_weeks() -> None:
    taus, frequencies, runs = initial_modes(64, 600, 90 * ops.DAY)
    np.testing.assert_allclose([taus[0] * ops.DAY, taus[-1]], [600, 90])
    assert runs.min() >= 1 and runs.max() <= 256 and abs(np.median(np.log2(runs)) - 4) < 0.5
    assert {1.0, 1 / 7} <= set(frequencies) and (frequencies == 0).sum() >= 32
    assert (taus * frequencies)[frequencies > 0].min() >= 1


def test_a_new_layer_starts_with_a_state_of_about_unit_size() -> None:
    model = StateSpace(layers=1, modes=64)
    rng = np.random.default_rng(0)
    events = random_events(7, 200, full=True)
    time = np.cumsum(rng.exponential(6 * ops.HOUR, (7, 200)), axis=1).astype(np.int32)
    events = jax.tree.map(jnp.asarray, events.replace(time=time))
    x = jnp.asarray(rng.normal(size=(7, 200, 64)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x[:, :2], events[:, :2])
    state = model.init_state(7, 64)

    @jax.jit
    def end(state, x, events):
        def body(state, step):
            return model.apply(variables, state, *step, method="step")[0], None

        return jax.lax.scan(body, state, jax.tree.map(lambda v: v.swapaxes(0, 1), (x, events)))[0]

    (_, (h,)) = end(state, x, events)
    size = np.sqrt((np.asarray(h) ** 2).mean(axis=0))
    assert 0.3 < size.mean() < 3 and size.max() < 6


@pytest.mark.parametrize(("shortest", "longest"), [(0, 10), (100, 10)])
def test_time_constants_that_make_no_sense_are_refused(shortest: int, longest: int) -> None:
    model = StateSpace(shortest=shortest, longest=longest)
    with pytest.raises(ValueError, match=f"shortest={shortest}, longest={longest}"):
        jax.eval_shape(model.init, jax.random.key(0), features(0), events_of(0))


def test_dropout_acts_in_training_only() -> None:
    model = StateSpace(layers=1, modes=N, dropout=0.5)
    variables, x, events = parameters(model), features(1), events_of(1)
    train = jax.jit(lambda key: model.apply(variables, x, events, True, rngs={"dropout": key}))
    one, other = train(jax.random.key(1)), train(jax.random.key(2))
    assert jnp.abs(one - other).max() > 1e-2
    never = model.clone(dropout=0.0)
    np.testing.assert_array_equal(run(model, variables, x, events), run(never, variables, x, events))
