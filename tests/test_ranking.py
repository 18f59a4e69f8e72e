"""The ranking head against NumPy: predictions, labels, losses, what is missing, what is refused."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.events import FIRST, Events
from stjax.nn.ranking import Choice, Ranking, Task
from tests.models import random_parameters
from tests.random_events import SCHEMA, random_events
from tests.strict import strict

pytestmark = strict

B, L, C, D, ITEM = 3, 11, 5, 6, 7
TASKS = (
    Task("liked", "rating", threshold=4.0, mean=0.3),
    Task("rated", "rating", "regression", mean=3.0, scale=10.0, weight=0.5),
    Task("bought", "scene", positive=(2, 4), weight=2.0),
)
HEADS = {"shared": Ranking(TASKS, hidden=8), "experts": Ranking(TASKS, hidden=8, experts=3)}


def setting(seed: int = 0) -> tuple[jax.Array, jax.Array, Events, jax.Array]:
    """Requests, item vectors of the targets, the targets, weights."""
    rng = np.random.default_rng(seed)
    u, v = (jnp.asarray(rng.normal(size=(B, L, n)).astype("f4")) for n in (D, ITEM))
    target = jax.tree.map(jnp.asarray, random_events(B, L, seed))
    return u, v, target, jnp.where(target.valid, jnp.asarray(rng.uniform(0.5, 1.5, (B, L)).astype("f4")), 0.0)


def parameters(head: Ranking) -> Any:
    u, v, *_ = setting()
    return random_parameters(head, u, v[..., None, :])


@partial(jax.jit, static_argnames=("head", "train"))
def run(head: Ranking, variables: Any, u: jax.Array, v: jax.Array, train: bool = False, key: Any = None):
    return head.apply(variables, u, v, train, rngs=None if key is None else {"dropout": key})


@partial(jax.jit, static_argnames="head")
def lose(head: Ranking, variables: Any, *args: Any) -> Any:
    """(loss, scalars), and gradients to parameters, requests and item vectors."""

    def loss(variables: Any, u: jax.Array, v: jax.Array) -> Any:
        return head.apply(variables, u, v[..., None, :], *args[2:], SCHEMA, method="loss")

    return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(variables, *args[:2])


def forward(head: Ranking, p: Any, u: np.ndarray, v: np.ndarray) -> dict[str, float]:
    """One request and one candidate, as the paper has it: dense layers of the concatenation."""

    def norm(x: np.ndarray, p: Any) -> np.ndarray:
        return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * np.asarray(p["scale"]) + np.asarray(p["bias"])

    def dense(x: np.ndarray, p: Any) -> np.ndarray:
        return x @ np.asarray(p["kernel"], np.float64) + np.asarray(p["bias"])

    def silu(x: np.ndarray) -> np.ndarray:
        return x / (1 + np.exp(-x))

    u, v = norm(u, p["norm_request"]), norm(v, p["norm_item"])
    product = dense(u, p["factor_request"]) * dense(v, p["factor_item"])
    kernel = np.concatenate([np.asarray(p[name]["kernel"]) for name in ("request", "item", "product")])
    x = silu(np.concatenate([u, v, product]) @ kernel + np.asarray(p["request"]["bias"]))
    experts = silu(dense(x, p["experts"])).reshape(head.experts, head.hidden)
    out = {}
    for task in head.tasks:
        gate = np.ones(1)
        if head.experts > 1:
            gate = np.exp(dense(x, p[f"gate_{task.name}"]))
        mixed = (gate / gate.sum()) @ experts
        y = dense(silu(dense(mixed, p[f"tower_{task.name}"])), p[f"output_{task.name}"])[0]
        out[task.name] = y if task.kind == "binary" else 3.0 + 10.0 * y
    return out


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_predictions_are_those_of_a_plain_loop(head: Ranking) -> None:
    u = setting()[0][:, 0]
    candidates = jnp.asarray(np.random.default_rng(5).normal(size=(B, C, ITEM)).astype("f4"))
    variables = parameters(head)
    found = run(head, variables, u, candidates)
    for b in range(B):
        for c in range(C):
            expected = forward(head, variables["params"], np.asarray(u[b]), np.asarray(candidates[b, c]))
            for name, value in expected.items():
                np.testing.assert_allclose(found[name][b, c], value, rtol=1e-3, atol=1e-4)


def test_losses_are_those_of_a_plain_loop() -> None:
    u, v, target, weight = setting()
    head = HEADS["experts"]
    variables = parameters(head)
    (total, sums), _ = lose(head, variables, u, v, target, weight)
    expected = {f"{task.name}_{what}": 0.0 for task in TASKS for what in ("loss", "known")}
    for b, t in np.argwhere(np.asarray(weight) > 0):
        y = forward(head, variables["params"], np.asarray(u[b, t]), np.asarray(v[b, t]))
        w, rating, scene = (
            float(weight[b, t]),
            target.numeric["rating"][b, t],
            target.categorical["scene"][b, t],
        )
        known = {"liked": not np.isnan(rating), "rated": not np.isnan(rating), "bought": scene >= FIRST}
        p = {name: 1 / (1 + np.exp(-y[name])) for name in ("liked", "bought")}
        loss = {
            "liked": -np.log(p["liked"] if rating >= 4.0 else 1 - p["liked"]),
            "rated": 0.5 * ((float(rating) - y["rated"]) / 10.0) ** 2,
            "bought": -np.log(p["bought"] if int(scene) in (2, 4) else 1 - p["bought"]),
        }
        for name in loss:
            expected[f"{name}_loss"] += w * loss[name] if known[name] else 0.0
            expected[f"{name}_known"] += w if known[name] else 0.0
    assert set(sums) == set(expected)
    assert 0 < expected["liked_known"] < float(weight.sum())
    assert 0 < expected["bought_known"] < float(weight.sum())
    for name, value in expected.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(total, sum(t.weight * sums[f"{t.name}_loss"] for t in TASKS), rtol=1e-5)


def test_gradients_are_right_and_reach_every_parameter() -> None:
    u, v, target, weight = setting()
    head = HEADS["experts"]
    variables = parameters(head)
    _, gradients = lose(head, variables, u, v, target, weight)
    for path, g in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(g).all() and np.asarray(g).any(), path
    leaves, tree = jax.tree.flatten((variables, u, v))
    rng = np.random.default_rng(1)
    way = [jnp.asarray(rng.normal(0, 1e-3, x.shape).astype("f4")) for x in leaves]
    up, down = (
        lose(
            head,
            *jax.tree.unflatten(tree, [x + s * w for x, w in zip(leaves, way, strict=True)]),
            target,
            weight,
        )
        for s in (1.0, -1.0)
    )
    slope = sum(float(jnp.vdot(g, w)) for g, w in zip(jax.tree.leaves(gradients), way, strict=True))
    np.testing.assert_allclose((up[0][0] - down[0][0]) / 2, slope, rtol=2e-2)


def test_only_known_labels_of_counted_positions_matter() -> None:
    head = HEADS["experts"]
    u, v, target, weight = setting()
    variables = parameters(head)
    (total, sums), gradients = lose(head, variables, u, v, target, weight)
    off = weight == 0
    assert off.any()
    # Other vectors and labels where there is no weight; other values of all that is no label.
    scene = jnp.where(off, 4, target.categorical["scene"])
    rating = jnp.where(off, 5.0, target.numeric["rating"])
    changed = target.replace(
        item=target.item + 1,
        time=target.time + 3_607,
        place=target.place + 0.5,
        categorical=dict(target.categorical) | {"scene": scene},
        numeric=dict(target.numeric) | {"rating": rating},
    )
    other_u, other_v = (jnp.where(off[..., None], x + 3.0, x) for x in (u, v))
    (same, same_sums), again = lose(head, variables, other_u, other_v, changed, weight)
    np.testing.assert_allclose(total, same, rtol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), sums, same_sums)
    for g in (*gradients[1:], *again[1:]):
        assert not np.asarray(g)[np.asarray(off)].any()
    # Without any label there is no loss and no gradient, and neither is NaN.
    none = target.replace(
        categorical=dict(target.categorical) | {"scene": jnp.zeros_like(scene)},
        numeric=dict(target.numeric) | {"rating": jnp.full_like(rating, jnp.nan)},
    )
    (total, sums), gradients = lose(head, variables, u, v, none, weight)
    for x in jax.tree.leaves((total, sums, gradients)):
        assert not np.asarray(x).any()


def test_predictions_start_at_the_mean() -> None:
    """The output's bias is the logit of the share of positives; the unit of a regression is its field's."""
    head = HEADS["shared"]
    u, v, *_ = setting()
    params = jax.jit(head.init)(jax.random.key(0), u, v[..., None, :])["params"]
    np.testing.assert_allclose(params["output_liked"]["bias"], np.log(0.3 / 0.7), rtol=1e-6)
    assert not params["output_bought"]["bias"].any() and not params["output_rated"]["bias"].any()
    for task in TASKS:
        params[f"output_{task.name}"]["kernel"] *= 0.0
    found = run(head, {"params": params}, u, v[..., None, :])
    np.testing.assert_allclose(jax.nn.sigmoid(found["liked"]), 0.3, rtol=1e-5)
    np.testing.assert_allclose(found["rated"], 3.0, rtol=1e-6)
    np.testing.assert_allclose(jax.nn.sigmoid(found["bought"]), 0.5, rtol=1e-6)
    assert found["rated"].shape == (B, L, 1)


def test_a_change_of_unit_changes_no_loss_and_large_errors_count_linearly() -> None:
    u, v, target, weight = setting()
    in_cents = target.replace(numeric=dict(target.numeric) | {"rating": target.numeric["rating"] * 100.0})

    @partial(jax.jit, static_argnums=0)
    def loss(task: Task, target: Events) -> Any:
        head = Ranking((task,), hidden=8)
        return head.apply(parameters(head), u, v[..., None, :], target, weight, SCHEMA, method="loss")[0]

    rated = TASKS[1]
    cents = dataclasses.replace(rated, mean=300.0, scale=1000.0)
    np.testing.assert_allclose(loss(rated, target), loss(cents, in_cents), rtol=1e-4)
    head = Ranking((dataclasses.replace(rated, huber=0.2),), hidden=8)
    y = np.asarray(run(head, parameters(head), u, v[..., None, :])["rated"])[..., 0]
    error = np.abs(np.asarray(target.numeric["rating"]) - y) / 10.0
    each = np.where(error <= 0.2, 0.5 * error**2, 0.2 * (error - 0.1))
    counted = (np.asarray(weight) > 0) & ~np.isnan(error)
    assert (error[counted] > 0.2).any() and (error[counted] < 0.2).any()
    expected = rated.weight * (np.asarray(weight) * each)[counted].sum()
    np.testing.assert_allclose(loss(head.tasks[0], target), expected, rtol=1e-4)


CHOICE = Ranking((Choice(negatives=4, ratio=2.5, weight=0.7), TASKS[0]), hidden=8)


def test_a_choice_loses_the_mean_of_one_taken_item_and_the_others_that_the_drawn_stand_for() -> None:
    u, _, target, weight = setting()
    rng = np.random.default_rng(3)
    items, repeated = (jnp.asarray(rng.normal(size=(B, L, C, n)).astype("f4")) for n in (ITEM, 5))
    ids = jnp.asarray(rng.integers(FIRST, 9, (B, L, C)))
    ids = ids.at[0, 0, 2].set(ids[0, 0, 0])  # the target itself was drawn
    ids = ids.at[0, 1].set(ids[0, 1, :1])  # nothing else was drawn
    args = (target, weight, SCHEMA, False, ids, repeated)
    shapes = jax.eval_shape(partial(CHOICE.init, train=False), jax.random.key(0), u, items, repeated=repeated)
    variables = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes)
    apply: Any = partial(CHOICE.apply, variables, u)
    total, sums = apply(items, *args, method="loss")
    logits = np.asarray(apply(items, False, repeated)["chosen"], np.float64)
    expected = 0.0
    for b, t in np.ndindex(B, L):
        others = [y for y, i in zip(logits[b, t, 1:], ids[b, t, 1:], strict=True) if i != ids[b, t, 0]]
        loss = np.log1p(np.exp(-logits[b, t, 0]))
        loss += 2.5 * np.mean([np.log1p(np.exp(y)) for y in others]) if others else 0.0
        expected += float(weight[b, t]) * loss / 3.5
    np.testing.assert_allclose(sums["chosen_loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(sums["chosen_known"], weight.sum(), rtol=1e-6)
    np.testing.assert_allclose(total, 0.7 * sums["chosen_loss"] + sums["liked_loss"], rtol=1e-5)
    # The other task reads the target's item alone; how often it was there counts.
    changed = apply(items.at[:, :, 1:].add(1.0), *args, method="loss")[1]
    np.testing.assert_allclose(changed["liked_loss"], sums["liked_loss"], rtol=1e-6)
    other = (*args[:-1], repeated + 1.0)
    assert abs(float(apply(items, *other, method="loss")[0] - total)) > 1e-3
    with pytest.raises(ValueError, match="'chosen': a choice needs the ids"):
        apply(items, target, weight, SCHEMA, False, None, repeated, method="loss")


def test_candidates_are_the_target_and_items_drawn_uniformly() -> None:
    target = jnp.asarray(np.random.default_rng(0).integers(FIRST, 9, (7, 211)))

    def draw(head: Ranking, train: bool, key: int = 0) -> Any:
        return head.apply({}, target, 9, train, method="candidates", rngs={"dropout": jax.random.key(key)})

    found = draw(CHOICE, True)
    assert found.shape == (7, 211, 5)
    np.testing.assert_array_equal(found[..., 0], target)
    counts = np.bincount(np.asarray(found[..., 1:]).ravel(), minlength=9)
    assert not counts[:FIRST].any()
    np.testing.assert_allclose(counts[FIRST:] / counts.sum(), 1 / 7, rtol=0.15)  # 5,908 draws
    assert (draw(CHOICE, True, 1) != found).any()
    np.testing.assert_array_equal(draw(CHOICE, False, 1), draw(CHOICE, False, 2))
    np.testing.assert_array_equal(draw(HEADS["shared"], True), target[..., None])


def test_a_choice_starts_at_the_share_of_taken_items() -> None:
    u, v, *_ = setting()
    params = jax.jit(CHOICE.init)(jax.random.key(0), u, v[..., None, :])["params"]
    np.testing.assert_allclose(params["output_chosen"]["bias"], np.log(1 / 2.5), rtol=1e-6)


def test_dropout_is_of_training() -> None:
    head = HEADS["experts"].clone(dropout=0.5)
    u, v, *_ = setting()
    variables, key = parameters(head), jax.random.key(0)
    plain = run(HEADS["experts"], variables, u, v[..., None, :])["liked"]
    np.testing.assert_array_equal(run(head, variables, u, v[..., None, :])["liked"], plain)
    assert not np.allclose(run(head, variables, u, v[..., None, :], train=True, key=key)["liked"], plain)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task("x", "clicks"), r"task 'x': no event field 'clicks'; .*'rating'.*'scene'"),
        (Task("x", "price"), r"no event field 'price'"),  # of items
        (Task("x", "rating"), "'rating' is numeric, a binary task needs threshold"),
        (Task("x", "scene"), r"positive=\(\) must name ids of 'scene', 2 to 5"),
        (Task("x", "scene", positive=(6,)), r"positive=\(6,\) must name ids"),
        (Task("x", "scene", "regression"), "'scene' is categorical, only binary tasks fit"),
    ],
)
def test_a_task_that_does_not_fit_the_log_is_refused(task: Task, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task.labels(setting()[2], SCHEMA)


def test_impossible_settings_are_refused() -> None:
    for changes, message in (
        ({"kind": "ordinal"}, "task 'x': kind='ordinal': choose binary or regression"),
        ({"mean": 3.0}, r"mean=3.0 must lie between 0 and 1"),
        ({"scale": 0.0}, "scale=0.0 must be above 0"),
        ({"huber": -1.0}, "huber=-1.0 must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Task("x", "rating", **changes)  # pyright: ignore
    for make in (lambda: Choice(negatives=0), lambda: Choice(ratio=-1.0)):
        with pytest.raises(ValueError, match=r"task 'chosen': .* must be above 0"):
            make()
    u, v, *_ = setting()
    for head, message in (
        (Ranking(()), "tasks: .* must be at least one"),
        (Ranking((TASKS[0], TASKS[0])), "each with a name of its own"),
        (Ranking((Choice(), Choice("again"))), "one Choice at most"),
        (Ranking(TASKS, memory=-1), "memory=-1 must be at least 0"),
        (Ranking(TASKS, experts=0), "experts=0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(head.init, jax.random.key(0), u, v[..., None, :])
