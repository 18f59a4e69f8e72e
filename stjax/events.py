"""Events, Query, Schema and Catalogue: the one contract between data, model and server.

Shapes: `B` batch, `L` events, `V` items, `N` width of a vector field. Sequences are right-padded, oldest
event first. Every leaf of `Events` starts with the same dimensions: (B, L) for sequences, (B,) for one
event per user, so that slicing an `Events` slices all of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax

# Ids of every vocabulary. For items and users 0 is padding; for other fields 0 is a missing value.
PADDING = 0
MISSING = 0
UNSEEN = 1  # a value that the training part of the log does not hold
FIRST = 2  # the first id of a value that training has seen

Array = Any  # jax.Array or numpy.ndarray: both pass through the same pytrees


@dataclass(frozen=True)
class Field:
    """One further column of the log.

    kind: `categorical` (int32 ids), `multi` (several ids: genres, tags; of items and users only), `numeric`
      (float32, NaN is missing) or `vector` (float32, fixed width).
    role: `event` (varies by event: scene, device, weather), `item` or `user` (an attribute, kept in the
      catalogue) or `meta` (kept in the store for protocols, never shown to a model).
    size: number of ids with MISSING and UNSEEN counted; 1 for numeric; the width of a vector.
    width: of `multi`, the largest number of values a row has; shorter rows end with MISSING.
    """

    name: str
    kind: Literal["categorical", "multi", "numeric", "vector"]
    role: Literal["event", "item", "user", "meta"]
    size: int = 1
    width: int = 1


@dataclass(frozen=True)
class Schema:
    """What a log holds; hashable, so it may be a static argument of jitted functions.

    items, users: number of ids, PADDING and UNSEEN counted.
    epoch: Unix seconds at which `Events.time` is 0. Always a Monday 00:00, so that calendar phases are
      remainders of local time.
    place: whether events carry coordinates.
    multiple: learned tables of items and users have a multiple of it as rows, the last ones empty, so that
      devices can share them.
    """

    items: int
    users: int
    epoch: int
    place: bool
    fields: tuple[Field, ...] = ()
    multiple: int = 1

    @property
    def item_rows(self) -> int:
        """Rows of a learned table of items."""
        return -(-self.items // self.multiple) * self.multiple

    @property
    def user_rows(self) -> int:
        """Rows of a learned table of users."""
        return -(-self.users // self.multiple) * self.multiple

    def __getitem__(self, name: str) -> Field:
        """The field of that name. Raises KeyError with the names that exist."""
        for f in self.fields:
            if f.name == name:
                return f
        raise KeyError(f"no field {name!r} in the schema; it has {[f.name for f in self.fields]}")

    def select(self, role: str, kind: str) -> tuple[Field, ...]:
        """The fields of one role and kind, in the schema's order."""
        return tuple(f for f in self.fields if f.role == role and f.kind == kind)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Events:
    """Behaviour: who did what, when, where, in which context. One immutable pytree of (B, L) arrays.

    item: int32, 0 is padding. user: int32. time: int32 seconds since `Schema.epoch` (UTC).
    utc_offset: int32 seconds; local time is time + utc_offset.
    place: float32 (B, L, 2), latitude and longitude in degrees, both NaN where unknown.
    valid: bool, False on padding.
    categorical, numeric, vector: further event fields by name, int32 (B, L), float32 (B, L), (B, L, N).
    """

    item: Array
    user: Array
    time: Array
    utc_offset: Array
    place: Array
    valid: Array
    categorical: Mapping[str, Array] = field(default_factory=dict)
    numeric: Mapping[str, Array] = field(default_factory=dict)
    vector: Mapping[str, Array] = field(default_factory=dict)

    def __getitem__(self, index: Any) -> Events:
        """Index the leading dimensions of every leaf."""
        return jax.tree.map(lambda x: x[index], self)

    def replace(self, **changes: Any) -> Events:
        """A copy with some leaves changed."""
        return dataclasses.replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Query:
    """What is known of the moment of the request, before the answer is: now and here.

    A part that is not declared known is None (or absent from `categorical`), so that no code can read it.
    time and utc_offset (both or neither), place (..., 2), categorical event fields: as in `Events`.
    """

    time: Array | None = None
    utc_offset: Array | None = None
    place: Array | None = None
    categorical: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, target: Events, known: tuple[str, ...]) -> Query:
        """The declared part of the target events.

        known: any of "time", "place" and the names of categorical event fields.
        Raises ValueError for a name that is none of these.
        """
        fields = {name: target.categorical[name] for name in known if name in target.categorical}
        if unknown := set(known) - {"time", "place"} - set(fields):
            allowed = ["time", "place", *target.categorical]
            raise ValueError(f"query field {sorted(unknown)} does not exist; choose from {allowed}")
        return cls(
            time=target.time if "time" in known else None,
            utc_offset=target.utc_offset if "time" in known else None,
            place=target.place if "place" in known else None,
            categorical=fields,
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Attributes:
    """Fields of items or users by name, one row per id; R rows.

    categorical: int32 (R,). multi: int32 (R, W), filled up with MISSING. numeric: float32 (R,). vector:
    float32 (R, N).
    Rows PADDING and UNSEEN hold missing values.
    """

    categorical: Mapping[str, Array] = field(default_factory=dict)
    multi: Mapping[str, Array] = field(default_factory=dict)
    numeric: Mapping[str, Array] = field(default_factory=dict)
    vector: Mapping[str, Array] = field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Catalogue:
    """What is known of every item and user, on the device once, gathered by id.

    place: float32 (V, 2) degrees of each item, V = schema.items, NaN where unknown; so for PADDING, UNSEEN.
    items, users: their fields, V and schema.users rows.
    schema: static; modules read the sizes of their embedding tables from it.
    count: int32 scalar, how many of the rows are in use, where a server has reserved rows for items that
    training has not seen: then there are V > schema.items rows. Otherwise None.
    item_ids, user_ids: int32 (V,) and (schema.users,), whose rows these are, where a step has taken a few out
    of a larger catalogue. Otherwise None: row k is that of id k.
    """

    place: Array
    schema: Schema = field(metadata={"static": True})
    items: Attributes = field(default_factory=Attributes)
    users: Attributes = field(default_factory=Attributes)
    count: Array | None = None
    item_ids: Array | None = None
    user_ids: Array | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Sequences to train on. events: (B, L+1); position l reads events 0..l and predicts event l+1.

    weight: float32 (B, L), 1 where the prediction at position l counts, else 0.
    """

    events: Events
    weight: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Question:
    """One target per row to rank: the history that may be read, and the event that came next.

    history: (B, L), at least one valid event. target: Events of shape (B,), from which a scorer receives
    only `Query.of(target, known)`. row: int64 (B,), the target's row in the event store.
    real: bool (B,), False on rows that only fill up the last block.
    """

    history: Events
    target: Events
    row: Array
    real: Array
