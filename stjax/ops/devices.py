"""The devices that share the rows of a batch, as the program being traced knows them.

Whoever traces a program for several devices names its mesh by `jax.set_mesh`, or within the program by
`jax.sharding.use_abstract_mesh`; by convention the axis `data` shares the rows. Operations read it here, so
that modules need no word of it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

DATA = "data"


def within(mesh: Mesh | None) -> Any:
    """A context in which programs are traced for this mesh; None leaves what there is."""
    return nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def alone() -> bool:
    """Whether the program is known to run on one device, or within the part of one."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.device_count() == 1 if mesh.empty else mesh.size == 1 or mesh.are_all_axes_manual


def sharing() -> int | None:
    """How many devices share the rows of a batch; None where several might, but no mesh is named."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return 1 if jax.device_count() == 1 else None
    if DATA not in mesh.shape or mesh.are_all_axes_manual:
        return 1
    return mesh.shape[DATA]


def everywhere(x: jax.Array) -> jax.Array:
    """The array itself, of which every device has all: where it is read in a loop, it is gathered before."""
    return jax.lax.with_sharding_constraint(x, PartitionSpec()) if (sharing() or 1) > 1 else x


def by_rows(f: Callable[..., Any], whole: Any, rows: Any) -> Any:
    """f(whole, rows), where each device computes its own rows: for kernels, which XLA cannot divide.

    whole: arrays that each device reads whole. rows: arrays (B, ...), B a multiple of `sharing()`; so are the
    results.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.are_all_axes_manual:
        return f(whole, rows)
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(f"the mesh {mesh} has axes of types {mesh.axis_types}: make them all AxisType.Auto")
    own = PartitionSpec(DATA) if DATA in mesh.shape else PartitionSpec()
    # A kernel says nothing of what varies over the mesh, so there is nothing to check.
    divided = jax.shard_map(f, in_specs=(PartitionSpec(), own), out_specs=own, check_vma=False)
    return divided(whole, rows)
