"""Where arrays lie when several devices train one model: a table from parameter paths to mesh axes.

The mesh has two axes. `data`: its devices share the rows of a batch. `model`: they share the rows of large
tables. Modules know nothing of it: parameters and batches are placed, and XLA derives the rest (Xu et al.,
GSPMD, 2021). Optimizer moments lie as their parameters do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from stjax.errors import ConfigError
from stjax.training.experiment import AXES, Sharding
from stjax.training.paths import named, of_member
from stjax.training.state import Shardings, State


@dataclass(frozen=True)
class Layout:
    """A mesh, and the settings that say what lies where on it."""

    mesh: Mesh
    settings: Sharding

    @classmethod
    def of(cls, settings: Sharding, devices: Sequence[Any] | None = None) -> Layout:
        """The mesh of all devices, or of those given. Raises ConfigError where they are not data * model."""
        devices = jax.devices() if devices is None else list(devices)
        count, model = len(devices), settings.model
        data = settings.data or count // model
        if data * model != count:
            raise ConfigError(
                f"sharding.data {data} x sharding.model {model} is not {count}, the devices there are:"
                " choose two numbers with that product, or sharding.data 0 for all that model leaves"
            )
        # A torus of TPUs may have to be cut: 4 of the 16 x 16 of a v6e pod are a part of a side.
        grid = create_device_mesh((data, model), devices, allow_split_physical_axes=True)
        return cls(Mesh(grid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2), settings)

    @property
    def single(self) -> bool:
        """Whether there is one device only, so that nothing needs a place."""
        return self.mesh.size == 1

    @property
    def data(self) -> int:
        """Devices, or groups of them, that share the rows of a batch."""
        return self.mesh.shape["data"]

    @property
    def feed(self) -> tuple[int, int]:
        """Which part of every batch this process has to read, of how many: (index, count).

        Processes whose devices hold the same rows read the same part.
        """
        mine = jax.process_index()
        rows = [k for k, row in enumerate(self.mesh.devices) if any(d.process_index == mine for d in row)]
        first, own = rows[0], len(rows)
        if rows != list(range(first, first + own)) or self.data % own or first % own:
            raise ConfigError(
                f"process {mine} holds the parts {rows} of {self.data} of a batch, which are no equal share:"
                " give every process the same number of devices"
            )
        return first // own, self.data // own

    def specs(self, params: Any) -> Any:
        """The PartitionSpec of every parameter: a tree as `params` (arrays or ShapeDtypeStructs).

        The first rule whose pattern is the whole path decides; of an ensemble the path in one member, and
        each device has some rows of all. With `fsdp`, of a parameter that no rule names the largest dimension
        that divides is shared by `data`.
        Raises ConfigError, naming the path and the remedy, for a rule that does not fit.
        """
        return jax.tree_util.tree_map_with_path(self._spec, params)

    def shardings(self, optimizer: optax.GradientTransformation, abstract: State) -> Shardings:
        """The sharding of every array of a state; moments as their parameters, all else on every device."""
        specs = self.specs(abstract.params)
        params = jax.tree.map(self.sharding, specs)
        # What `data` alone shares is whole while in use, or XLA would share features instead of sequences.
        whole = jax.tree.map(lambda spec: PartitionSpec(*(a if a != "data" else None for a in spec)), specs)
        everywhere = self.sharding(PartitionSpec())

        def as_its_parameter(moment: Any, own: NamedSharding) -> Any:
            if isinstance(moment, optax.MaskedNode):  # of a parameter that another optimizer has
                return moment
            return self.sharding(PartitionSpec(*own.spec[: moment.ndim]))

        moments = optax.tree_map_params(
            optimizer,
            as_its_parameter,
            abstract.optimizer,
            params,
            transform_non_params=lambda _: everywhere,
            is_leaf=lambda x: isinstance(x, optax.MaskedNode),
        )
        state = State(step=everywhere, params=params, optimizer=moments)
        return Shardings(state, jax.tree.map(self.sharding, whole), everywhere)

    def sharding(self, spec: PartitionSpec) -> NamedSharding:
        """A spec on this mesh."""
        return NamedSharding(self.mesh, spec)

    @property
    def everywhere(self) -> NamedSharding:
        """On every device."""
        return self.sharding(PartitionSpec())

    def batch(self, local: Any, parts: int) -> Any:
        """This process's rows of a batch as global arrays, shared by `data`. parts: of `feed`."""
        if self.single:
            return local
        rows = self.sharding(PartitionSpec("data"))

        def place(x: Any) -> jax.Array:
            x = np.asarray(x)
            return jax.make_array_from_process_local_data(rows, x, (x.shape[0] * parts, *x.shape[1:]))

        return jax.tree.map(place, local)

    def rows(self, whole: Any) -> Any:
        """Arrays that every process has whole, (B, ...), shared by `data`, filled up with copies of the last
        row where `data` does not divide B."""
        if self.single:
            return whole
        spec = self.sharding(PartitionSpec("data"))

        def place(x: Any) -> jax.Array:
            x = np.asarray(x)
            x = np.pad(x, [(0, -x.shape[0] % self.data)] + [(0, 0)] * (x.ndim - 1), mode="edge")
            return jax.make_array_from_callback(x.shape, spec, lambda index: x[index])

        return jax.tree.map(place, whole)

    def copies(self, tree: Any) -> Any:
        """Arrays that every process has whole, on every device."""
        if self.single:
            return jax.device_put(tree)

        def place(x: Any) -> jax.Array:
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, self.everywhere, lambda index: x[index])

        return jax.tree.map(place, tree)

    def _spec(self, path: Any, parameter: Any) -> PartitionSpec:
        (name, stacked), shape = of_member(named(path)), tuple(parameter.shape)
        axes = next((axes for pattern, axes in self.settings.rules if re.fullmatch(pattern, name)), None)
        if axes is None:
            return PartitionSpec(*self._fully_sharded(shape))
        axes = (*[None] * stacked, *axes)
        where = f"sharding.rules give {name} {shape} the axes {axes}"
        if len(axes) > len(shape):
            raise ConfigError(f"{where}: more than it has dimensions")
        shared = [() if axis is None else (axis,) if isinstance(axis, str) else tuple(axis) for axis in axes]
        claimed = [axis for together in shared for axis in together]
        if unknown := set(claimed) - set(AXES):
            raise ConfigError(f"{where}: there is no axis {sorted(unknown)}, only {', '.join(AXES)}")
        if len(set(claimed)) < len(claimed):
            raise ConfigError(f"{where}: two dimensions cannot share one axis")
        for k, together in enumerate(shared):
            if shape[k] % (size := math.prod(self.mesh.shape[axis] for axis in together)):
                names = " x ".join(repr(axis) for axis in together)
                raise ConfigError(
                    f"{where}: {shape[k]} rows or columns cannot be shared by the {size} devices of {names};"
                    f" for a table of items or users set sharding.rows_multiple {size}, and where they"
                    f" share rows (compression) give a multiple of {size} as rows"
                )
        return PartitionSpec(*axes)

    def _fully_sharded(self, shape: tuple[int, ...]) -> list[str | None]:
        axes: list[str | None] = [None] * len(shape)
        dividing = [k for k, size in enumerate(shape) if size % self.data == 0]
        if self.settings.fsdp and dividing and np.prod(shape) >= self.settings.fsdp_size:
            axes[max(dividing, key=lambda k: shape[k])] = "data"
        return axes


def shares(tree: Any) -> Mapping[str, float]:
    """What share of each array one device holds, by path; of arrays that have a place."""
    return {
        named(path): float(np.prod(x.sharding.shard_shape(x.shape)) / max(1, np.prod(x.shape)))
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
