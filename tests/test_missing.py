"""What training hides, and doing without a modality at serving time."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.events import FIRST, MISSING, UNSEEN
from stjax.nn import GRU, ConcatFusion, ContextEmbed, ItemEmbed, Pointer, Recommender, Retrieval, SpaceEmbed
from stjax.nn.missing import Hide, HideIds, StandIns
from tests.models import questions, random_batch, random_parameters, run, run_steps
from tests.random_events import random_events
from tests.strict import strict

pytestmark = strict

B, L = 3, 11


def build(**options) -> Recommender:
    return Recommender(
        items=ItemEmbed(6),
        encoders={"space": SpaceEmbed(5, scales=3), "context": ContextEmbed(4)},
        fusion=ConcatFusion(8),
        head=Retrieval(pointer=Pointer(5)),
        interest=GRU(),
        **options,
    )


def test_hide_hides_the_share_it_says_and_nothing_else() -> None:
    events = jax.tree.map(jnp.asarray, random_events(199, 23, seed=3))
    hidden = Hide(0.3).apply({}, events, True, rngs={"dropout": jax.random.key(1)})
    assert jax.tree.structure(hidden) == jax.tree.structure(events)
    for name in ("time", "utc_offset", "valid"):
        np.testing.assert_array_equal(getattr(hidden, name), getattr(events, name))
    valid = np.asarray(events.valid)
    known = np.asarray(events.item) >= FIRST
    gone = np.asarray(hidden.item == UNSEEN) & known
    assert abs(gone.sum() / known.sum() - 0.3) < 0.03
    np.testing.assert_array_equal(np.asarray(hidden.item)[~gone], np.asarray(events.item)[~gone])
    assert (np.asarray(hidden.item)[~valid] == 0).all()
    users = np.asarray(hidden.user)
    assert (users == users[:, :1]).all() and 0.2 < (users[:, 0] == UNSEEN).mean() < 0.45
    before, after = np.asarray(events.categorical["scene"]), np.asarray(hidden.categorical["scene"])
    changed = before != after
    assert set(after[changed]) == {MISSING, UNSEEN}
    for a, b in (
        (events.place[..., 0], hidden.place[..., 0]),
        (events.numeric["rating"], hidden.numeric["rating"]),
        (events.vector["mood"][..., 0], hidden.vector["mood"][..., 0]),
    ):
        there, left = np.isfinite(a), np.isfinite(b)
        assert abs((there & ~left).sum() / there.sum() - 0.3) < 0.03
        np.testing.assert_array_equal(np.asarray(a)[left], np.asarray(b)[left])


def test_nothing_is_hidden_outside_training() -> None:
    events = jax.tree.map(jnp.asarray, random_events(B, L))
    assert Hide(0.3).apply({}, events, False) is events
    assert Hide(0.0).apply({}, events, True) is events


def test_unseen_and_missing_values_are_trained_where_values_are_hidden() -> None:
    batch, catalogue = random_batch(B, L)
    scene = jnp.maximum(batch.events.categorical["scene"], FIRST)  # a log without a missing scene
    item = jnp.maximum(batch.events.item, FIRST)
    events = batch.events.replace(item=item, categorical={"scene": scene})
    batch = type(batch)(events, batch.weight)

    def rows(hide: float) -> list[np.ndarray]:
        model = build(hide=hide)
        variables = random_parameters(model, batch, catalogue, method="loss")

        def loss(v):
            return model.apply(v, batch, catalogue, True, method="loss", rngs={"dropout": jax.random.key(0)})[
                0
            ]

        g = jax.jit(jax.grad(loss))(variables)["params"]
        return [g["items"]["table"][UNSEEN], *g["encoders_context"]["field_scene"]["embedding"][:FIRST]]

    # The softmax excludes UNSEEN, so only events that carry it can train its row.
    for row in rows(0.0):
        assert (np.asarray(row) == 0).all()
    for row in rows(0.5):
        assert (np.asarray(row) != 0).any()


def test_a_hidden_place_is_hidden_from_encoders_too() -> None:
    """The catalogue knows every place, and must not give a hidden one back."""
    batch, catalogue = random_batch(B, L)
    place = jnp.asarray([40.7, -74.0]) + 0.01 * jnp.arange(len(catalogue.place), dtype=jnp.float32)[:, None]
    catalogue = dataclasses.replace(catalogue, place=place)
    model = build(hide=0.5)
    variables = random_parameters(model, batch, catalogue, method="loss")

    def loss(missing: jax.Array) -> jax.Array:
        params = jax.tree.map(lambda x: x, variables["params"])
        params["encoders_space"]["place"]["missing"] = missing
        key = {"dropout": jax.random.key(0)}
        out = model.apply({"params": params}, batch, catalogue, True, method="loss", rngs=key)
        return out[0]

    missing = variables["params"]["encoders_space"]["place"]["missing"]
    assert (np.asarray(jax.jit(jax.grad(loss))(missing)) != 0).any()
    model = build()  # nothing is hidden, and every place is known
    assert (np.asarray(jax.jit(jax.grad(loss))(missing)) == 0).all()


def test_item_dropout_hides_an_item_wherever_it_occurs_in_a_sequence() -> None:
    item = jnp.asarray(np.random.default_rng(0).integers(FIRST, 97, (211, 31)))
    own, anonymous = jnp.ones((211, 31, 2)), jnp.zeros((211, 31, 2))
    out = HideIds(0.7).apply({}, item, own, anonymous, rngs={"dropout": jax.random.key(1)})
    hidden = np.asarray(out[..., 0]) == 0
    np.testing.assert_array_equal(hidden, np.asarray(out[..., 1]) == 0)
    assert abs(hidden.mean() - 0.7) < 0.02
    HideIds(1 - 2**-50).apply({}, item, own, anonymous, rngs={"dropout": jax.random.key(1)})  # no overflow
    fate = {}
    for row in range(211):
        for one, gone in zip(np.asarray(item[row]).tolist(), hidden[row].tolist(), strict=True):
            assert fate.setdefault((row, one), gone) == gone
    by_item = [[gone for (_, one), gone in fate.items() if one == k] for k in range(FIRST, 97)]
    assert all(0 < np.mean(gone) < 1 for gone in by_item)  # no item has the same fate everywhere


def test_without_a_row_of_its_own_an_item_is_as_one_that_training_has_not_seen() -> None:
    _, catalogue = random_batch(B, L)
    items = ItemEmbed(6)
    variables = random_parameters(items, catalogue)
    anonymous = items.apply(variables, catalogue, own=False)
    table = variables["params"]["table"]
    same = {"params": variables["params"] | {"table": jnp.broadcast_to(table[UNSEEN], table.shape)}}
    np.testing.assert_allclose(anonymous, items.apply(same, catalogue), atol=1e-6)
    assert np.abs(anonymous - items.apply(variables, catalogue)).max() > 0.1


def test_item_dropout_changes_what_training_reads_and_no_answer() -> None:
    batch, catalogue = random_batch(B, L)
    plain, forgetful = build(), build(item_dropout=0.9)
    variables = random_parameters(plain, batch, catalogue, method="loss")

    def loss(model: Recommender, train: bool) -> float:
        key, model = {"dropout": jax.random.key(0)}, model.clone(dropout=0.0)
        apply = jax.jit(lambda v: model.apply(v, batch, catalogue, train, method="loss", rngs=key)[0])
        return float(apply(variables))

    assert loss(plain, True) == loss(forgetful, False) != loss(forgetful, True)
    history, query, _ = questions(batch.events, ())
    asked = (variables, history, query, catalogue)
    np.testing.assert_array_equal(*(run(model, *asked, method="scores") for model in (plain, forgetful)))


@pytest.mark.parametrize(
    ("absent", "rate"),
    [
        (("space",), 0.4),
        (("space", "context"), 0.0),
        pytest.param(("space",), 0.0, marks=pytest.mark.slow),
        pytest.param(("space", "context"), 0.4, marks=pytest.mark.slow),
    ],
)
def test_a_modality_can_be_absent_when_serving(absent: tuple[str, ...], rate: float) -> None:
    model = build(modality_dropout=rate)
    batch, catalogue = random_batch(B, L)
    variables = random_parameters(model, batch, catalogue, method="loss")
    history, query, _ = questions(batch.events, ())
    served = model.clone(absent=absent)
    whole = run(served, variables, history, query, catalogue, method="scores")
    state = run_steps(served, variables, history, catalogue)
    stepped = run(served, variables, state, query, catalogue, method="answer")
    some = np.asarray(history.valid.any(axis=1))
    np.testing.assert_allclose(whole[some][:, FIRST:], stepped[some][:, FIRST:], atol=1e-4)
    everything = run(model, variables, history, query, catalogue, method="scores")
    assert np.abs(whole[some][:, FIRST:] - everything[some][:, FIRST:]).max() > 1e-3


def test_modality_dropout_puts_the_learned_vector_in_place_of_whole_sequences() -> None:
    parts = {name: jnp.ones((401, 5, 3)) for name in ("item", "space", "time")}
    module = StandIns(0.25)
    variables = {"params": {"no_space": jnp.full(3, 7.0), "no_time": jnp.full(3, 9.0)}}
    out = module.apply(variables, parts, {}, True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(out["item"], parts["item"])
    gone = {name: np.asarray(out[name]) != 1 for name in ("space", "time")}
    for name, value in (("space", 7.0), ("time", 9.0)):
        assert (gone[name] == gone[name][:, :1, :1]).all()
        assert 0.18 < gone[name].mean() < 0.32
        assert (np.asarray(out[name])[gone[name]] == value).all()
    assert (gone["space"] != gone["time"]).any()
    same = module.apply(variables, parts, {}, False)
    jax.tree.map(np.testing.assert_array_equal, same, parts)


def test_impossible_settings_are_refused() -> None:
    batch, catalogue = random_batch(B, L)
    for options, message in (
        ({"hide": 1.0}, "hide=1.0 must be at least 0 and below 1"),
        ({"item_dropout": 1.5}, "item_dropout=1.5 must be at least 0 and below 1"),
        ({"modality_dropout": -0.1}, "modality_dropout=-0.1 must be"),
        ({"absent": ("weather",)}, r"absent: \['weather'\] is not among the encoders \['context', 'space'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            random_parameters(build(**options), batch, catalogue, method="loss")
