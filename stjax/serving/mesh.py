"""The engine on several devices: where its tables and states lie, and how their shares become one answer.

The mesh is that of training. Its axis `data` shares the slots of users and, where their number divides, the
rows of a call. `model` shares all that has a row for each item (catalogue, vectors, scores), and the tables
among the parameters by training's own rules. Modules know nothing of it, and XLA derives their programs. Only
the best k are written for each device by itself: no scores leave it but those of its own best.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from stjax.errors import ConfigError
from stjax.events import Catalogue
from stjax.serving.answers import Filters, best
from stjax.training.experiment import Sharding
from stjax.training.sharding import Layout


@dataclass(frozen=True)
class Devices:
    """The devices of an engine. layout: None where there is one only, so that nothing needs a place."""

    layout: Layout | None = None

    @classmethod
    def of(cls, sharding: Sharding | None) -> Devices:
        """All of this process, or one for None. Raises ConfigError where they are not data * model."""
        layout = None if sharding is None else Layout.of(sharding, jax.local_devices())
        return cls(None if layout is None or layout.single else layout)

    @property
    def data(self) -> int:
        """Devices, or groups of them, that share the slots."""
        return 1 if self.layout is None else self.layout.mesh.shape["data"]

    @property
    def model(self) -> int:
        """Devices, or groups of them, that share the items."""
        return 1 if self.layout is None else self.layout.mesh.shape["model"]

    def slots(self, capacity: int) -> int:
        """Rows of all states together: those of `capacity` users, and at least a cold one.

        Raises ConfigError where they cannot be shared.
        """
        if capacity % self.data:
            raise ConfigError(
                f"capacity={capacity} slots cannot be shared by the {self.data} devices of sharding.data:"
                f" give a multiple of {self.data}, such as {capacity + -capacity % self.data}"
            )
        return capacity + self.data

    def weights(self, params: Any, catalogue: Catalogue) -> tuple[Any, Catalogue]:
        """Parameters and catalogue on the devices. Raises ConfigError, naming a size that does not divide."""
        if self.layout is None:
            return jax.device_put((params, catalogue))
        rows, known = len(catalogue.place), catalogue.schema.items
        if more := -rows % self.model:
            raise ConfigError(
                f"{rows} items, {known} of training and spare_items={rows - known}, cannot be shared by the"
                f" {self.model} devices of sharding.model: set spare_items {rows - known + more}"
            )
        whole, share = self.layout.everywhere, self.layout.sharding(PartitionSpec("model"))
        places = dataclasses.replace(
            jax.tree.map(lambda _: whole, catalogue),
            place=share,
            items=jax.tree.map(lambda _: share, catalogue.items),
        )
        own = jax.tree.map(self.layout.sharding, self.layout.specs(params))
        return jax.device_put((params, catalogue), (own, places))

    @property
    def whole(self) -> NamedSharding | None:
        """On every device."""
        return None if self.layout is None else self.layout.everywhere

    @property
    def states(self) -> NamedSharding | None:
        """Of arrays (slots, ...)."""
        return None if self.layout is None else self.layout.sharding(PartitionSpec("data"))

    def of_items(self, vectors: Any) -> Any:
        """Arrays (..., V, D), inside of a program: their items shared by `model`."""
        return self._constrained(vectors, lambda x: PartitionSpec(*[None] * (x.ndim - 2), "model"))

    def rows(self, tree: Any) -> Any:
        """Arrays (B, ...) of one call, inside of a program: shared by `data` where it divides B."""
        return self._constrained(tree, lambda x: PartitionSpec(self._by(x.shape[0])))

    def best(
        self, log_p: jax.Array, filters: Filters | None, space: jax.Array, k: int
    ) -> tuple[jax.Array, jax.Array]:
        """As `stjax.serving.answers.best`, of items that are shared."""
        if self.layout is None:
            return best(log_p, filters, space, k)
        rows = PartitionSpec(self._by(log_p.shape[0]))
        shared = jax.shard_map(
            partial(best, k=k, axis="model"),
            mesh=self.layout.mesh,
            in_specs=(PartitionSpec(*rows, "model"), rows, PartitionSpec("model")),
            out_specs=rows,
            check_vma=False,  # the best of all are the same everywhere, which it cannot see
        )
        return shared(log_p, filters, space)

    def _by(self, rows: int) -> str | None:
        return "data" if rows % self.data == 0 else None

    def _constrained(self, tree: Any, spec: Callable[[jax.Array], PartitionSpec]) -> Any:
        if self.layout is None:
            return tree
        place = self.layout.sharding
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, place(spec(x))), tree)
