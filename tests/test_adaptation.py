"""Adaptation: the inner step by hand, its derivative, users apart from each other, and whether it helps."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from stjax.data.city import City, World
from stjax.data.synthetic import write_city
from stjax.events import FIRST, UNSEEN, Attributes, Batch, Catalogue, Events
from stjax.nn import ContextEmbed, ItemEmbed, Recommender, Retrieval, TimeEmbed
from stjax.nn.adaptation import MetaLearned, adapt, pick, put
from stjax.nn.fusion import ConcatFusion, ConvolutionFusion
from stjax.training import Optimizer
from stjax.training.optimizer import learning_rate, make_optimizer
from stjax.training.state import make_initial, make_train_step
from tests.models import questions, random_batch, random_parameters, run
from tests.strict import strict

B, L, SUPPORT, RATE = 3, 11, 4, 0.3


def toy() -> tuple[Any, Any, Any]:
    """Parameters of y = v (x . w), of which w is the fusion's; support; query."""
    rng = np.random.default_rng(0)
    w, v = jnp.asarray(rng.normal(size=5), jnp.float32), jnp.float32(1.3)
    support, query = (
        (jnp.asarray(rng.normal(size=(n, 5)), jnp.float32), jnp.asarray(rng.normal(size=n), jnp.float32))
        for n in (7, 11)
    )
    return {"fusion": {"w": w}, "head": {"v": v}}, support, query


def squared(params: Any, data: Any) -> jax.Array:
    x, y = data
    return jnp.mean((params["head"]["v"] * (x @ params["fusion"]["w"]) - y) ** 2)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_inner_steps_are_those_computed_by_hand(steps: int) -> None:
    params, support, _ = toy()
    x, y = (np.asarray(a, np.float64) for a in support)
    w, v = np.asarray(params["fusion"]["w"], np.float64), float(params["head"]["v"])
    for _ in range(steps):
        w = w - RATE * 2 / len(y) * v * x.T @ (v * x @ w - y)
    after = adapt(squared, params, support, steps=steps, rate=RATE)
    np.testing.assert_allclose(after["fusion"]["w"], w, rtol=1e-5)
    np.testing.assert_array_equal(after["head"]["v"], params["head"]["v"])


@pytest.mark.parametrize("steps", [1, 3])
def test_second_order_is_the_derivative_through_the_inner_steps(steps: int) -> None:
    """Against finite differences in double precision; first order leaves the curvature out."""
    with jax.enable_x64(True):
        params, support, query = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), toy())

        def meta(first_order: bool, params: Any) -> jax.Array:
            inner = adapt(squared, params, support, steps=steps, rate=RATE, first_order=first_order)
            return squared(inner, query)

        second, first = (jax.grad(partial(meta, order))(params) for order in (False, True))
        flat, unravel = ravel_pytree(params)
        numeric = [
            float(meta(False, unravel(flat + 1e-5 * e)) - meta(False, unravel(flat - 1e-5 * e))) / 2e-5
            for e in jnp.eye(len(flat))
        ]
        np.testing.assert_allclose(ravel_pytree(second)[0], numeric, rtol=1e-6, atol=1e-8)
        after = adapt(squared, params, support, steps=steps, rate=RATE)
        plain = jax.grad(squared)(after, query)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9), first, plain)
        assert np.abs(first["fusion"]["w"] - second["fusion"]["w"]).max() > 1e-2


def test_parameters_are_chosen_by_their_paths() -> None:
    params = {"fusion": {"a": 1, "b": {"c": 2, "d": 3}}, "fusion_other": {"a": 4}, "head": {"a": 5}}
    assert pick(params, ("fusion",)) == {"fusion": params["fusion"]}
    assert pick(params, ("fusion/b/c", "head")) == {"fusion": {"b": {"c": 2}}, "head": {"a": 5}}
    changed = put(params, {"fusion": {"b": {"c": 7}}})
    assert changed == params | {"fusion": {"a": 1, "b": {"c": 7, "d": 3}}}
    with pytest.raises(ValueError, match=r"'fusion/e'; the model has \['fusion', 'fusion_other', 'head'\]"):
        pick(params, ("head", "fusion/e"))


MODEL = Recommender(
    items=ItemEmbed(6),
    encoders={"context": ContextEmbed(4)},
    fusion=ConvolutionFusion(8, width=2),
    head=Retrieval(),
    dropout=0.0,
)
META = MetaLearned(MODEL, support=SUPPORT, rate=RATE)


def setting(seed: int = 37) -> tuple[Any, Batch, Catalogue]:
    batch, catalogue = random_batch(B, L, seed)
    length = np.asarray(batch.events.valid.sum(axis=1))
    assert (length < SUPPORT).any() and (length > SUPPORT + 2).sum() == 2
    return random_parameters(META, batch, catalogue, method="loss"), batch, catalogue


@jax.jit
def one_step_by_hand(params: Any, batch: Batch, catalogue: Catalogue) -> Any:
    g = jax.grad(lambda p: model_loss(p, batch, catalogue))(params)
    return params | {"fusion": jax.tree.map(lambda p, d: p - RATE * d, params["fusion"], g["fusion"])}


def model_loss(params: Any, batch: Batch, catalogue: Catalogue) -> Any:
    return MODEL.apply({"params": params}, batch, catalogue, method="loss")[0]


@partial(jax.jit, static_argnums=0)
def value_and_grad(model: MetaLearned, variables: Any, batch: Batch, catalogue: Catalogue) -> Any:
    def loss(variables: Any) -> Any:
        return model.apply(variables, batch, catalogue, method="loss")[0]

    return jax.value_and_grad(loss)(variables)


class TestMetaLearned:
    pytestmark = strict

    def test_loss_is_of_the_rest_under_what_the_support_taught(self) -> None:
        """User by user, by weights instead of shorter sequences and one row at a time."""
        variables, batch, catalogue = setting()
        loss, _ = value_and_grad(META, variables, batch, catalogue)
        events, position, total, count = batch.events, np.arange(L), 0.0, 0.0
        seen = np.asarray(events.valid[:, 1:] & (events.item[:, 1:] >= FIRST))
        for b in np.flatnonzero(events.valid.sum(axis=1) >= SUPPORT):
            mine = np.arange(B)[:, None] == b
            support = jnp.asarray(seen & mine & (position < SUPPORT - 1), jnp.float32)
            rest = jnp.where(mine & (position >= SUPPORT - 1), batch.weight, 0.0)
            params = one_step_by_hand(variables["params"]["model"], Batch(events, support), catalogue)
            of_user = run(MODEL, {"params": params}, Batch(events, rest), catalogue, method="loss")[0]
            total, count = total + float(of_user) * float(rest.sum()), count + float(rest.sum())
        assert count > 0
        np.testing.assert_allclose(loss, total / count, rtol=1e-4)

    def test_gradient_is_second_order_and_reaches_every_parameter(self) -> None:
        """Along its own direction the loss changes as finite differences say; first order differs."""
        variables, batch, catalogue = setting()
        _, g = value_and_grad(META, variables, batch, catalogue)
        for path, x in jax.tree_util.tree_leaves_with_path(g):
            assert np.isfinite(x).all(), path
            assert (np.asarray(x) != 0).any(), path
        fusion = g["params"]["model"]["fusion"]
        norm = float(jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(fusion))))
        values = []
        for sign in (1.0, -1.0):
            moved = jax.tree.map(
                lambda p, d, s=sign: p + s * 0.01 / norm * d, pick(variables, PATH), pick(g, PATH)
            )
            values.append(float(value_and_grad(META, put(variables, moved), batch, catalogue)[0]))
        np.testing.assert_allclose((values[0] - values[1]) / 0.02, norm, rtol=1e-2)
        _, first = value_and_grad(META.clone(first_order=True), variables, batch, catalogue)
        difference = jax.tree.map(
            lambda a, b: jnp.abs(a - b).max(), first["params"]["model"]["fusion"], fusion
        )
        assert max(jax.tree.leaves(difference)) > 1e-2 * norm

    def test_what_a_server_does_gives_the_scores(self) -> None:
        """Adapt once, read these events again, go on event by event; other users change nothing."""
        variables, batch, catalogue = setting()
        history, query, _ = questions(batch.events, META.known)
        scores = run(META, variables, history, query, catalogue, method="scores")
        params = variables["params"]["model"]
        for b in range(B):
            events = history[b : b + 1, : int(history.valid[b].sum())]
            mine = {"params": params}
            if events.item.shape[1] >= SUPPORT:
                part = run(META, variables, events[:, :SUPPORT], catalogue, method="adapted")
                mine = {"params": put(params, jax.tree.map(lambda x: x[0], part))}
            state = MODEL.init_state(1)
            for at in range(events.item.shape[1]):
                state = run(MODEL, mine, state, events[:, at], catalogue, method="step")
            one = jax.tree.map(lambda x, b=b: x[b : b + 1], query)
            answer = run(MODEL, mine, state, one, catalogue, method="answer")
            np.testing.assert_allclose(scores[b, FIRST:], answer[0, FIRST:], atol=1e-4)

    def test_users_with_few_events_keep_the_parameters(self) -> None:
        variables, batch, catalogue = setting()
        part = run(META, variables, batch.events, catalogue, method="adapted")
        own = pick(variables["params"]["model"], META.chosen)
        few = np.asarray(batch.events.valid.sum(axis=1)) < SUPPORT
        for mine, common in zip(jax.tree.leaves(part), jax.tree.leaves(own), strict=True):
            assert mine.shape == (B, *common.shape)
            np.testing.assert_array_equal(mine[few], np.broadcast_to(common, (few.sum(), *common.shape)))
        moved = jax.tree.map(lambda x, y: np.abs(x[~few] - y).max(), part, own)
        assert min(jax.tree.leaves(moved)) > 1e-5
        short = run(META, variables, batch.events[:, : SUPPORT - 1], catalogue, method="adapted")
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, np.broadcast_to(y, x.shape)), short, own)

    def test_a_segment_adapts_all_of_its_users_at_once(self) -> None:
        variables, batch, catalogue = setting()
        params = variables["params"]["model"]

        def loss(params: Any, batch: Batch) -> Any:
            return model_loss(params, batch, catalogue)

        after = jax.jit(lambda params: adapt(loss, params, batch, steps=2, rate=RATE))(params)
        by_hand = one_step_by_hand(one_step_by_hand(params, batch, catalogue), batch, catalogue)
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), after, by_hand)

    def test_one_event_cannot_adapt(self) -> None:
        variables, batch, catalogue = setting()
        with pytest.raises(ValueError, match="support=1 must be at least 2"):
            jax.eval_shape(partial(META.clone(support=1).apply, method="loss"), variables, batch, catalogue)


PATH = ("params/model/fusion",)


def city_of_new_users(path: Any) -> tuple[Events, Catalogue]:
    """The first events of each user of a synthetic city, all of them unknown by their ids."""
    city = City(users=384, events_per_user=64, items=61, categories=5, archetypes=3, cells=5, seed=1)
    store = write_city(city, path)
    rows = store.offsets[:-1, None] + np.arange(32)
    assert (rows[:, -1] < store.offsets[1:]).all()
    column = {name: np.asarray(x)[rows] for name, x in store.columns.items()}
    events = Events(
        item=column["item"],
        user=np.full_like(column["user"], UNSEEN),
        time=column["time"],
        utc_offset=column["utc_offset"],
        place=column["place"],
        valid=np.ones(rows.shape, bool),
        categorical={name: column[name] for name in ("device", "scene")},
    )
    category = np.concatenate([[0, 0], World.of(city).category + FIRST]).astype(np.int32)
    items = Attributes(categorical={"category": category})
    return jax.tree.map(
        jnp.asarray, (events, Catalogue(np.asarray(store.items["place"]), store.schema, items=items))
    )


@pytest.mark.slow
def test_adaptation_helps_users_that_training_has_never_seen(tmp_path: Any) -> None:
    """Meta-trained on 256 users of the city; the loss after 16 events of 128 others, in pairs.

    By the train step that train.py uses, dropout included.
    """
    events, catalogue = city_of_new_users(tmp_path / "city")
    model = Recommender(
        items=ItemEmbed(16),
        encoders={"time": TimeEmbed(8), "context": ContextEmbed(4)},
        fusion=ConcatFusion(16),
        head=Retrieval(known=("time",)),
    )
    meta, settings = MetaLearned(model, support=16, rate=0.1), Optimizer(learning_rate=5e-3, warmup_steps=8)
    rng, known, steps = np.random.default_rng(0), 256, 96

    def batch(rows: Any) -> Batch:
        return Batch(events[rows], jnp.ones((len(rows), 31), jnp.float32))

    optimizer = make_optimizer(settings, steps)
    step = make_train_step(meta, optimizer, learning_rate(settings, steps))
    key = jax.random.key(0)
    state = make_initial(meta, optimizer)(key, batch(np.arange(32)), catalogue)
    for _ in range(steps // 8):
        for rows in rng.permutation(known).reshape(8, 32):
            state, metrics = step(key, state, batch(rows), catalogue)
            assert metrics["finite"]

    @jax.jit
    def losses(params: Any, new: Batch) -> tuple[jax.Array, jax.Array]:
        adapted = meta.apply({"params": params}, new.events, catalogue, method="adapted")
        rest = Batch(new.events, jnp.where(jnp.arange(31) >= 15, new.weight, 0.0))

        def loss(part: Any, row: Batch) -> Any:
            one, own = jax.tree.map(lambda x: x[None], row), put(params["model"], part)
            return model.apply({"params": own}, one, catalogue, method="loss")[0]

        without = pick(params["model"], meta.chosen)
        return jax.vmap(loss)(adapted, rest), jax.vmap(partial(loss, without))(rest)

    adapted, without = losses(state.params, batch(np.arange(known, len(events.item))))
    gain = np.asarray(without - adapted)
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    assert len(gain) == 128
    assert gain.mean() > 4 * error, f"{gain.mean():.3f} nats +- {error:.3f}"
