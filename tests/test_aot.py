"""The ahead-of-time proof: what it reads in a compiled program, its arithmetic, a model compiled for TPUs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from benchmarks.aot import (
    BY_ALL,
    CHIPS,
    Abstract,
    Case,
    Chip,
    describe,
    proof,
    refusal,
    roofline,
    table_sized,
)
from benchmarks.hlo import Collective, Program
from benchmarks.work import matmul_flops
from stjax.events import Catalogue, Schema
from stjax.nn import ItemEmbed, Recommender, Retrieval, SampledSoftmax
from stjax.ops import pointwise_tpu
from stjax.ops.moments import Moments
from stjax.training import Sharding

ROOT = Path(__file__).parents[1]

# A loop of 7 rounds that reads one row of 7, adds over 4 chips and permutes; then a gather that is written
# twice because it is asynchronous, an update in place, and arrays of the chip's own memory, S(1), which cost
# nothing.
TEXT = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%row (whole: f32[7,8], at: s32[]) -> f32[1,8] {
  %whole = f32[7,8]{1,0:T(8,128)} parameter(0)
  %at = s32[]{:T(128)} parameter(1)
  %zero.1 = s32[]{:T(128)} constant(0)
  ROOT %slice = f32[1,8]{1,0:T(8,128)S(1)} dynamic-slice(%whole, %at, %zero.1), dynamic_slice_sizes={1,8}
}

%body (state: (s32[], f32[7,8])) -> (s32[], f32[7,8]) {
  %state = (s32[]{:T(128)}, f32[7,8]{1,0:T(8,128)}) parameter(0)
  %k = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[7,8]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %one = f32[1,8]{1,0:T(8,128)S(1)} fusion(%x, %k), kind=kLoop, calls=%row
  %all = f32[1,8]{1,0:T(8,128)S(1)} all-reduce(%one), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  %go = (f32[1,8]{1,0:T(8,128)S(1)}, f32[1,8]{1,0:T(8,128)S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%all), channel_id=2, source_target_pairs={{0,1},{1,0}}
  %gone = f32[1,8]{1,0:T(8,128)S(1)} collective-permute-done(%go)
  ROOT %next = (s32[]{:T(128)}, /*index=1*/f32[7,8]{1,0:T(8,128)}) tuple(%k, %x)
}

%condition (state.1: (s32[], f32[7,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  %state.1 = (s32[]{:T(128)}, f32[7,8]{1,0:T(8,128)}) parameter(0)
  %k.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%k.1, %limit), direction=LT
}

%gather_one (p: bf16[3,8]) -> bf16[6,8] {
  %p = bf16[3,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %g = bf16[6,8]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=3, replica_groups=[2,2]<=[4]
}

%gather_two (p.1: bf16[3,8]) -> bf16[6,8] {
  %p.1 = bf16[3,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %g.1 = bf16[6,8]{1,0:T(8,128)(2,1)} all-gather(%p.1), channel_id=3, replica_groups=[2,2]<=[4]
}

ENTRY %main (arg: f32[7,8], half: bf16[3,8]) -> f32[7,8] {
  %arg = f32[7,8]{1,0:T(8,128)} parameter(0)
  %half = bf16[3,8]{1,0:T(8,128)(2,1)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[7,8]{1,0:T(8,128)}) tuple(%zero, %arg)
  %loop = (s32[]{:T(128)}, f32[7,8]{1,0:T(8,128)}) while(%start), condition=%condition, body=%body
  %y = f32[7,8]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  %begin = bf16[6,8]{1,0:T(8,128)(2,1)} fusion(%half), kind=kCustom, calls=%gather_one
  %end = bf16[6,8]{1,0:T(8,128)(2,1)} fusion(%half), kind=kCustom, calls=%gather_two
  %part = f32[2,8]{1,0:T(8,128)} reduce-scatter(%y), channel_id=4, replica_groups=mesh['a'=2,'b'=2] {'b'}, \
dimensions={0}, to_apply=%add
  ROOT %new = f32[7,8]{1,0:T(8,128)} dynamic-update-slice(%y, %part, %zero, %zero)
}
"""


def test_collectives_are_counted_as_often_as_they_run() -> None:
    found = {c.kind: c for c in Program(TEXT).collectives()}
    assert found == {
        "all-reduce": Collective("all-reduce", (1, 8), 32, 4, sent=2 * 32 * 3 / 4, count=7),
        "collective-permute": Collective("collective-permute", (1, 8), 32, 2, sent=32, count=7),
        "all-gather": Collective("all-gather", (6, 8), 96, 2, sent=48, count=1),
        "reduce-scatter": Collective("reduce-scatter", (2, 8), 64, 2, sent=64, count=1),
    }
    order = [c.kind for c in Program(TEXT).collectives()]
    assert order == ["all-reduce", "collective-permute", "reduce-scatter", "all-gather"]


def test_memory_is_counted_by_what_is_read_and_written_in_hbm() -> None:
    rows = 7 * (32 + 4)  # one row a round, and where it is; it goes to the chip's own memory
    gathers = 2 * (48 + 96)
    scattered = 7 * 8 * 4 + 64
    updated = 2 * 64
    assert Program(TEXT).hbm_bytes() == rows + gathers + scattered + updated


def test_a_kernel_says_what_it_reads_and_writes() -> None:
    text = """\
ENTRY %main (arg: f32[7,8]) -> f32[7,8] {
  %arg = f32[7,8]{1,0:T(8,128)} parameter(0)
  ROOT %y = f32[7,8]{1,0:T(8,128)} custom-call(%arg), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"9","bytes_accessed":"1234"}}}
}
"""
    assert Program(text).hbm_bytes() == 1234
    assert Program(text.replace("bytes_accessed", "other")).hbm_bytes() == 2 * 7 * 8 * 4


def test_a_collective_of_a_table_is_seen() -> None:
    def one(*shape: int) -> list[Collective]:
        return [Collective("all-reduce", shape, 4 * int(np.prod(shape)), 4, 0.0, 1)]

    table, share = (400, 8), (100, 8)
    assert table_sized(one(400, 8), table, share) == "table"
    assert table_sized(one(100, 8), table, share) == "share"  # the gradient of what a chip holds
    assert table_sized(one(800, 8), table, share) == "table"
    assert table_sized(one(120, 8), table, share) is None  # rows that were looked up
    assert table_sized(one(100), table, share) is None


def test_the_roofline() -> None:
    chip = Chip(16, flops=100.0, memory=10.0, network=5.0)
    found = roofline(chip, flops=200.0, memory=40.0, network=5.0)
    assert found == {
        "compute_ms": 2000.0,
        "memory_ms": 4000.0,
        "network_ms": 1000.0,
        "bound": "memory",
        "seconds": 4.0,
        "seconds_apart": 7.0,
        "mfu": 0.5,
        "mfu_apart": round(2 / 7, 4),
    }
    assert roofline(chip, 0.0, 0.0, 0.0)["mfu"] == 0.0


def test_products_of_loops_and_branches_are_counted() -> None:
    w = jnp.zeros((3, 5))

    def program(x: jax.Array) -> jax.Array:
        x, _ = jax.lax.scan(lambda x, _: ((x @ w) @ w.T, None), x, length=11)
        return jax.lax.cond(x.sum() > 0, lambda x: x @ w, lambda x: (x @ w @ w.T) @ w, x)

    product = 2 * 7 * 3 * 5
    assert matmul_flops(jax.make_jaxpr(program)(jnp.zeros((7, 3))).jaxpr) == (11 * 2 + 3) * product


def test_of_forms_for_platforms_one_is_counted() -> None:
    """Also of its gradient, in which the choice was made before."""

    def program(w: jax.Array) -> jax.Array:
        return jax.lax.platform_dependent(
            w, tpu=lambda w: w @ w @ w, cuda=lambda w: w, default=lambda w: w @ w
        )

    w, product = jnp.zeros((7, 7)), 2 * 7**3
    made = jax.make_jaxpr(program)(w).jaxpr
    assert [matmul_flops(made, p) for p in ("tpu", "cuda", "cpu")] == [2 * product, 0, product]
    assert matmul_flops(made) == matmul_flops(made, jax.default_backend())
    made = jax.make_jaxpr(jax.grad(lambda w: jax.jit(program)(w).sum()))(w).jaxpr
    assert [matmul_flops(made, p) for p in ("tpu", "cuda", "cpu")] == [6 * product, 0, 3 * product]


def test_products_of_kernels_are_counted_for_each_device() -> None:
    """4 rows, 2 heads: a block of 256 queries reads 2 blocks of keys, but for the first."""
    length, window, width = 1_024, 257, 128
    q = jax.ShapeDtypeStruct((4, length, 2, width), jnp.float32)
    events = Moments(jax.ShapeDtypeStruct((4, length), bool))
    mesh = AbstractMesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def program(q: jax.Array, events: Moments) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh):
            return pointwise_tpu.silu_attention(q, q, q, events, {}, window)

    tiles = 4 * 2 * (4 + 3)
    forward = 2 * tiles * 2 * 256**2 * width
    # The axis `model` shares no rows: its devices do the same.
    assert matmul_flops(jax.make_jaxpr(program)(q, events).jaxpr) == 2 * forward


def test_a_refusal_is_one_line() -> None:
    message = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, 22.64G exceeds 15.75G.\nSee\n  a: 1.0G\n"
    assert refusal(message) == "RESOURCE_EXHAUSTED: Ran out of memory on HBM, 22.64G exceeds 15.75G."


def compile_small() -> None:
    """Prints the proof of a small model for four chips; run in a process of its own."""
    model = Recommender(
        items=ItemEmbed(16, attributes=False, place=False), head=Retrieval(objective=SampledSoftmax(32, 0.0))
    )
    items = 1_000_000
    catalogue = Catalogue(jax.ShapeDtypeStruct((items, 2), np.float32), Schema(items, 64, 0, place=False))
    sharding = Sharding(fsdp=True, fsdp_size=256, rules=BY_ALL)
    abstract = Abstract(Case(model, catalogue, 16, lambda chips: chips, sharding), describe("v5e:2x2"))
    print(json.dumps({name: proof(abstract, name, CHIPS["v5e"]) for name in ("train", "recommend")}))


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install '.[aot]'")
def test_a_small_model_compiles_for_tpus() -> None:
    # With this generator it compiles in a tenth of the time.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DEFAULT_PRNG_IMPL": "rbg"}
    command = [sys.executable, "-c", "from tests.test_aot import compile_small; compile_small()"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    train, answer = json.loads(done.stdout.splitlines()[-1]).values()
    for found in (train, answer):
        assert found["fits"] and found["chips"] == 4 and found["roofline"]["seconds"] > 0
        assert found["collectives"] and not found["table_sized_collective"], found["collectives"]
    quarter = 1_000_000 * 16 * 4 / 4 / 2**30
    assert quarter < train["parameters_gib"] < 1.2 * quarter
    assert train["optimizer_gib"] == pytest.approx(2 * train["parameters_gib"], abs=2e-3)
    assert train["arguments_gib"] > 3 * quarter
