"""What operations know of the devices that share a batch; on two virtual ones, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from stjax.ops import devices
from stjax.ops.devices import by_rows, sharing, within

ROOT = Path(__file__).parents[1]
VIRTUAL = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
VIRTUAL["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"


def mesh_of(axis: AxisType, count: int, name: str = devices.DATA) -> jax.sharding.Mesh:
    return jax.make_mesh((count, 1), (name, "model"), axis_types=(axis,) * 2, devices=jax.devices()[:count])


def check_two() -> None:
    """The kernel on two devices gives what it gives on one, and each has its own rows only."""
    from stjax.ops import pointwise_tpu
    from tests.test_ops_pointwise import NAMES, both, setting

    assert jax.device_count() == 2
    mesh, inputs = mesh_of(AxisType.Auto, 2), setting(NAMES["all"], 131)
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


def test_two_devices_give_what_one_gives() -> None:
    code = "from tests.test_ops_devices import check_two; check_two()"
    environment = os.environ | VIRTUAL
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
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
