"""The benchmark of every part alone leaves out none, and its shares of the roofline are their formula."""

from __future__ import annotations

import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import micro, micro_ops, micro_parts
from benchmarks.work import Machine, needed_bytes
from stjax import nn as library
from stjax import ops

# Measured as a part of another: of attention, recurrence, softmax or a head; or what is no work of its own.
WITHIN = {
    "attention",
    "bias",
    "bias_tpu",
    "devices",
    "gaps",
    "moments",
    "near",
    "pointwise_kernels",
    "pointwise_tpu",
}
WITHIN |= {"product", "ring", "sequence", "softmax_tiles", "strips", "tiles", "weighting"}
FITTED = {"least_squares"}  # of iALS: benchmarks.als


def test_every_part_has_its_line() -> None:
    setting = micro_parts.setting(3, 11, 8)
    found = {type(case.module) for case in micro_parts.cases(setting)}
    kinds = (library.Encoder, library.Fusion, library.Interest)
    parts = [getattr(library, name) for name in library.__all__]
    parts = {part for part in parts if inspect.isclass(part) and issubclass(part, kinds)} - set(kinds)
    assert len(parts) > 20 and parts <= found, parts - found


def test_every_operation_has_its_line() -> None:
    there = {path.stem for path in Path(ops.__path__[0]).glob("*.py")} - {"__init__"}
    measured = {name for name, value in vars(micro_ops).items() if inspect.ismodule(value)} | {"time"}
    assert there - measured == WITHIN | FITTED


@pytest.mark.parametrize("name", ["layer norm", "repeats", "excitation", "mixed draws", "Mean"])
def test_a_part_is_measured(name: str) -> None:
    machine = Machine(1e9, 1e9)
    if name == "Mean":
        (case,) = [c for c in micro_parts.cases(micro_parts.setting(3, 11, 8)) if c.name == name]
        line = micro.measure(case, machine)
        assert line["state_bytes_per_user"] > 0 and line["step_ms"] > 0
    else:
        (op,) = [op for op in micro_ops.ops(3, 11, 8) if op.name == name]
        line = micro.measure_op(op, machine)
        assert ("gradient_ms" in line) == bool(op.differentiable)
    assert line["part"] == name and line["forward_ms"] > 0


def test_shares_of_the_roofline() -> None:
    machine = Machine(flops=100.0, bandwidth=10.0)
    assert machine.shares(2.0, flops=50.0, moved=15.0) == {"flops_share": 0.25, "bandwidth_share": 0.75}
    assert machine.share(2.0, flops=50.0, moved=15.0) == 0.75
    assert machine.share(2.0, flops=180.0, moved=15.0) == 0.9
    x = jax.ShapeDtypeStruct((7, 11), jnp.float32)
    compiled = jax.jit(lambda x: (x @ x.T).astype(jnp.bfloat16)).lower(x).compile()
    assert needed_bytes(compiled) == 4 * 7 * 11 + 2 * 7 * 7
