"""SelfAttention and HSTU: NumPy loops, three forms with one result, what must not change an answer."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.events import Events
from stjax.nn.base import Interest
from stjax.nn.interest.attention import SelfAttention
from stjax.nn.interest.bias import SpatioTemporalBias
from stjax.nn.interest.hstu import HSTU
from stjax.ops import blocked, strips, tiles
from stjax.ops.bias import logit_bias
from stjax.ops.moments import moments, pair_gaps
from tests.random_events import random_events
from tests.strict import strict

pytestmark = strict

B, L, D, H, WINDOW = 3, 11, 12, 2, 5
FULL = SpatioTemporalBias(gap_buckets=7, distance_buckets=16, power_law=True)
MODELS = {
    "learned": SelfAttention(heads=H, window=WINDOW),
    "rotary": SelfAttention(heads=H, window=WINDOW, positions="rotary", bias=FULL),
    "distances": SelfAttention(layers=1, heads=H, window=L + 2, bias=SpatioTemporalBias(gap_buckets=0)),
    "hstu": HSTU(heads=H, window=WINDOW),
    "hstu_full": HSTU(layers=1, heads=H, window=WINDOW, bias=FULL),
    "hstu_lags": HSTU(layers=1, heads=H, window=WINDOW, bias=None),
}


def setting(model: Interest, seed: int = 0, full: bool = False):
    """Random parameters, none of them zero, inputs and events; row 1 has a single event unless full."""
    events = random_events(B, L, seed, full=full)
    if not full:
        events.valid[1, 1:] = False
    events = jax.tree.map(jnp.asarray, events)
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(B, L, D)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, events)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.4, s.shape), s.dtype), shapes), x, events


@partial(jax.jit, static_argnames=("model", "method"))
def run(model: Interest, *args, method: str = "__call__"):
    return model.apply(*args, method=method)


@pytest.mark.parametrize("name", MODELS)
def test_step_by_step_equals_the_whole_sequence(name: str) -> None:
    """Also across an invalid event, which must leave the state as it is."""
    model = MODELS[name]
    variables, x, events = setting(model)
    whole = run(model, variables, x, events)
    state = model.init_state(B, D)
    assert all(leaf.shape[0] == B for leaf in jax.tree.leaves(state))
    for n in range(L):
        before = state
        state, y = run(model, variables, state, x[:, n], events[:, n], method="step")
        valid = np.asarray(events.valid[:, n])
        np.testing.assert_allclose(y[valid], whole[valid, n], atol=1e-4)
        jax.tree.map(lambda a, b, kept=~valid: np.testing.assert_array_equal(a[kept], b[kept]), before, state)
    assert (np.asarray(events.valid).sum(axis=1) > WINDOW).any()


@pytest.mark.parametrize("name", MODELS)
def test_neither_padding_nor_the_future_changes_an_answer(name: str) -> None:
    model = MODELS[name]
    variables, x, events = setting(model)
    other_x, other = setting(model, seed=9, full=True)[1:]
    whole = run(model, variables, x, events)

    def mixed(keep: jax.Array):
        def pick(a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.where(keep.reshape(keep.shape + (1,) * (a.ndim - 2)), a, b)

        return pick(x, other_x), jax.tree.map(pick, events, other)

    refilled_x, refilled = mixed(events.valid)
    changed = run(model, variables, refilled_x, refilled.replace(valid=events.valid))
    np.testing.assert_allclose(changed[events.valid], whole[events.valid], atol=1e-6)
    stop = 4
    later = run(model, variables, *mixed(jnp.broadcast_to(jnp.arange(L) < stop, (B, L))))
    early = np.asarray(events.valid) & (np.arange(L) < stop)
    np.testing.assert_allclose(later[early], whole[early], atol=1e-6)
    past = run(model, variables, other_x.at[:, 0].multiply(-1.0), other)  # but the past does
    assert np.abs(past - run(model, variables, other_x, other))[:, 1:WINDOW].max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_parameter_and_are_finite(name: str) -> None:
    model = MODELS[name]
    variables, x, events = setting(model, seed=3, full=True)
    events = events.replace(place=events.place.at[0].set(jnp.nan))  # a user without any place

    @jax.jit
    def loss(variables) -> jax.Array:
        return (model.apply(variables, x, events) ** 3).sum()

    for path, g in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(variables)):
        assert np.isfinite(g).all(), path
        assert (np.asarray(g) != 0).any(), path


def _logit(params, seconds: int, here: np.ndarray, there: np.ndarray, h: int) -> float:
    """The bias of one pair, by the haversine formula."""

    def decay(weight: str, scale: str, x: float) -> float:
        return -np.log1p(np.exp(params[weight][h])) * np.log1p(x / np.exp(params[scale][h]))

    gap = params["gap"][h, min(int(np.log2(1 + seconds)), params["gap"].shape[1] - 1)]
    gap += decay("gap_weight", "log_tau", seconds)
    if np.isnan(here).any() or np.isnan(there).any():
        return gap + params["distance"][h, -1] + params["unknown"][h]
    (lat, lon), (lat_2, lon_2) = np.radians(here), np.radians(there)
    a = np.sin((lat_2 - lat) / 2) ** 2 + np.cos(lat) * np.cos(lat_2) * np.sin((lon_2 - lon) / 2) ** 2
    km = 2 * 6371.0088 * np.arcsin(np.sqrt(a))
    bucket = int(np.clip(np.floor(np.log2(max(km, 1e-9))) + 5, 0, params["distance"].shape[1] - 2))
    return gap + params["distance"][h, bucket] + decay("distance_weight", "log_km", km)


def test_spatiotemporal_bias_is_the_plain_loop() -> None:
    rng = np.random.default_rng(4)
    events = random_events(B, L, seed=4, full=True)
    shapes = jax.eval_shape(partial(FULL.init, heads=H), jax.random.key(0))["params"]
    params = {k: rng.normal(size=s.shape).astype(np.float32) for k, s in shapes.items()}
    params |= {"log_tau": np.array([5, 9], np.float32), "log_km": np.array([0, 2], np.float32)}
    now = moments(*(jnp.asarray(a) for a in (events.valid, events.time, events.place)))
    lag = np.arange(L)[:, None] - np.arange(L)[None, :]
    y = logit_bias(jax.tree.map(jnp.asarray, params), lag, *pair_gaps(now, now))
    time, place = events.time.astype(np.int64), events.place.astype(np.float64)
    for b, h, i, j in np.ndindex(B, H, L, L):
        if j <= i:
            expected = _logit(params, time[b, i] - time[b, j], place[b, i], place[b, j], h)
            assert y[b, h, i, j] == pytest.approx(expected, abs=2e-3)


def _norm(x: np.ndarray, p) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def _dense(x: np.ndarray, p) -> np.ndarray:
    return x @ p["kernel"] + p["bias"]


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def test_hstu_is_the_formula_of_the_paper() -> None:
    model = MODELS["hstu_full"]
    variables, x, events = setting(model, seed=5)
    whole = np.asarray(run(model, variables, x, events))
    params = jax.tree.map(np.asarray, variables["params"])
    p, events = params["layer_0"], jax.tree.map(np.asarray, events)
    d = D // H
    for b in range(B):
        x_b = np.asarray(x[b], np.float64)
        uvqk = _silu(_dense(_norm(x_b, p["norm"]), p["uvqk"]))
        u, v, q, k = np.split(uvqk, 4, axis=-1)
        for i in range(int(events.valid[b].sum())):
            read = range(max(i - WINDOW + 1, 0), i + 1)
            mixed = np.zeros(D)
            for h in range(H):
                part = slice(h * d, (h + 1) * d)
                for j in read:
                    seconds = int(events.time[b, i]) - int(events.time[b, j])
                    s = q[i, part] @ k[j, part] + p["lag_bias"][h, i - j]
                    s += _logit(p["bias"], seconds, events.place[b, i], events.place[b, j], h)
                    mixed[part] += _silu(s) * v[j, part] / len(read)
            y = x_b[i] + _dense(_norm(mixed, p["mixed_norm"]) * u[i], p["out"])
            np.testing.assert_allclose(whole[b, i], _norm(y, params["norm"]), atol=5e-3)


@pytest.mark.parametrize("name", ["rotary", "hstu_full"])
def test_blocks_give_the_modules_the_same_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[name]
    variables, x, events = setting(model, seed=6)
    whole = run(model, variables, x, events)
    monkeypatch.setattr(blocked, "CPU_PLAIN_LENGTH", 3)
    monkeypatch.setattr(strips, "STRIP", 4)
    monkeypatch.setattr(tiles, "LEAST_BLOCK", 4)
    monkeypatch.setattr(tiles, "LARGEST_BLOCK", 4)
    for longest in (512, 3):  # in strips, then in tiles
        monkeypatch.setattr(blocked, "STRIPS_LENGTH", longest)
        parts = jax.jit(lambda v, x, e: model.apply(v, x, e))(variables, x, events)
        np.testing.assert_allclose(parts[events.valid], whole[events.valid], atol=1e-5)


def test_only_what_a_bias_reads_is_kept() -> None:
    def kept(bias: SpatioTemporalBias | None) -> tuple[bool, bool]:
        state = SelfAttention(bias=bias).init_state(B, D)
        return state.time is not None, state.place is not None

    assert kept(None) == (False, False)
    assert kept(SpatioTemporalBias(3, 0)) == (True, False)
    assert kept(SpatioTemporalBias(0, 3)) == (False, True)
    assert kept(SpatioTemporalBias(0, 0, power_law=True)) == (True, True)


def test_a_shift_of_all_times_changes_nothing() -> None:
    model = MODELS["hstu"]
    variables, x, events = setting(model, seed=7)
    shifted: Events = events.replace(time=events.time + 1_900_000_123)
    np.testing.assert_array_equal(run(model, variables, x, events), run(model, variables, x, shifted))


def test_what_cannot_work_is_refused() -> None:
    _, x, events = setting(MODELS["learned"])
    for model, words in (
        (SelfAttention(heads=5), "heads=5 does not divide the 12 features"),
        (SelfAttention(heads=4, positions="rotary"), "even number of features a head, got 3"),
        (HSTU(bias=SpatioTemporalBias(0, 0)), "SpatioTemporalBias has no term"),
    ):
        with pytest.raises(ValueError, match=words):
            jax.eval_shape(model.init, jax.random.key(0), x, events)
