"""Modules in combination: three forms with one result, and what must not change an answer."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.events import FIRST, Batch, Events, Query
from stjax.nn import (
    GRU,
    ConcatFusion,
    ContextEmbed,
    GatedFusion,
    ItemEmbed,
    Pointer,
    Recommender,
    Retrieval,
    SelfAttention,
    SpaceEmbed,
    TimeEmbed,
    UserEmbed,
)
from tests.models import questions, random_batch, random_parameters, run, run_steps
from tests.random_events import SCHEMA, random_catalogue, random_events
from tests.strict import strict

pytestmark = strict

B, L, WINDOW = 3, 11, 7  # a history longer than the windows of attention and pointer
ENCODERS = {
    "time": TimeEmbed(5),
    "space": SpaceEmbed(6, scales=3),
    "context": ContextEmbed(4),
    "user": UserEmbed(3),
}
INTERESTS = {"gru": GRU(layers=2), "attention": SelfAttention(layers=2, heads=2, window=WINDOW)}
FUSIONS = {"concat": ConcatFusion(8), "gated": GatedFusion(8)}
POINTERS = {"pointer": Pointer(5, window=WINDOW), "plain": None}
KNOWN = ("time", "place", "scene")


def build(fusion="concat", interest="gru", pointer="pointer", known=KNOWN, encoders=ENCODERS) -> Recommender:
    return Recommender(
        items=ItemEmbed(6),
        encoders=encoders,
        fusion=FUSIONS[fusion],
        interest=INTERESTS[interest],
        head=Retrieval(known=known, pointer=POINTERS[pointer]),
    )


def setting(model: Recommender, seed: int = 0):
    """Random parameters, a batch of L + 1 events, and the catalogue."""
    batch, catalogue = random_batch(B, L, seed)
    return random_parameters(model, batch, catalogue, method="loss", seed=seed), batch, catalogue


def test_every_modality_can_be_left_out() -> None:
    model = build(encoders={})
    variables, batch, catalogue = setting(model)
    history, query, _ = questions(batch.events, KNOWN)
    whole = run(model, variables, history, query, catalogue, method="scores")
    state = run_steps(model, variables, history, catalogue)
    stepped = run(model, variables, state, query, catalogue, method="answer")
    some = np.asarray(history.valid.any(axis=1))
    np.testing.assert_allclose(whole[some][:, FIRST:], stepped[some][:, FIRST:], atol=1e-4)


@pytest.mark.parametrize(("interest", "pointer"), [("gru", "pointer"), ("attention", "plain")])
def test_loss_is_minus_the_log_probability_of_each_target(interest: str, pointer: str) -> None:
    """The blocked loss at every position equals the scores of every prefix, asked one by one."""
    model = build("concat", interest, pointer)
    variables, batch, catalogue = setting(model)
    loss, _ = run(model, variables, batch, catalogue, method="loss")
    total, events = 0.0, batch.events
    for stop in range(1, L + 1):
        prefix = events.replace(valid=events.valid & (jnp.arange(L + 1)[None] < stop))
        query = Query.of(events[:, stop], KNOWN)
        scores = run(model, variables, prefix, query, catalogue, method="scores")
        np.testing.assert_allclose(jnp.exp(scores).sum(axis=1), 1.0, atol=1e-4)
        log_p = scores[jnp.arange(B), events.item[:, stop]]
        total += float(jnp.where(batch.weight[:, stop - 1] > 0, log_p, 0.0).sum())
    np.testing.assert_allclose(loss, -total / batch.weight.sum(), rtol=1e-4)


@pytest.mark.parametrize("interest", INTERESTS)
def test_padding_changes_nothing(interest: str) -> None:
    model = build("gated", interest)
    variables, batch, catalogue = setting(model)
    loss, _ = run(model, variables, batch, catalogue, method="loss")
    garbage = random_events(B, L + 1, seed=9, full=True)
    valid = batch.events.valid

    def refill(x: jax.Array, other: np.ndarray) -> jax.Array:
        keep = valid.reshape(valid.shape + (1,) * (x.ndim - 2))
        return jnp.where(keep, x, jnp.asarray(other))

    refilled = jax.tree.map(refill, batch.events, garbage).replace(valid=valid)
    changed, _ = run(model, variables, Batch(refilled, batch.weight), catalogue, method="loss")
    np.testing.assert_allclose(loss, changed, rtol=1e-6)
    longer = jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros_like(x[:, :2])], axis=1), batch.events)
    weight = jnp.pad(batch.weight, ((0, 0), (0, 2)))
    padded, _ = run(model, variables, Batch(longer, weight), catalogue, method="loss")
    np.testing.assert_allclose(loss, padded, rtol=1e-5)


@pytest.mark.parametrize("interest", INTERESTS)
def test_the_future_changes_nothing_in_the_past(interest: str) -> None:
    """Gradients of the loss at early positions with respect to later inputs are all zero."""
    model = build("concat", interest, known=())
    variables, _, catalogue = setting(model)
    events = jax.tree.map(jnp.asarray, random_events(B, L + 1, seed=5, full=True))
    early = jnp.zeros((B, L)).at[:, :4].set(1.0)

    def loss(events: Events) -> jax.Array:
        return run(model, variables, Batch(events, early), catalogue, method="loss")[0]

    other = jax.tree.map(jnp.asarray, random_events(B, L + 1, seed=6, full=True))
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[:, :5], b[:, 5:]], axis=1), events, other)
    np.testing.assert_allclose(loss(events), loss(mixed), rtol=1e-6)
    target_only = events.replace(item=mixed.item.at[:, 4].set(2))
    assert abs(float(loss(target_only)) - float(loss(events))) > 1e-3  # the loss does read its targets


@pytest.mark.parametrize("known", [("time",), ("place", "scene")])
def test_a_query_field_counts_only_where_it_is_declared(known: tuple[str, ...]) -> None:
    events = jax.tree.map(jnp.asarray, random_events(B, L + 1, seed=7, full=True))
    history, target = events[:, :L], events[:, L]
    change = {
        "time": {"time": target.time + 12_345},
        "place": {"place": jnp.nan_to_num(target.place, nan=40.0) + 0.5},
        "scene": {"categorical": {"scene": (target.categorical["scene"] + 1) % 6}},
    }
    model = build(known=known)
    variables, _, catalogue = setting(model)

    def scores(target: Events) -> jax.Array:
        query = Query.of(target, model.known)
        return run(model, variables, history, query, catalogue, method="scores")[:, FIRST:]

    before = scores(target)
    for field in KNOWN:
        same = np.allclose(before, scores(target.replace(**change[field])), atol=1e-6)
        assert same != (field in known), field


def test_a_query_field_that_does_not_exist_is_refused() -> None:
    events = random_events(B, L, seed=8)
    with pytest.raises(ValueError, match=r"weather.*choose from.*scene"):
        Query.of(events, ("time", "weather"))


def test_gradients_reach_every_parameter_and_are_finite() -> None:
    model = build("gated", "attention")
    variables, batch, catalogue = setting(model)

    def loss(variables) -> jax.Array:
        return run(model, variables, batch, catalogue, method="loss")[0]

    for path, g in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(variables)):
        assert np.isfinite(g).all(), path
        assert (np.asarray(g) != 0).any(), path


def test_heads_that_do_not_divide_the_features_are_refused() -> None:
    model = Recommender(fusion=ConcatFusion(9), interest=SelfAttention(heads=2))
    batch = Batch(random_events(B, L + 1), np.ones((B, L), np.float32))
    with pytest.raises(ValueError, match="heads=2 does not divide the 9 features"):
        jax.eval_shape(partial(model.init, method="loss"), jax.random.key(0), batch, random_catalogue())


def test_an_invalid_event_leaves_the_state_as_it_is() -> None:
    model = build("concat", "attention")
    variables, batch, catalogue = setting(model)
    state = run_steps(model, variables, batch.events[:, :4], catalogue)
    padding = batch.events[:, 5].replace(valid=jnp.zeros(B, bool))
    after = run(model, variables, state, padding, catalogue, method="step")
    jax.tree.map(np.testing.assert_array_equal, state, after)
    assert dataclasses.is_dataclass(state)


def test_schema_holds_every_size() -> None:
    """A table per vocabulary, as large as the schema says."""
    batch = Batch(random_events(B, L + 1), np.ones((B, L), np.float32))
    initial = partial(build().init, method="loss")
    params = jax.eval_shape(initial, jax.random.key(0), batch, random_catalogue())["params"]
    assert params["items"]["table"].shape == (SCHEMA.items, 6)
    assert params["items"]["field_category"]["embedding"].shape == (5, 6)
    assert params["encoders_context"]["field_scene"]["embedding"].shape == (6, 4)
    assert params["encoders_user"]["users"]["embedding"].shape == (SCHEMA.users, 3)


def test_unknown_is_not_the_place_of_zero_degrees() -> None:
    """Around (0, 0) an event that has no predecessor must not look near to where its memory is empty."""
    model = build("concat", "gru")
    variables, batch, catalogue = setting(model)
    shift = jnp.asarray([40.7, -74.0])
    moved = batch.events.replace(place=batch.events.place - shift)
    history, query, _ = questions(moved, KNOWN)
    catalogue = dataclasses.replace(catalogue, place=catalogue.place - shift)
    whole = run(model, variables, history, query, catalogue, method="scores")
    state = run_steps(model, variables, history, catalogue)
    stepped = run(model, variables, state, query, catalogue, method="answer")
    some = np.asarray(history.valid.any(axis=1))
    np.testing.assert_allclose(whole[some][:, FIRST:], stepped[some][:, FIRST:], atol=1e-4)


def test_whole_weeks_change_no_answer_to_a_user_without_events() -> None:
    model = build("concat", "gru", known=("time",))
    variables, _, catalogue = setting(model)
    state = model.init_state(B)
    first, later = (
        Query(time=jnp.full(B, 1_000_000 + weeks * 604_800, jnp.int32), utc_offset=jnp.zeros(B, jnp.int32))
        for weeks in (0, 107)
    )
    one = run(model, variables, state, first, catalogue, method="answer")
    other = run(model, variables, state, later, catalogue, method="answer")
    np.testing.assert_allclose(one[:, FIRST:], other[:, FIRST:], atol=1e-6)


def test_values_that_training_cannot_meet_start_neutral() -> None:
    catalogue = random_catalogue()
    model, events = build(), random_events(B, L)
    items = jax.jit(model.items.init)(jax.random.key(0), catalogue)["params"]
    users = jax.jit(ENCODERS["user"].init)(jax.random.key(0), events, catalogue)["params"]
    for table in (items["table"], users["users"]["embedding"]):
        assert (np.asarray(table[:FIRST]) == 0).all() and (np.asarray(table[FIRST:]) != 0).all()
