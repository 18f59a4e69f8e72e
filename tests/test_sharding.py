"""The sharding table: what it gives, and what it refuses. Meshes here are shapes without devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from stjax.errors import ConfigError
from stjax.training import Optimizer, Sharding, parse
from stjax.training.optimizer import make_optimizer
from stjax.training.paths import named
from stjax.training.processes import join
from stjax.training.rows import Rows
from stjax.training.setup import Setup
from stjax.training.sharding import Layout
from stjax.training.state import State
from tests.configs.tiny import TinyLog

TINY = Path(__file__).parent / "configs" / "tiny.py"


class Shape:
    """A mesh of that shape, without devices."""

    def __init__(self, data: int, model: int) -> None:
        self.shape = {"data": data, "model": model}
        self.size = data * model


def specs(params: Any, data: int, model: int, **settings: Any) -> Any:
    mesh: Any = Shape(data, model)
    return Layout(mesh, Sharding(data, model, **settings)).specs(params)


def array(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


PARAMS = {
    "items": {"table": array(24, 7)},
    "encoders_user": {"users": {"embedding": array(16, 5)}},
    "head": {"bias": {"bias": array(24)}, "output": {"kernel": array(6, 12), "bias": array(12)}},
    "interest": {"w": array(7, 11)},
}


def test_tables_are_shared_by_rows_and_all_else_is_whole() -> None:
    assert specs(PARAMS, 3, 4) == {
        "items": {"table": P("model", None)},
        "encoders_user": {"users": {"embedding": P("model", None)}},
        "head": {"bias": {"bias": P("model")}, "output": {"kernel": P(None, None), "bias": P(None)}},
        "interest": {"w": P(None, None)},
    }


def test_fsdp_shares_the_largest_dimension_that_divides() -> None:
    found = specs(PARAMS, 3, 4, fsdp=True, fsdp_size=60)
    assert found["head"]["output"] == {"kernel": P(None, "data"), "bias": P(None)}  # 12 numbers are too few
    assert found["interest"]["w"] == P(None, None)  # neither 7 nor 11
    assert found["items"]["table"] == P("model", None)
    assert specs(PARAMS, 2, 4, fsdp=True, fsdp_size=12)["head"]["output"] == {
        "kernel": P(None, "data"),
        "bias": P("data"),
    }


def test_the_first_rule_that_fits_the_whole_path_decides() -> None:
    rules = (("head/.*", (None, "model")), ("head/output/kernel", ("data",)), ("table", ("model",)))
    found = specs({"head": {"output": {"kernel": array(6, 12)}}, "items": {"table": array(5, 3)}}, 3, 4,
                  rules=rules)  # fmt: skip
    assert found == {"head": {"output": {"kernel": P(None, "model")}}, "items": {"table": P(None, None)}}


def test_rules_are_of_one_member_of_an_ensemble() -> None:
    found = specs({"member": {"items": {"table": array(3, 24, 7)}, "head": {"w": array(3, 5)}}}, 3, 4)
    assert found["member"] == {"items": {"table": P(None, "model", None)}, "head": {"w": P(None, None)}}


def test_several_axes_share_one_dimension() -> None:
    rules = ((".*/table", (("data", "model"), None)),)
    assert specs(PARAMS, 3, 4, rules=rules)["items"]["table"] == P(("data", "model"), None)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ((".*/table", (("data", "model"), "model")), r"items/table .* two dimensions cannot share one"),
        ((".*/table", (None, ("data", "model"))), r"items/table .*: 7 .* the 12 devices of 'data' x 'model'"),
        ((".*/table", ("model", "model")), r"items/table \(24, 7\) .* two dimensions cannot share one axis"),
        ((".*/table", (None, "model")), r"items/table .*: 7 .* by the 4 devices of 'model'"),
        ((".*/bias/bias", ("data", "model")), r"head/bias/bias \(24,\) .* more than it has dimensions"),
        ((".*/table", ("rows",)), r"there is no axis \['rows'\], only data, model"),
    ],
)
def test_rules_that_do_not_fit_are_refused(rule: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        specs(PARAMS, 3, 4, rules=(rule,))


def test_a_table_that_does_not_divide_names_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"24 rows .* the 5 devices .* sharding.rows_multiple 5"):
        specs({"items": {"table": array(24, 7)}}, 1, 5)


@pytest.mark.parametrize("tables", ["adagrad", "lazy"])
def test_what_rows_of_tables_keep_lies_as_they_do(tables: Any) -> None:
    """Two optimizers divide the parameters; a step holds the rows of its batch on every device."""
    layout = Layout.of(Sharding(), jax.devices()[:1])
    optimizer = make_optimizer(Optimizer(tables=tables), 7)
    state = State(array(), PARAMS, jax.eval_shape(optimizer.init, PARAMS))
    made = layout.shardings(optimizer, state)
    assert jax.tree.structure(made.state) == jax.tree.structure(state)
    by_rows = [
        (leaf.ndim, place.spec)
        for (path, leaf), place in zip(
            jax.tree_util.tree_leaves_with_path(state.optimizer),
            jax.tree.leaves(made.state.optimizer),
            strict=True,
        )
        if named(path).endswith("items/table")
    ]
    assert by_rows == ([(1, P("model"))] if tables == "adagrad" else 2 * [(2, P("model", None))])
    used = jax.tree.map(lambda sharding: sharding.spec, Rows.used(made.used))
    assert used["items"]["table"] == P() and used["interest"]["w"] == P(None, None)


def test_a_mesh_must_be_of_the_devices_there_are() -> None:
    count = jax.device_count()
    for settings in (Sharding(data=3, model=count), Sharding(model=count + 1)):
        with pytest.raises(ConfigError, match=rf"is not {count}, the devices"):
            Layout.of(settings)
    assert Layout.of(Sharding()).mesh.size == count
    for wrong in ({"model": 0}, {"data": -1}, {"rows_multiple": 0}):
        with pytest.raises(ConfigError, match=f"sharding.{next(iter(wrong))}"):
            Sharding(**wrong)


def test_it_is_an_option_of_the_command_line() -> None:
    command = parse(["--sharding.model", "2", "--sharding.fsdp"], TINY)
    assert command.experiment.sharding == Sharding(model=2, fsdp=True)


def test_empty_rows_change_nothing(tmp_path: Path) -> None:
    """The rows up to a multiple are never read, and the others begin as they did without them."""
    from tests.meshes import experiment

    TinyLog(tmp_path, users=211).open()
    plain, padded = (
        Setup.of(experiment(tmp_path, "gru", Sharding(rows_multiple=multiple)), jax.devices()[:1])
        for multiple in (1, 8)
    )
    batch, states, losses = plain.batches[0], [], []
    for setup in (plain, padded):
        state, metrics = setup.step(setup.key, setup.initial(), batch, setup.catalogue)
        losses.append(float(metrics["loss"]))
        states.append(jax.device_get(state.params))
    np.testing.assert_allclose(*losses, rtol=1e-6)
    own, more = (params["encoders_user"]["users"]["embedding"] for params in states)
    assert own.shape == (213, 16) and more.shape == (216, 16)
    np.testing.assert_allclose(more[:213], own, atol=1e-7)
    assert states[0]["items"]["table"].shape == (25, 16) and states[1]["items"]["table"].shape == (32, 16)
    np.testing.assert_allclose(states[1]["items"]["table"][:25], states[0]["items"]["table"], atol=1e-7)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("host:1", 2, None, False), "--process is missing"),
        ((None, None, 1, False), "--coordinator, --processes is missing"),
        (("host:1", 2, 2, False), "--process 2 must lie between 0 and 1"),
        (("host", 2, 0, False), "--coordinator 'host' must be HOST:PORT"),
    ],
)
def test_incomplete_coordinates_of_processes(given: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        join(*given)


@pytest.mark.parametrize(
    "cause",
    [
        ValueError("coordinator_address should be defined."),
        ModuleNotFoundError("No module named 'requests'"),  # JAX asks the host of a TPU by it
        OSError("the host does not answer"),
    ],
)
def test_an_environment_that_tells_nothing_names_what_to_give(
    cause: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alone(*_given: object) -> None:
        raise cause

    monkeypatch.setattr(jax.distributed, "initialize", alone)
    with pytest.raises(ConfigError, match=f"did not meet: {cause}; give --coordinator, --process, which"):
        join(None, 2, None, True)


def test_one_process_meets_nobody() -> None:
    assert not join(None, None, None, False)
