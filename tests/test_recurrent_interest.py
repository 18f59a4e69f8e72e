"""GRU and LSTM with and without gates: two forms with one result, and what must not change them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.events import Events
from stjax.nn.base import Interest
from stjax.nn.interest.gru import GRU
from stjax.nn.interest.lstm import LSTM
from stjax.nn.interest.movement import Before, GateName
from stjax.nn.last import Last
from stjax.ops import geo
from tests.random_events import random_events
from tests.strict import strict

pytestmark = strict
B, L, D = 3, 11, 6
BOTH: tuple[GateName, ...] = ("time", "distance")
MODELS: dict[str, Interest] = {
    "gru": GRU(layers=2),
    "gru gated": GRU(layers=2, gates=BOTH),
    "lstm": LSTM(layers=2),
    "lstm gated": LSTM(layers=2, gates=BOTH),
    "lstm by distance": LSTM(gates=("distance",)),
}


@partial(jax.jit, static_argnames=("model", "method"))
def run(model: Interest, variables, *args, method: str = "__call__"):
    return model.apply(variables, *args, method=method)


def events_of(seed: int, full: bool = False) -> Events:
    return jax.tree.map(jnp.asarray, random_events(B, L, seed, full=full))


def features(seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(B, L, D)), jnp.float32)


def parameters(model: Interest, seed: int = 0):
    shapes = jax.eval_shape(model.init, jax.random.key(0), features(0), events_of(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), x.dtype), shapes)


@pytest.mark.parametrize("name", MODELS)
def test_step_by_step_equals_the_whole_sequence(name: str) -> None:
    model, x = MODELS[name], features(1)
    variables = parameters(model)
    for seed, full in ((1, False), (2, True)):
        events = events_of(seed, full)
        whole = run(model, variables, x, events)
        state = model.init_state(B, D)
        for position in range(L):
            event = events[:, position]
            after, y = run(model, variables, state, x[:, position], event, method="step")
            keep = np.asarray(event.valid)
            np.testing.assert_allclose(whole[keep, position], y[keep], atol=1e-5)
            jax.tree.map(lambda a, b, k=~keep: np.testing.assert_array_equal(a[k], b[k]), after, state)
            state = after
        assert all(leaf.shape[0] == B for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", MODELS)
def test_neither_padding_nor_the_future_changes_anything(name: str) -> None:
    model, x, events = MODELS[name], features(1), events_of(1)
    variables = parameters(model)
    other, garbage = features(5), events_of(9, full=True)

    def mix(keep: jax.Array) -> tuple[jax.Array, Events]:
        def choose(a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.where(keep.reshape(keep.shape + (1,) * (a.ndim - 2)), a, b)

        return choose(x, other), jax.tree.map(choose, events, garbage)

    whole = run(model, variables, x, events)
    padded_x, padded = mix(events.valid)
    valid = np.asarray(events.valid)
    same = run(model, variables, padded_x, padded.replace(valid=events.valid))
    np.testing.assert_array_equal(whole[valid], same[valid])
    past = jnp.broadcast_to(jnp.arange(L) < 5, (B, L))
    changed = run(model, variables, *mix(past))
    keep = valid & np.asarray(past)
    np.testing.assert_allclose(whole[keep], changed[keep], atol=1e-6)
    assert np.abs(whole[valid & ~keep] - changed[valid & ~keep]).max() > 1e-2


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    model, x, events = MODELS[name], features(2), events_of(2, full=True)
    events = events.replace(place=events.place.at[:, 3:5].set(events.place[:, 3:4]))  # 0 km
    weight = features(3)

    @jax.jit
    def gradient(variables, x):
        return jax.grad(lambda v, x: (model.apply(v, x, events) * weight).sum(), (0, 1))(variables, x)

    for path, g in jax.tree_util.tree_leaves_with_path(gradient(parameters(model), x)):
        assert np.isfinite(g).all() and (np.asarray(g) != 0).any(), path


def test_gates_read_what_they_say_they_read() -> None:
    x, events = features(1), events_of(2, full=True)
    later = events.replace(time=events.time + 107 * 604_800)
    slower = events.replace(time=events.time + jnp.arange(L, dtype=jnp.int32) * 3_600)
    nowhere = events.replace(place=jnp.full_like(events.place, jnp.nan))
    cases: list[tuple[tuple[GateName, ...], bool, bool]] = [
        ((), False, False),
        (("time",), True, False),
        (("distance",), False, True),
        (BOTH, True, True),
    ]
    for gates, by_time, by_place in cases:
        model = GRU(gates=gates)
        variables = parameters(model)
        whole = run(model, variables, x, events)
        np.testing.assert_allclose(whole, run(model, variables, x, later), atol=1e-6)
        for changed, matters in ((slower, by_time), (nowhere, by_place)):
            difference = float(jnp.abs(whole - run(model, variables, x, changed)).max())
            assert (difference > 1e-3) == matters, (gates, difference)


def test_unknown_is_not_zero() -> None:
    """No event before and an unknown place differ from a gap of 0 s and 0 km."""
    model = GRU(gates=BOTH)
    variables = parameters(model)
    x, event = features(1)[:, 0], events_of(2, full=True)[:, 0]
    event = event.replace(place=jnp.full((B, 2), 3.0))
    _, hidden = model.init_state(B, D)
    here = Before(Last(event.time, jnp.ones(B, bool)), event.place)
    _, first = run(model, variables, (Before.none(B), hidden), x, event, method="step")
    _, at_once = run(model, variables, (here, hidden), x, event, method="step")
    lost = here._replace(place=jnp.full((B, 2), jnp.nan))
    _, unknown = run(model, variables, (lost, hidden), x, event, method="step")
    assert jnp.abs(first - at_once).max() > 1e-3 and jnp.abs(unknown - at_once).max() > 1e-3


def test_the_event_before_in_both_forms() -> None:
    events = events_of(4)
    whole, state = Before.of(events), Before.none(B)
    expected = whole.gap(events)
    for position in range(L):
        event = events[:, position]
        gap, keep = state.gap(event), np.asarray(event.valid)
        for one, other in zip(gap, expected, strict=True):
            np.testing.assert_allclose(one[keep], other[keep, position], rtol=1e-6)
        state = state.read(event)
    assert geo.known(state.place).any() and expected.known.any() and not expected.exists[:, 0].any()


def test_a_plain_gru_has_the_parameters_it_always_had() -> None:
    params = parameters(GRU())["params"]["layer_0"]
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == {
        "norm": {"scale": (D,), "bias": (D,)},
        "input": {"kernel": (D, 3 * D), "bias": (3 * D,)},
        "w_hidden": (D, 3 * D),
        "b_hidden": (D,),
    }


def test_lstm_starts_with_open_forget_gates() -> None:
    variables = jax.jit(LSTM(gates=BOTH).init)(jax.random.key(0), features(0), events_of(0))
    bias = variables["params"]["layer_0"]["input"]["bias"]
    np.testing.assert_array_equal(bias, np.repeat([0.0, 1.0, 0.0, 0.0], D))


def test_a_gate_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weather.*choose from.*distance.*time"):
        jax.eval_shape(GRU(gates=("weather",)).init, jax.random.key(0), features(0), events_of(0))  # pyright: ignore[reportArgumentType]
