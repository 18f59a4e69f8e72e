"""Steps that touch only the rows which a batch reads: equal to steps over whole tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stjax.errors import ConfigError
from stjax.events import FIRST
from stjax.nn import GBCE, Ensemble, FullSoftmax, InBatch, ItemEmbed, Objective, SampledSoftmax, UserEmbed
from stjax.ops import sampling
from stjax.training import Experiment, Optimizer, Sharding
from stjax.training.optimizer import learning_rate, make_optimizer, scale_by_row_adagrad
from stjax.training.rows import Rows
from stjax.training.setup import Setup
from stjax.training.state import Metrics, State
from tests import meshes
from tests.configs.tiny import TinyLog

TABLES = ("items/table", "head/bias/bias", "encoders_user/users/embedding")


def experiment(folder: Path, objective: Objective, **optimizer: Any) -> Experiment:
    made = meshes.experiment(folder, "gru", Sharding())
    head = made.model.head.clone(objective=objective, pointer=None)
    settings = Optimizer(learning_rate=0.03, warmup_steps=2, **optimizer)
    return dataclasses.replace(made, model=made.model.clone(head=head), optimizer=settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log")
    TinyLog(path, users=meshes.USERS).open()
    return path


def table(tree: Any, name: str) -> np.ndarray:
    for key in name.split("/"):
        tree = tree[key]
    return np.asarray(tree)


def dense_step(setup: Setup) -> Any:
    """The same step over whole tables, written anew: all rows have a gradient, most of them zero."""
    model, settings = setup.experiment.model, setup.experiment.optimizer
    optimizer = make_optimizer(settings, setup.total_steps)

    @jax.jit
    def step(key: jax.Array, state: State, batch: Any, catalogue: Any) -> tuple[State, Metrics]:
        key, drawing = jax.random.split(jax.random.fold_in(key, state.step))
        variables = {}
        if hasattr(model.head.objective, "draw"):
            drawn = model.head.objective.draw(drawing, catalogue.schema.items, batch.events.item[:, 1:])
            variables = {
                "drawn": {"head": {"objective": dict(zip(("ids", "log_count"), drawn, strict=True))}}
            }

        def loss(params: Any) -> Any:
            own, rngs = {"params": params, **variables}, {"dropout": key}
            return model.apply(own, batch, catalogue, train=True, method="loss", rngs=rngs)[0]

        value, gradient = jax.value_and_grad(loss)(state.params)
        updates, moments = optimizer.update(gradient, state.optimizer, state.params)
        return State(state.step + 1, optax.apply_updates(state.params, updates), moments), {"loss": value}

    return step


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(SampledSoftmax(5), id="mixed"),
        pytest.param(SampledSoftmax(7, batch_share=0.0), id="uniform", marks=pytest.mark.slow),
        pytest.param(InBatch(), id="in-batch"),
    ],
)
def test_adagrad_of_rows_is_adagrad_of_tables(folder: Path, objective: Objective) -> None:
    setup = Setup.of(experiment(folder, objective, tables="adagrad", tables_rate=0.1))
    dense = dense_step(setup)
    ours, theirs = setup.initial(), setup.initial()
    before = jax.device_get(ours.params)
    for k in range(5):
        batch = setup.batches[k]
        theirs, expected = dense(setup.key, theirs, batch, setup.catalogue)
        ours, found = setup.step(setup.key, ours, batch, setup.catalogue)
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours, theirs)
    for name in TABLES:
        assert np.abs(table(ours.params, name) - table(before, name)).max() > 1e-4, name


def test_rows_that_ids_share_are_those_of_all_ids(folder: Path) -> None:
    """With `optimizer.tables`, a step counts ids anew; the rows that they share are those of the ids."""
    made = experiment(folder, SampledSoftmax(5), tables="adagrad", tables_rate=0.1)
    model = made.model.clone(
        items=ItemEmbed(16, attributes=False, place=False, compression="quotient", rows=7),
        encoders={"user": UserEmbed(16, attributes=False, compression="hashed", rows=17)},
    )
    setup = Setup.of(dataclasses.replace(made, model=model))
    dense = dense_step(setup)
    ours, theirs = setup.initial(), setup.initial()
    before = jax.device_get(ours.params)
    for k in range(3):
        theirs, expected = dense(setup.key, theirs, setup.batches[k], setup.catalogue)
        ours, found = setup.step(setup.key, ours, setup.batches[k], setup.catalogue)
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours.params, theirs.params)
    for path in ("items/quotient", "items/remainder", "encoders_user/users/hashed"):
        moved = table(ours.params, path + "/embedding") - table(before, path + "/embedding")
        assert np.abs(moved).max() > 1e-3, path


def test_only_rows_of_the_batch_change(folder: Path) -> None:
    setup = Setup.of(experiment(folder, InBatch(), tables="lazy"))
    state, batch = setup.initial(), setup.batches[0]
    before = jax.device_get(state)
    after = jax.device_get(setup.step(setup.key, state, batch, setup.catalogue)[0])
    users = np.unique(batch.events.user[batch.weight.any(axis=1), 0])
    changed = table(after.params, TABLES[2]) != table(before.params, TABLES[2])
    assert np.flatnonzero(changed.any(axis=1)).tolist() == users.tolist()
    moments = [
        x
        for (path, x) in jax.tree_util.tree_leaves_with_path(after.optimizer)
        if getattr(path[-1], "key", None) == "embedding" and getattr(path[-2], "key", None) == "users"
    ]
    assert len(moments) == 2
    for moment in moments:
        assert np.flatnonzero(np.asarray(moment).any(axis=1)).tolist() == users.tolist()


def test_a_loss_that_is_not_finite_changes_nothing(folder: Path) -> None:
    setup = Setup.of(experiment(folder, InBatch(), tables="adagrad"))
    state = setup.initial()
    before = jax.device_get(state)
    weight = np.where(np.arange(len(setup.batches[0].weight))[:, None] == 0, np.nan, setup.batches[0].weight)
    batch = dataclasses.replace(setup.batches[0], weight=weight.astype(np.float32))
    after, metrics = setup.step(setup.key, state, batch, setup.catalogue)
    assert not metrics["finite"]
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(after))


def test_row_adagrad_against_numpy() -> None:
    random = np.random.default_rng(0)
    params = {"table": np.zeros((5, 3)), "bias": np.zeros(7)}
    made = scale_by_row_adagrad(initial=0.2, eps=1e-3)
    state = made.init(jax.tree.map(jnp.asarray, params))
    sums = {"table": np.full(5, 0.2), "bias": np.full(7, 0.2)}
    for _ in range(3):
        gradient = {name: random.normal(size=x.shape).astype(np.float32) for name, x in params.items()}
        gradient["table"][1] = 0.0
        updates, state = made.update(jax.tree.map(jnp.asarray, gradient), state)
        sums["table"] += (gradient["table"] ** 2).mean(axis=1)
        sums["bias"] += gradient["bias"] ** 2
        expected = gradient["table"] / (np.sqrt(sums["table"])[:, None] + 1e-3)
        np.testing.assert_allclose(updates["table"], expected, rtol=1e-5)
        np.testing.assert_allclose(
            updates["bias"], gradient["bias"] / (np.sqrt(sums["bias"]) + 1e-3), rtol=1e-5
        )
    assert sums["table"][1] == 0.2


@pytest.mark.parametrize("objective", [FullSoftmax(), GBCE()])
def test_objectives_that_read_every_item_are_refused(folder: Path, objective: Objective) -> None:
    with pytest.raises(
        ConfigError, match=rf"optimizer.tables .* {type(objective).__name__}, which reads every"
    ):
        Setup.of(experiment(folder, objective, tables="adagrad"))
    single = experiment(folder, SampledSoftmax(), tables="lazy")
    with pytest.raises(ConfigError, match=r"optimizer\.tables .* the model Ensemble"):
        Setup.of(dataclasses.replace(single, model=Ensemble(single.model, 2)))


def test_the_schedule_is_that_of_all_else() -> None:
    settings = Optimizer(learning_rate=0.01, tables="adagrad", tables_rate=0.3, clip_norm=0, warmup_steps=3)
    made = make_optimizer(settings, 20)
    params = {"items": {"table": jnp.ones((3, 2))}, "w": jnp.ones(2)}
    state = made.init(params)
    rate = learning_rate(settings, 20)
    for step in range(4):
        gradient = jax.tree.map(jnp.ones_like, params)
        updates, state = made.update(gradient, state, params)
        expected = -30 * rate(step) / np.sqrt(0.1 + step + 1)
        np.testing.assert_allclose(updates["items"]["table"], np.full((3, 2), expected), rtol=1e-5)


def test_ids_are_counted_anew(folder: Path) -> None:
    setup = Setup.of(experiment(folder, SampledSoftmax(5), tables="adagrad"))
    batch, schema = setup.batches[0], setup.dataset.schema
    rows = Rows.of(setup.experiment.model, setup.key, batch, schema)
    ids = np.asarray(rows.item)
    assert (np.diff(ids)[: np.searchsorted(ids, schema.items) - 1] > 0).all() and ids[:2].tolist() == [0, 1]
    small = rows.batch(batch)
    np.testing.assert_array_equal(ids[np.asarray(small.events.item)], batch.events.item)
    np.testing.assert_array_equal(np.asarray(rows.user)[np.asarray(small.events.user)], batch.events.user)
    drawn = rows.variables()["drawn"]["head"]["objective"]["ids"]
    assert rows.drawn is not None
    np.testing.assert_array_equal(ids[np.asarray(drawn)], rows.drawn[0])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_mixed_draws_are_expected_as_often_as_they_say(share: float) -> None:
    items, n = 23, 11
    own = np.asarray([0, 1, 4, 4, 4, 9, 20, 0, 9, 2])
    keys = jax.random.split(jax.random.key(3), 20_000)
    ids, log_count = jax.vmap(lambda key: sampling.mixed(key, n, items, jnp.asarray(own), share, FIRST))(keys)
    count = np.bincount(np.asarray(ids).reshape(-1), minlength=items) / len(keys)
    often = round(share * n)
    met = np.bincount(own[own >= FIRST], minlength=items)
    expected = np.where(np.arange(items) >= FIRST, (n - often) / (items - FIRST), 0) + often * met / met.sum()
    np.testing.assert_allclose(count, expected, atol=0.02)
    np.testing.assert_allclose(np.exp(np.asarray(log_count)), expected[np.asarray(ids)], rtol=1e-5)


def test_mixed_draws_without_any_of_their_own() -> None:
    ids, log_count = sampling.mixed(jax.random.key(0), 8, 13, jnp.zeros(5, jnp.int32), 0.5, FIRST)
    assert np.isinf(np.asarray(log_count)[4:]).all() and (np.asarray(ids) >= FIRST).all()
    np.testing.assert_allclose(np.exp(np.asarray(log_count)[:4]), 4 / 11, rtol=1e-6)
