"""Encoders of time: two forms with one result, references in float64, and what must not change them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.events import Events
from stjax.nn.base import Encoder
from stjax.nn.time import DecayedCounts, GapEmbed, RhythmEmbed, Time2Vec, TimeEmbed, WindowCounts
from stjax.ops import time as ops
from tests.random_events import SCHEMA, random_catalogue, random_events
from tests.strict import strict

pytestmark = strict
B, L, D = 3, 17, 6
DATED = TimeEmbed(D, minute_of_day=True, day_of_month=True, month=True, weekend=True, year_harmonics=2)
ENCODERS: dict[str, Encoder] = {
    "calendar": TimeEmbed(D),
    "dates": DATED,
    "time2vec": Time2Vec(D),
    "gap": GapEmbed(D, clip=9),
    "windows": WindowCounts(D, at_most=5),
    "decayed": DecayedCounts(D),
    "rhythm": RhythmEmbed(D, day_harmonics=3, week_harmonics=2),
}
WEEKLY = ("calendar", "gap", "windows", "decayed", "rhythm")  # whole weeks later is the same
CATALOGUE = jax.tree.map(jnp.asarray, random_catalogue())


@partial(jax.jit, static_argnames=("encoder", "method"))
def run(encoder: Encoder, variables, *args, method: str = "__call__"):
    return encoder.apply(variables, *args, CATALOGUE, method=method)


def events_of(seed: int, full: bool = False) -> Events:
    return jax.tree.map(jnp.asarray, random_events(B, L, seed, full=full))


def parameters(encoder: Encoder, seed: int = 0):
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), events_of(0), CATALOGUE)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes)


def run_steps(encoder: Encoder, variables, events: Events):
    state, outputs = encoder.init_state(B), []
    for position in range(L):
        state, x = run(encoder, variables, state, events[:, position], method="step")
        outputs.append(x)
    return state, jnp.stack(outputs, axis=1)


def assert_equal_where(valid: jax.Array, one: jax.Array, other: jax.Array, atol: float) -> None:
    keep = np.asarray(valid)
    assert np.count_nonzero(keep) >= 5
    np.testing.assert_allclose(np.asarray(one)[keep], np.asarray(other)[keep], atol=atol)


@pytest.mark.parametrize("name", ENCODERS)
def test_step_by_step_equals_the_whole_sequence(name: str) -> None:
    encoder = ENCODERS[name]
    variables = parameters(encoder)
    for seed, full in ((1, False), (2, True)):
        events = events_of(seed, full)
        whole = run(encoder, variables, events)
        state, stepped = run_steps(encoder, variables, events)
        assert whole.shape == (B, L, D) and whole.dtype == jnp.float32
        assert_equal_where(events.valid, whole, stepped, 1e-5)
        assert all(leaf.shape[0] == B for leaf in jax.tree.leaves(state))
        padding = events[:, 0].replace(valid=jnp.zeros(B, bool), time=events.time.max(axis=1) + 1)
        after, _ = run(encoder, variables, state, padding, method="step")
        jax.tree.map(np.testing.assert_array_equal, state, after)


@pytest.mark.parametrize("name", ENCODERS)
def test_neither_padding_nor_the_future_changes_anything(name: str) -> None:
    encoder = ENCODERS[name]
    variables = parameters(encoder)
    events, garbage = events_of(1), events_of(9, full=True)

    def mix(keep: jax.Array) -> Events:
        return jax.tree.map(
            lambda x, y: jnp.where(keep.reshape(keep.shape + (1,) * (x.ndim - 2)), x, y), events, garbage
        )

    whole = run(encoder, variables, events)
    padded = mix(events.valid).replace(valid=events.valid)
    assert_equal_where(events.valid, whole, run(encoder, variables, padded), 0.0)
    past = jnp.broadcast_to(jnp.arange(L) < 8, (B, L))
    assert_equal_where(events.valid & past, whole, run(encoder, variables, mix(past)), 0.0)


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    encoder, events = ENCODERS[name], events_of(2, full=True)
    weight = jnp.asarray(np.random.default_rng(3).normal(size=(B, L, D)), jnp.float32)

    @jax.jit
    def gradient(variables):
        return jax.grad(lambda v: (run(encoder, v, events) * weight).sum())(variables)

    for path, g in jax.tree_util.tree_leaves_with_path(gradient(parameters(encoder))):
        assert np.isfinite(g).all() and (np.asarray(g) != 0).any(), path


@pytest.mark.parametrize("name", ENCODERS)
def test_whole_weeks_change_nothing_but_dates_and_learned_periods(name: str) -> None:
    encoder, events = ENCODERS[name], events_of(2, full=True)
    variables = parameters(encoder)
    later = events.replace(time=events.time + 107 * ops.WEEK)
    one, other = run(encoder, variables, events), run(encoder, variables, later)
    assert (float(jnp.abs(one - other).max()) < 1e-5) == (name in WEEKLY)


@pytest.mark.parametrize("name", ENCODERS)
def test_any_shift_of_a_whole_sequence_changes_only_what_reads_the_calendar(name: str) -> None:
    encoder, events = ENCODERS[name], events_of(2, full=True)
    variables = parameters(encoder)
    later = events.replace(time=events.time + 1_234_567)
    one, other = run(encoder, variables, events), run(encoder, variables, later)
    same = name in ("gap", "windows", "decayed", "rhythm")
    assert (float(jnp.abs(one - other).max()) < 2e-5) == same


@pytest.mark.parametrize("name", ["gap", "windows", "decayed"])
def test_gaps_and_counts_do_not_read_the_local_clock(name: str) -> None:
    encoder, events = ENCODERS[name], events_of(2, full=True)
    variables = parameters(encoder)
    moved = events.replace(utc_offset=-events.utc_offset + 3_600)
    np.testing.assert_array_equal(run(encoder, variables, events), run(encoder, variables, moved))


def local_of(events: Events) -> np.ndarray:
    return np.asarray(events.time, np.int64) + np.asarray(events.utc_offset)


def test_calendar_tables_are_read_at_the_local_date() -> None:
    """With all else 0, the features are the rows of month, day, minute and weekend that datetime says."""
    events = events_of(2, full=True)
    variables = jax.tree.map(np.array, parameters(DATED))
    tables = {
        name: variables["params"][name]["embedding"] for name in ("months", "days", "minutes", "weekends")
    }
    for name in set(variables["params"]) - set(tables):
        for leaf in variables["params"][name].values():
            leaf[:] = 0
    got = run(DATED, jax.tree.map(jnp.asarray, variables), events)
    start = datetime.fromtimestamp(SCHEMA.epoch, UTC)
    for b, i in np.ndindex(B, L):
        when = start + timedelta(seconds=int(local_of(events)[b, i]))
        expected = tables["months"][when.month - 1] + tables["days"][when.day - 1]
        expected = expected + tables["minutes"][60 * when.hour + when.minute]
        expected = expected + tables["weekends"][int(when.weekday() >= 5)]
        np.testing.assert_allclose(got[b, i], expected, atol=1e-6)


def test_dates_need_to_know_where_the_epoch_lies() -> None:
    now = jnp.zeros(B, jnp.int32)
    args = now, now, now, jnp.ones(B, bool)
    plain = jax.eval_shape(partial(TimeEmbed(D).apply, method="embed"), parameters(TimeEmbed(D)), *args)
    assert plain.shape == (B, D)
    with pytest.raises(ValueError, match=r"year_harmonics need epoch=schema\.epoch"):
        jax.eval_shape(partial(DATED.apply, method="embed"), parameters(DATED), *args)


def test_what_is_not_asked_for_has_no_parameters() -> None:
    params = parameters(TimeEmbed(D))["params"]
    assert set(params) == {"hour", "weekday", "gap", "project"}
    assert params["project"]["kernel"].shape == (17, D)


def test_time2vec_is_that_of_float64_after_sixty_years() -> None:
    encoder, events = ENCODERS["time2vec"], events_of(2, full=True)
    events = events.replace(time=events.time + 1_900_000_000)
    variables = parameters(encoder)
    variables["params"]["frequency"] = jnp.asarray([0.1, 7.7, -32.0, 61.3, 123.4], jnp.float32)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    time = np.asarray(events.time, np.int64)
    angle = local_of(events)[..., None] / ops.DAY * params["frequency"] / 32 + params["phase"]
    slope, bias, first = params["linear"]
    linear = slope * np.log1p(np.diff(time, axis=1) / 60) / 10 + bias
    linear = np.concatenate([np.full((B, 1), first), linear], axis=1)[..., None]
    expected = np.concatenate([linear, np.sin(2 * np.pi * angle)], axis=-1)
    np.testing.assert_allclose(run(encoder, variables, events), expected, atol=1e-4)


def test_time2vec_starts_with_periods_from_hours_to_months() -> None:
    params = jax.jit(Time2Vec(9).init)(jax.random.key(0), events_of(0), CATALOGUE)["params"]
    periods = 32 * ops.DAY / np.asarray(params["frequency"])
    np.testing.assert_allclose(periods[[0, -1]], [6 * ops.HOUR, 90 * ops.DAY], rtol=1e-5)
    np.testing.assert_allclose(np.diff(np.log(periods)), np.log(360) / 7, rtol=1e-4)


def test_gaps_are_scaled_by_the_smallest_so_far() -> None:
    encoder, events = ENCODERS["gap"], events_of(2, full=True)
    variables = jax.tree.map(np.array, parameters(encoder))
    for leaf in (*variables["params"]["project"].values(), variables["params"]["bucket"]["embedding"]):
        leaf[:] = 0
    table = variables["params"]["scaled"]["embedding"]
    got = run(encoder, jax.tree.map(jnp.asarray, variables), events)
    gaps = np.diff(np.asarray(events.time), axis=1)
    seen = set()
    for b in range(B):
        smallest = None
        np.testing.assert_allclose(got[b, 0], table[10], atol=1e-6)
        for i, gap in enumerate(gaps[b].tolist(), start=1):
            smallest = min(gap, smallest or gap) if gap > 0 else smallest
            scaled = min(gap // smallest, 9) if smallest else 0
            np.testing.assert_allclose(got[b, i], table[scaled], atol=1e-6)
            seen.add(scaled)
    assert {0, 1, 9} <= seen


def with_project(encoder: Encoder, kernel: np.ndarray):
    """Parameters under which the outputs are the features themselves, as the kernel chooses them."""
    variables = parameters(encoder)
    variables["params"]["project"] = {
        "kernel": jnp.asarray(kernel, jnp.float32),
        "bias": jnp.zeros(kernel.shape[1], jnp.float32),
    }
    return variables


def test_counts_are_those_of_a_loop() -> None:
    events = events_of(2, full=True)
    time = np.asarray(events.time, np.int64)
    windows, decayed = ENCODERS["windows"], ENCODERS["decayed"]
    assert isinstance(windows, WindowCounts) and isinstance(decayed, DecayedCounts)
    counts = np.zeros((B, L, 5))
    faded = np.zeros((B, L, 4))
    for b, i in np.ndindex(B, L):
        age = time[b, i] - time[b, :i]
        counts[b, i] = [(age[-windows.at_most :] < w).sum() for w in windows.windows]
        faded[b, i] = [(2.0 ** -(age / h)).sum() for h in decayed.half_lives]
    got = run(windows, with_project(windows, np.eye(5, D)), events)[..., :5]
    np.testing.assert_allclose(got, np.log1p(counts) / np.log1p(5), atol=1e-5)
    got = run(decayed, with_project(decayed, np.eye(4, D)), events)[..., :4]
    np.testing.assert_allclose(got, np.log1p(faded), atol=1e-5)


@pytest.mark.parametrize("feature", ["count", "power", "real", "imaginary"])
def test_rhythm_is_that_of_a_loop_over_complex_numbers(feature: str) -> None:
    encoder, events = ENCODERS["rhythm"], events_of(2, full=True)
    assert isinstance(encoder, RhythmEmbed)
    time, local = np.asarray(events.time, np.int64), local_of(events)
    rate = 2 * np.pi / np.asarray([ops.DAY, ops.DAY / 2, ops.DAY / 3, ops.WEEK, ops.WEEK / 2])
    first = {"count": 0, "power": 1, "real": 6, "imaginary": 11}[feature]
    width = 1 if feature == "count" else 5
    kernel = np.zeros((16, D))
    kernel[first : first + width, :width] = np.eye(width)
    variables = with_project(encoder, kernel)
    got = run(encoder, variables, events)
    np.testing.assert_allclose(got[:, 0], np.tile(variables["params"]["first"], (B, 1)))
    for b in range(B):
        for i in range(1, L):
            weight = 2.0 ** -((time[b, i] - time[b, :i]) / encoder.half_life)
            mean = (weight[:, None] * np.exp(-1j * rate * local[b, :i, None])).sum(0) / weight.sum()
            relative = mean * np.exp(1j * rate * local[b, i])
            expected = {
                "count": np.log1p(weight.sum()),
                "power": np.abs(mean) ** 2,
                "real": relative.real,
                "imaginary": relative.imag,
            }[feature]
            np.testing.assert_allclose(got[b, i, :width], expected, atol=2e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_sixty_years_of_silence_leave_everything_finite_and_both_forms_equal(name: str) -> None:
    encoder, events = ENCODERS[name], events_of(2, full=True)
    variables = parameters(encoder)
    events = events.replace(time=events.time + jnp.where(jnp.arange(L) < 9, 0, 1_900_000_000))
    whole = run(encoder, variables, events)
    assert np.isfinite(whole).all()
    assert_equal_where(events.valid, whole, run_steps(encoder, variables, events)[1], 1e-5)
