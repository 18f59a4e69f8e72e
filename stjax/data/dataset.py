"""A store seen through a protocol: train-only vocabularies, events, questions and targets."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from stjax.data.history import History
from stjax.data.protocols import PARTS, TRAIN, ProtocolError, Split
from stjax.data.store import EventStore
from stjax.data.windows import take_runs
from stjax.errors import UserError
from stjax.events import FIRST, MISSING, UNSEEN, Attributes, Catalogue, Events, Question, Schema

CHUNK = 1 << 22  # rows per step of a pass over a whole column


class Dataset:
    """A store seen through a protocol. Raises ProtocolError where nothing is left to train on.

    schema: train-only sizes; meta fields are left out. remap: per vocabulary, int32 array from the
    store's ids to train ids; values without an occurrence in training become UNSEEN. An item or user
    field's vocabulary holds the values of the items or users that training has seen. train_rows: int64,
    sorted by user and time.
    train_bounds: int64 (U+1,), the k-th user's part of train_rows. notes: counts by cause.
    multiple: becomes that of the schema.
    """

    def __init__(self, store: EventStore, split: Split, multiple: int = 1) -> None:
        if len(split.label) != len(store):
            raise ProtocolError(
                f"a split of {len(split.label)} rows does not fit the {len(store)} of {store.path}"
            )
        self.store = store
        self.split = split
        self.train_rows = np.flatnonzero(split.label == TRAIN)
        if not len(self.train_rows):
            raise ProtocolError(
                f"{split.name} leaves no training events of the {len(store)} in {store.path}: "
                "choose smaller held-out parts, another protocol or a longer log"
            )
        self.train_bounds = np.searchsorted(self.train_rows, store.offsets)
        # plain arrays over the same pages: indexing a memmap object costs more
        self._columns = {name: np.asarray(column) for name, column in store.columns.items()}
        self.remap = self._remap()
        self._identity = {name: bool((ids == np.arange(len(ids))).all()) for name, ids in self.remap.items()}
        self.schema = dataclasses.replace(self._schema(), multiple=multiple)
        self.notes = {**split.notes, "history": split.history}
        self._targets = {part: self._kept(part) for part in split.parts}

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits: the store's content, the protocol and what it chose."""
        digest = hashlib.sha256(f"{self.store.fingerprint} {self.split.name}".encode())
        digest.update(np.ascontiguousarray(self.split.label, np.int8).data)
        if self.split.session is not None:
            digest.update(np.ascontiguousarray(self.split.session, np.int64).data)
        if not self.split.ordered:
            digest.update(b"without order")
        return digest.hexdigest()[:16]

    @functools.cached_property
    def catalogue(self) -> Catalogue:
        """What is known of the items and users that training has seen, by train id."""
        no_place = np.full((self.schema.items, 2), np.nan, np.float32)
        return Catalogue(
            place=self._rows("item", "place", np.nan) if "place" in self.store.items else no_place,
            schema=self.schema,
            items=self._attributes("item"),
            users=self._attributes("user"),
        )

    def _attributes(self, role: Literal["item", "user"]) -> Attributes:
        """The fields of items or users that training has seen, by train id."""

        def select(kind: str) -> list[str]:
            return [f.name for f in self.schema.select(role, kind)]

        return Attributes(
            categorical={n: self.remap[n][self._rows(role, n, MISSING)] for n in select("categorical")},
            multi={n: self.remap[n][self._rows(role, n, MISSING)] for n in select("multi")},
            numeric={n: self._rows(role, n, np.nan) for n in select("numeric")},
            vector={n: self._rows(role, n, np.nan) for n in select("vector")},
        )

    def _rows(self, role: Literal["item", "user"], name: str, missing: float) -> np.ndarray:
        """One of their columns, with `missing` for PADDING and UNSEEN."""
        column = self._own(role)[name]
        head = np.full((FIRST, *column.shape[1:]), missing, column.dtype)
        return np.concatenate([head, column[self.remap[role] >= FIRST]])

    def _own(self, role: Literal["item", "user"]) -> Mapping[str, np.ndarray]:
        return self.store.items if role == "item" else self.store.user_fields

    def gather(self, rows: np.ndarray, valid: np.ndarray) -> Events:
        """The events of `rows`, int64 (B, L), where `valid`, bool (B, L); elsewhere padding.

        Padding: item, user, time, offset and categorical 0; place, numeric and vector NaN.
        """
        return self._events(lambda column: np.take(column, rows, axis=0, mode="clip"), valid)

    def gather_runs(self, start: np.ndarray, count: np.ndarray, length: int) -> Events:
        """The events of count_b rows from start_b on, for every b, padded: (B, length)."""
        valid = np.arange(length) < count[:, None]
        return self._events(lambda column: take_runs(column, start, length), valid)

    def items(self, rows: np.ndarray | slice) -> np.ndarray:
        """Train ids of the items of some rows, int32."""
        return self.remap["item"][self._columns["item"][rows]]

    def targets(self, part: int) -> np.ndarray:
        """Rows to predict in VALID or TEST, int64; ProtocolError where there are none.

        Targets whose item training has not seen, or that have nothing to read, are left out and
        counted in `notes`.
        """
        if part not in PARTS:
            raise ValueError(f"part={part} has no targets; choose from {PARTS}")
        if part not in self._targets:
            raise ProtocolError(f"{self.split.name}: the {PARTS[part]} part trains and has no targets")
        if not len(self._targets[part]):
            word = PARTS[part]
            causes = {name: n for name, n in self.notes.items() if name.startswith(word)}
            raise ProtocolError(
                f"{self.split.name} gives no {word} targets on {self.store.path} ({causes}): "
                "choose a larger part, another protocol or a longer log"
            )
        return self._targets[part]

    def history(self, rows: np.ndarray) -> History:
        """What the split lets each target row read, int64 (B,): never itself, nor another user's rows."""
        rows = np.asarray(rows, np.int64)
        user = self.store.user_of(rows)
        if not self.split.ordered:
            every = History(self.train_bounds[user], self.train_bounds[user + 1], self.train_rows)
            if not (self.split.label[rows] == TRAIN).any():
                return every
            other = every.row != rows[every.owner]
            return History.of(every.owner[other], every.row[other], len(rows))
        if self.split.session is None:
            return History(self.store.offsets[user], rows)
        trained = History(self.train_bounds[user], np.searchsorted(self.train_rows, rows), self.train_rows)
        session = self.split.session[rows].astype(np.int64) * len(self.store)
        key, held = self._held
        own = History(
            np.searchsorted(key, session + self.store.offsets[user]),
            np.searchsorted(key, session + rows),
            held,
        )
        owner, row = (np.concatenate(pair) for pair in ((trained.owner, own.owner), (trained.row, own.row)))
        return History.of(owner, row, len(rows))

    @functools.cached_property
    def _held(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows with a session that do not train: session · N + row, sorted, and the row; int64."""
        session, label = self.split.session, self.split.label
        assert session is not None
        rows = np.flatnonzero((session >= 0) & (label != TRAIN))
        key = np.sort(session[rows].astype(np.int64) * len(self.store) + rows)
        return key, key % len(self.store)

    def read(self, history: History, length: int) -> Events:
        """The last `length` events of each target's history, padded: (B, length)."""
        tail = history.tail(length)
        if tail.index is None:
            return self.gather_runs(tail.first, tail.count, length)
        valid = np.arange(length) < tail.count[:, None]
        rows = take_runs(tail.index, tail.first, length) if len(tail.index) else np.zeros(valid.shape, int)
        return self.gather(rows, valid)

    def seen(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Train ids of all that each target row may read, as compressed rows.

        Returns offsets int64 (B+1,) and items int32: row b's are items[offsets[b]:offsets[b+1]], in
        the store's order, repeats and UNSEEN included.
        """
        history = self.history(rows)
        return history.offsets, self.items(history.row)

    def questions(
        self,
        part: int,
        length: int,
        block: int,
        limit: int | None = None,
        buckets: Sequence[int] | None = None,
    ) -> Iterator[Question]:
        """The targets of a part in blocks of `block`, each with the last `length` events of its history.

        The last block is filled up with copies of a target that are not `real`. limit: only so many
        targets, spread evenly over the part. buckets: history lengths below `length`; each target
        goes to the smallest that holds its history, so blocks differ in L and targets come bucket
        by bucket.
        """
        rows = self.targets(part)
        if limit is not None and limit < len(rows):
            rows = rows[np.linspace(0, len(rows) - 1, limit).astype(np.int64)]
        sizes = bucket_sizes(buckets, length)
        which = np.searchsorted(sizes, np.minimum(self.history(rows).count, length))
        for k, size in enumerate(sizes.tolist()):
            mine = rows[which == k]
            for at in range(0, len(mine), block):
                yield self._question(mine[at : at + block], size, block)

    def _question(self, rows: np.ndarray, length: int, block: int) -> Question:
        real = np.arange(block) < len(rows)
        rows = np.pad(rows, (0, block - len(rows)), mode="edge")
        target = self.gather(rows[:, None], np.ones((block, 1), bool))[:, 0]
        return Question(self.read(self.history(rows), length), target, rows, real)

    def _events(self, read: Callable[[np.ndarray], np.ndarray], valid: np.ndarray) -> Events:
        """Events by a function that reads a column at the wanted rows: (N, ...) to (B, L, ...)."""
        padding = None if valid.all() else ~valid

        def column(name: str, missing: float, dtype: Any, trailing: tuple[int, ...] = ()) -> Any:
            if name not in self._columns:
                return np.full((*valid.shape, *trailing), missing, dtype)
            values = read(self._columns[name]).astype(dtype, copy=False)
            if not self._identity.get(name, True):
                values = np.take(self.remap[name], values, mode="clip")
            if padding is not None:
                values[padding] = missing
            return values

        select = functools.partial(self.schema.select, "event")
        return Events(
            item=column("item", 0, np.int32),
            user=column("user", 0, np.int32),
            time=column("time", 0, np.int32),
            utc_offset=column("utc_offset", 0, np.int32),
            place=column("place", np.nan, np.float32, (2,)),
            valid=valid,
            categorical={f.name: column(f.name, 0, np.int32) for f in select("categorical")},
            numeric={f.name: column(f.name, np.nan, np.float32) for f in select("numeric")},
            vector={f.name: column(f.name, np.nan, np.float32) for f in select("vector")},
        )

    def _remap(self) -> dict[str, np.ndarray]:
        schema = self.store.schema
        sizes = {"item": schema.items, "user": schema.users}
        sizes |= {f.name: f.size for f in schema.select("event", "categorical")}
        remap = {name: _renumber(self._in_training(name, size)) for name, size in sizes.items()}
        roles: tuple[Literal["item", "user"], ...] = ("item", "user")
        for role in roles:
            for f in schema.select(role, "categorical") + schema.select(role, "multi"):
                occurs = np.zeros(f.size, bool)
                occurs[self._own(role)[f.name][remap[role] >= FIRST]] = True
                remap[f.name] = _renumber(occurs)
        return remap

    def _in_training(self, name: str, size: int) -> np.ndarray:
        """Which of the store's ids occur in training rows, bool (size,)."""
        occurs = np.zeros(size, bool)
        for at in range(0, len(self.store), CHUNK):
            trains = self.split.label[at : at + CHUNK] == TRAIN
            occurs[self._columns[name][at : at + CHUNK][trains]] = True
        return occurs

    def _schema(self) -> Schema:
        fields = tuple(
            dataclasses.replace(f, size=_size(self.remap[f.name])) if f.name in self.remap else f
            for f in self.store.schema.fields
            if f.role != "meta"
        )
        items, users = _size(self.remap["item"]), _size(self.remap["user"])
        return dataclasses.replace(self.store.schema, items=items, users=users, fields=fields)

    def _kept(self, part: int) -> np.ndarray:
        """Targets that can be ranked; the others are counted."""
        rows = self.split.targets(part)
        readable = self.history(rows).count > 0
        known = self.items(rows) != UNSEEN
        kept = rows[readable & known]
        word = PARTS[part]
        self.notes |= {
            f"{word}_targets": len(kept),
            f"{word}_dropped_without_history": int((~readable).sum()),
            f"{word}_dropped_unseen_item": int((readable & ~known).sum()),
        }
        return kept


def bucket_sizes(buckets: Sequence[int] | None, length: int) -> np.ndarray:
    """Lengths to pad to, ascending, the last one `length`; UserError for one out of range."""
    sizes = np.unique([*(buckets or ()), length])
    if sizes[0] < 1 or sizes[-1] > length:
        raise UserError(f"buckets={buckets}: choose lengths from 1 to length={length}")
    return sizes


def _renumber(occurs: np.ndarray) -> np.ndarray:
    """Train ids by store id, in the store's order: int32."""
    occurs[:FIRST] = False
    ids = np.where(occurs, np.cumsum(occurs) + FIRST - 1, UNSEEN).astype(np.int32)
    ids[0] = 0
    return ids


def _size(remap: np.ndarray) -> int:
    return max(FIRST, int(remap.max()) + 1)
