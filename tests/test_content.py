"""Embeddings of attributes against NumPy: every kind, missing and unseen values, both forms, gradients."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.events import FIRST, MISSING, UNSEEN
from stjax.nn.content import ContextEmbed, ItemEmbed, MultiEmbed, ProfileEmbed, UserEmbed
from tests.random_events import SCHEMA, random_catalogue, random_events
from tests.strict import strict

pytestmark = strict

B, L, D = 3, 11, 6
CATALOGUE = jax.tree.map(jnp.asarray, random_catalogue())
EVENTS = jax.tree.map(jnp.asarray, random_events(B, L))


@partial(jax.jit, static_argnums=0)
def apply(model, params, *args):
    return model.apply(params, *args)


def random_params(model, *args, seed: int = 0):
    shapes = jax.eval_shape(model.init, jax.random.key(0), *args)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), x.dtype), shapes)


def dense(p, x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(p["kernel"]) + np.asarray(p["bias"])


def multi_reference(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
    out = np.zeros((len(ids), table.shape[1]))
    for r, row in enumerate(ids.tolist()):
        known = [i for i in row if i != MISSING]
        out[r] = sum(table[i] for i in known) / np.sqrt(len(known)) if known else table[MISSING]
    return out


def fields_reference(p, role: str, values, rows: int) -> np.ndarray:
    """The sum of all fields' embeddings, one row at a time."""
    out = np.zeros((rows, D))
    for f in SCHEMA.select(role, "categorical"):
        table = np.asarray(p[f"field_{f.name}"]["embedding"])
        out += np.stack([table[i] for i in np.asarray(values.categorical[f.name]).tolist()])
    for f in SCHEMA.select(role, "multi"):
        out += multi_reference(
            np.asarray(p[f"field_{f.name}"]["embedding"]), np.asarray(values.multi[f.name])
        )
    numbers = np.stack([np.asarray(values.numeric[f.name]) for f in SCHEMA.select(role, "numeric")], -1)
    for r, row in enumerate(numbers):
        scaled = [0.0 if np.isnan(v) else np.copysign(np.log(1 + abs(v)), v) for v in row]
        out[r] += dense(p["NumericEmbed_0"]["Dense_0"], np.array([*scaled, *np.isnan(row)]))
    for f in SCHEMA.select(role, "vector"):
        own = p[f"field_{f.name}"]
        for r, vector in enumerate(np.asarray(values.vector[f.name])):
            out[r] += np.asarray(own["missing"]) if np.isnan(vector).any() else dense(own["Dense_0"], vector)
    return out


def test_several_values():
    ids = np.array([[0, 0, 0], [2, 0, 0], [3, 2, 0], [4, 1, 3], [1, 1, 0]], np.int32)
    model = MultiEmbed(5, D)
    params = random_params(model, jnp.asarray(ids))
    out = apply(model, params, jnp.asarray(ids))
    np.testing.assert_allclose(
        out, multi_reference(np.asarray(params["params"]["embedding"]), ids), atol=1e-6
    )
    # two leading dimensions, no value twice the weight of another, order without effect
    both = np.asarray(apply(model, params, jnp.asarray(np.stack([ids, ids[:, ::-1]], axis=1))))
    np.testing.assert_allclose(both[1:, 0], both[1:, 1], atol=1e-6)
    np.testing.assert_allclose(both[0, 1], out[0], atol=1e-6)


def test_items():
    model = ItemEmbed(D, place=False)
    params = random_params(model, CATALOGUE)
    p = params["params"]
    expected = np.asarray(p["table"]) + fields_reference(p, "item", CATALOGUE.items, SCHEMA.items)
    np.testing.assert_allclose(apply(model, params, CATALOGUE), expected, atol=1e-5)
    bare = ItemEmbed(D, attributes=False, place=False)
    only = {"params": {"table": p["table"]}}
    np.testing.assert_array_equal(apply(bare, only, CATALOGUE), p["table"])


def test_parameters_of_items_keep_their_names():
    """Checkpoints are read by these paths."""
    params = jax.eval_shape(ItemEmbed(D).init, jax.random.key(0), CATALOGUE)["params"]
    fields = {"field_category", "field_text", "field_genres", "NumericEmbed_0"}
    assert set(params) == {"table", "PlaceEmbed_0"} | fields
    context = jax.eval_shape(ContextEmbed(D).init, jax.random.key(0), EVENTS, CATALOGUE)["params"]
    assert set(context) == {"field_scene", "field_mood", "NumericEmbed_0"}


def test_users_in_both_forms():
    model = UserEmbed(D)
    params = random_params(model, EVENTS, CATALOGUE)
    p = params["params"]
    rows = np.asarray(p["users"]["embedding"]) + fields_reference(
        p["AttributeEmbed_0"], "user", CATALOGUE.users, SCHEMA.users
    )
    who = EVENTS.user.at[0].set(UNSEEN)
    events = EVENTS.replace(user=who)
    out = apply(model, params, events, CATALOGUE)
    expected = np.broadcast_to(rows[np.asarray(who)[:, :1]], (B, L, D))
    np.testing.assert_allclose(out, expected, atol=1e-5)
    step = jax.jit(partial(model.apply, method="step"))
    for k in range(2):
        np.testing.assert_allclose(step(params, (), events[:, k], CATALOGUE)[1], expected[:, k], atol=1e-5)
    # on padding the dataset writes user 0: the valid events are as before
    padded = events.replace(user=jnp.where(events.valid, events.user, 0))
    np.testing.assert_array_equal(apply(model, params, padded, CATALOGUE)[events.valid], out[events.valid])


@pytest.mark.parametrize(
    ("ids", "attributes", "expected"),
    [(True, False, {"users"}), (False, True, {"AttributeEmbed_0"}), (False, False, set())],
)
def test_users_by_parts(ids, attributes, expected):
    model = UserEmbed(D, attributes=attributes, ids=ids)
    shapes = jax.eval_shape(model.init, jax.random.key(0), EVENTS, CATALOGUE)
    assert set(shapes.get("params", {})) == expected
    assert jax.eval_shape(model.apply, shapes, EVENTS, CATALOGUE).shape == (B, L, D)


def test_users_without_ids_share_what_they_share():
    """Two users with the same attributes are the same; one attribute apart, they are not."""
    model = UserEmbed(D, ids=False)
    params = random_params(model, EVENTS, CATALOGUE)
    users = jax.tree.map(lambda x: x.at[3].set(x[2]), CATALOGUE.users)
    event = EVENTS[:, 0]
    event = event.replace(user=jnp.array([2, 3, 4], jnp.int32))
    out = apply(model, params, event, dataclasses.replace(CATALOGUE, users=users))
    np.testing.assert_array_equal(out[0], out[1])
    age = dict(users.numeric) | {"age": users.numeric["age"].at[3].set(97.0)}
    other = dataclasses.replace(users, numeric=age)
    out = apply(model, params, event, dataclasses.replace(CATALOGUE, users=other))
    assert np.abs(out[0] - out[1]).max() > 1e-3


def loss(model, params, *args):
    return (model.apply(params, *args) ** 2).sum()


@pytest.mark.parametrize("model", [ItemEmbed(D), UserEmbed(D)], ids=["items", "users"])
def test_gradients_are_finite_and_reach_missing_and_unseen_values(model):
    """Every row of every table that some row of the catalogue uses, MISSING and UNSEEN among them."""
    users = jnp.arange(SCHEMA.users)
    args = (CATALOGUE,) if isinstance(model, ItemEmbed) else (EVENTS[0, :7].replace(user=users), CATALOGUE)
    params = random_params(model, *args)
    grads = jax.jit(jax.grad(partial(loss, model)))(params, *args)["params"]
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    own = CATALOGUE.items if isinstance(model, ItemEmbed) else CATALOGUE.users
    role = "item" if isinstance(model, ItemEmbed) else "user"
    fields = grads if isinstance(model, ItemEmbed) else grads["AttributeEmbed_0"]
    for f in SCHEMA.select(role, "categorical") + SCHEMA.select(role, "multi"):
        ids = np.asarray((own.categorical | own.multi)[f.name])
        rows = ids.reshape(len(ids), -1)
        used = {i for row in rows.tolist() for i in row if i != MISSING}
        used |= {MISSING} if (rows[:, 0] == MISSING).any() else set()
        moved = np.flatnonzero(np.abs(fields[f"field_{f.name}"]["embedding"]).sum(axis=1))
        assert set(moved.tolist()) == used and MISSING in used
    for f in SCHEMA.select(role, "vector"):
        assert np.abs(fields[f"field_{f.name}"]["missing"]).sum() > 0
    kernel = fields["NumericEmbed_0"]["Dense_0"]["kernel"]
    assert (np.abs(kernel).sum(axis=1) > 0).all()  # the flag of missing numbers as well


def test_an_unseen_value_differs_from_a_missing_and_a_known_one():
    model = MultiEmbed(7, D)
    ids = jnp.array([[MISSING, MISSING], [UNSEEN, MISSING], [FIRST, MISSING]], jnp.int32)
    out = np.asarray(apply(model, random_params(model, ids), ids))
    assert min(np.abs(out[a] - out[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))) > 1e-2


@pytest.mark.parametrize("field", ["category", "genres"])
def test_a_profile_is_that_of_a_loop_in_both_forms(field):
    runs = (2.0, 7.0)
    model = ProfileEmbed(D, field=field, runs=runs)
    params = random_params(model, EVENTS, CATALOGUE)
    p = jax.tree.map(np.asarray, params["params"])
    table = p["kinds"]["embedding"].reshape(-1, len(runs), 2 * D)
    items = np.asarray(EVENTS.item)
    values = CATALOGUE.items.categorical | CATALOGUE.items.multi
    own = np.asarray(values[field])[items].reshape(B * L, -1)
    rows = np.stack([multi_reference(table[:, r], own) for r in range(len(runs))], axis=1)
    rows = rows.reshape(B, L, len(runs), 2 * D)
    valid, expected = np.asarray(EVENTS.valid), np.zeros((B, L, D))
    for b, i in np.ndindex(B, L):
        h = np.zeros(2 * D) + p["bias"]
        for m in range(i + 1):
            ago = valid[b, m + 1 : i + 1].sum()  # padding is no event
            h += sum(np.exp(-ago / run) * rows[b, m, r] * valid[b, m] for r, run in enumerate(runs))
        expected[b, i] = dense(p["project"], np.asarray(jax.nn.gelu(jnp.asarray(h, jnp.float32))))
    out = apply(model, params, EVENTS, CATALOGUE)
    np.testing.assert_allclose(out[valid], expected[valid], atol=2e-5)
    step, state = jax.jit(partial(model.apply, method="step")), model.init_state(B)
    for k in range(L):
        before = state
        state, x = step(params, state, EVENTS[:, k], CATALOGUE)
        np.testing.assert_allclose(x[valid[:, k]], expected[valid[:, k], k], atol=2e-5)
        np.testing.assert_array_equal(state[~valid[:, k]], before[~valid[:, k]])
    gradients = jax.jit(jax.grad(partial(loss, model)))(params, EVENTS, CATALOGUE)["params"]
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"field": "colour"}, "no item field 'colour' of kinds.*category"), ({"runs": (3.0, 0.0)}, "above 0")],
)
def test_a_profile_of_nothing_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(ProfileEmbed(D, **wrong).init, jax.random.key(0), EVENTS, CATALOGUE)
