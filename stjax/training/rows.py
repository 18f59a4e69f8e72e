"""Steps that touch only the rows of large tables which a batch reads.

A batch names a few thousand items of a catalogue of any size. Their rows, and what is known of them, are
taken out as a small catalogue of its own, in which the ids of the batch are counted anew; model and optimizer
run on that as they would on the whole, and the rows are put back in place. So the cost of a step does not
depend on the number of items or users, and no array of their number is made. It is exact where an untouched
row would stay as it is: for row-wise Adagrad. Adam's moments rest while a row is not read ("lazy"). Tables of
which ids share the rows (`compression`) are small: all of them is updated, as all else.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from stjax.errors import ConfigError
from stjax.events import PADDING, UNSEEN, Batch, Catalogue
from stjax.training.paths import named, vocabulary_of


def check_rows(model: nn.Module) -> None:
    """Raises ConfigError for a model that reads its whole tables in every step."""
    objective = getattr(getattr(model, "head", None), "objective", None)
    if objective is None:
        raise ConfigError(
            f"optimizer.tables must be 'adamw' for the model {type(model).__name__}: rows are taken for the"
            " head of a single Recommender"
        )
    if not (hasattr(objective, "draw") or type(objective).__name__ == "InBatch"):
        raise ConfigError(
            f"optimizer.tables must be 'adamw' with the objective {type(objective).__name__}, which reads"
            " every item in every step; SampledSoftmax and InBatch read a few"
        )
    if getattr(model, "ranking", None) is not None:
        raise ConfigError("optimizer.tables must be 'adamw' for a model with a ranking head")


@dataclass(frozen=True)
class Rows:
    """Ids of items and users that a step reads, ascending, each once: int32 (K,), filled up with numbers
    beyond all ids. drawn: ids and log counts of the objective's negatives, or None."""

    item: jax.Array
    user: jax.Array
    drawn: tuple[jax.Array, jax.Array] | None

    @classmethod
    def of(cls, model: Any, key: jax.Array, batch: Batch, schema: Any) -> Rows:
        """Those of a batch, with the negatives that the objective draws for it."""
        objective, events = model.head.objective, batch.events
        drawn, more = None, jnp.zeros(0, jnp.int32)
        if hasattr(objective, "draw"):
            drawn = objective.draw(key, schema.items, events.item[:, 1:])
            more = drawn[0]
        special = jnp.asarray([PADDING, UNSEEN], jnp.int32)  # so that they keep their ids
        return cls(
            item=_distinct(jnp.concatenate([special, events.item.reshape(-1), more])),
            user=_distinct(jnp.concatenate([special, events.user[:, 0]])),
            drawn=drawn,
        )

    @staticmethod
    def used(shardings: Any) -> Any:
        """The shardings of parameters in a step, of those of whole tables: the rows of a batch, which are few
        and of any number, lie on every device; all else as it does."""

        def place(path: Any, own: NamedSharding) -> NamedSharding:
            return own if vocabulary_of(named(path)) is None else NamedSharding(own.mesh, PartitionSpec())

        return jax.tree_util.tree_map_with_path(place, shardings)

    def take(self, tree: Any) -> Any:
        """The rows of all tables of a tree; other arrays as they are."""

        def some(path: Any, x: Any) -> Any:
            ids = self._ids(path)
            return x if ids is None else x.at[ids].get(mode="clip", indices_are_sorted=True)

        return jax.tree_util.tree_map_with_path(some, tree)

    def put(self, whole: Any, tree: Any) -> Any:
        """The whole tables with these rows in place; other arrays as they are in `tree`."""

        def back(path: Any, x: Any, new: Any) -> Any:
            ids = self._ids(path)
            return new if ids is None else x.at[ids].set(new, mode="drop", indices_are_sorted=True)

        return jax.tree_util.tree_map_with_path(back, whole, tree)

    def batch(self, batch: Batch) -> Batch:
        """The batch with the ids of the small catalogue."""
        events = batch.events
        item, user = jnp.searchsorted(self.item, events.item), jnp.searchsorted(self.user, events.user)
        events = events.replace(item=item.astype(jnp.int32), user=user.astype(jnp.int32))
        return dataclasses.replace(batch, events=events)

    def catalogue(self, catalogue: Catalogue) -> Catalogue:
        """What is known of these items and users."""
        small = {"items": self.item.shape[0], "users": self.user.shape[0], "multiple": 1}

        def some(ids: jax.Array) -> Any:
            return lambda x: jnp.asarray(x).at[ids].get(mode="clip")

        return dataclasses.replace(
            catalogue,
            place=some(self.item)(catalogue.place),
            items=jax.tree.map(some(self.item), catalogue.items),
            users=jax.tree.map(some(self.user), catalogue.users),
            schema=dataclasses.replace(catalogue.schema, **small),
            item_ids=self.item,  # where vectors are made of the ids themselves, whatever their rows here
            user_ids=self.user,
        )

    def variables(self) -> dict[str, Any]:
        """The negatives as the objective takes them."""
        if self.drawn is None:
            return {}
        ids, log_count = self.drawn
        ids = jnp.searchsorted(self.item, ids).astype(jnp.int32)
        return {"drawn": {"head": {"objective": {"ids": ids, "log_count": log_count}}}}

    def _ids(self, path: Any) -> jax.Array | None:
        return {"item": self.item, "user": self.user, None: None}[vocabulary_of(named(path))]


def _distinct(ids: jax.Array) -> jax.Array:
    return jnp.unique(ids, size=ids.shape[0], fill_value=jnp.iinfo(jnp.int32).max)
