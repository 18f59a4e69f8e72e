"""What operations know of the devices that share a batch; on two virtual ones, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from stjax.ops import devices, losses, softmax
from stjax.ops.devices import by_rows, sharing, within
from tests.quick import environment

ROOT = Path(__file__).parents[1]


def mesh_of(axis: AxisType, count: int, name: str = devices.DATA) -> jax.sharding.Mesh:
    return jax.make_mesh((count, 1), (name, "model"), axis_types=(axis,) * 2, devices=jax.devices()[:count])


def check_kernel_on_two() -> None:
    """The kernel on two devices gives what it gives on one, and each has its own rows only."""
    from stjax.ops import pointwise_tpu
    from tests.test_ops_pointwise import both, setting

    assert jax.device_count() == 2
    mesh, inputs = mesh_of(AxisType.Auto, 2), setting(("lag", "gap"), 131)
    (q, k, v, params), moments, g = inputs
    moments = moments._replace(place=None)
    assert sharing() is None and not pointwise_tpu.covers(q, params, moments, 131)
    with within(mesh):
        assert sharing() == 2 and pointwise_tpu.covers(q, params, moments, 131)
        assert not pointwise_tpu.covers(q[:1], params, moments, 131)
    rows = NamedSharding(mesh, PartitionSpec(devices.DATA))
    shared = jax.device_put((q, k, v, moments, g), rows)

    def run(mesh, q, k, v, moments, g):
        def f(*inputs):
            with within(mesh):
                q, k, v, params = inputs
                return pointwise_tpu.silu_attention(q, k, v, moments, params, 131, 128, interpret=True)

        return both(f, (q, k, v, params), g)

    expected, got = run(None, q, k, v, moments, g), run(mesh, *shared)
    assert got[0].sharding.is_equivalent_to(rows, 4) and got[1][0].sharding.is_equivalent_to(rows, 4)

    def near(path, expected, got) -> None:
        scale = max(1.0, float(abs(expected).max()))
        np.testing.assert_allclose(got / scale, expected / scale, atol=1e-5, err_msg=str(path))

    jax.tree_util.tree_map_with_path(near, expected, got)


def check_losses_on_two() -> None:
    """Losses in blocks, of positions that two devices share, are those of one; there are half as many."""
    assert jax.device_count() == 2
    softmax.BLOCK_ENTRIES, softmax.LEAST_ROWS = 47 * 41, 1
    mesh, rng, (n, items, d) = mesh_of(AxisType.Auto, 2), np.random.default_rng(7), (302, 41, 5)
    h, table, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((n, d), (items, d), (items,)))
    target, drawn = rng.integers(0, items, n), rng.integers(1, items, items + 1)

    def loss(h, table, bias, target) -> jax.Array:
        whole = softmax.catalogue_loss(h, table, bias, target, jnp.ones(n), 1)
        log_p = losses.sampled_log_prob(h, table, bias, target, drawn, jnp.zeros(len(drawn)), 1)
        return whole + losses.weighted_sum(log_p, target > 0)

    def run(mesh: jax.sharding.Mesh | None, *inputs):
        def value(*inputs):
            with within(mesh):
                return jax.value_and_grad(loss, argnums=(0, 1, 2))(*inputs)

        return jax.jit(value)(*inputs), str(jax.make_jaxpr(value)(*inputs))

    rows = NamedSharding(mesh, PartitionSpec(devices.DATA))
    expected, blocks = run(mesh_of(AxisType.Auto, 1), h, table, bias, target)
    got, fewer = run(mesh, jax.device_put(h, rows), table, bias, jax.device_put(target, rows))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, expected)
    assert "length=7" in blocks and "length=4" in fewer  # ceil(302 / 47), ceil(302 / 94)
    assert "length=7" not in fewer


def test_two_devices_give_what_one_gives() -> None:
    code = "from tests import test_ops_devices as own; own.check_kernel_on_two(); own.check_losses_on_two()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment(2), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_device_shares_with_no_other() -> None:
    assert sharing() == 1
    with within(mesh_of(AxisType.Auto, 1)):
        assert sharing() == 1
    with within(mesh_of(AxisType.Auto, 1, "other")):
        assert sharing() == 1
    with within(None):
        assert by_rows(lambda whole, rows: whole + rows, 2, 3) == 5


def test_other_kinds_of_axes_are_refused() -> None:
    explicit = jax.sharding.AbstractMesh((2, 1), (devices.DATA, "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.sharding.use_abstract_mesh(explicit), pytest.raises(ValueError, match=r"AxisType\.Auto"):
        by_rows(lambda whole, rows: rows, None, np.zeros(2))
