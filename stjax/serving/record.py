"""What survives the process: a journal of accepted events, and snapshots of all states."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stjax.errors import UserError
from stjax.serving.core import Core
from stjax.serving.exported import check_run
from stjax.serving.journal import Journal
from stjax.serving.messages import Event, Item
from stjax.serving.snapshots import SnapshotError, Snapshots

AT_ONCE = 4096  # events that are read again together
OF_USERS = ("newest", "floor", "utc_offset", "place", "placed")


class Record:
    """Journal and snapshots in one folder. about: what must be the same when it is opened again."""

    def __init__(self, folder: Path, about: Mapping[str, Any], sync: bool) -> None:
        self.folder, self._closed = folder, False
        self._about = json.loads(json.dumps(about))
        self._journal = Journal(folder / "journal", sync=sync)
        try:
            self._snapshots = Snapshots(folder / "snapshots")
            self._check()
        except BaseException:
            self._journal.close()
            raise

    def append(self, entries: Sequence[Event | Item]) -> None:
        """Keep accepted events or new items. Raises JournalError, and then has kept none."""
        self._journal.append([_written(entry) for entry in entries])

    def recover(self, core: Core) -> int:
        """Bring an engine without users to where the record ends. Returns the events since the snapshot."""
        snapshot, after = self._snapshots.latest(self._accept), 0
        if snapshot is not None:
            _restore(core, snapshot.arrays, snapshot.about)
            after = snapshot.sequence
        counted, waiting = 0, []
        for _, record in self._journal.read(after):
            entry = _entry(record)
            counted += 1
            if isinstance(entry, Item):  # events after it may be of it
                _apply(core, waiting)
                core.add_item(entry)
                waiting = []
            else:
                waiting.append(entry)
            if len(waiting) == AT_ONCE:
                _apply(core, waiting)
                waiting = []
        _apply(core, waiting)
        core.refresh()
        # The repairs of events that are read again were counted when they came.
        core.codec.counts.clear()
        core.counts["events read again at the start"] = counted
        core.counts["journal bytes cut off: not acknowledged"] = self._journal.repaired_bytes
        core.counts["snapshots damaged"] = len(self._snapshots.damaged)
        return counted

    def captured(self, core: Core) -> tuple[int, dict[str, np.ndarray], dict[str, Any]]:
        """A copy of all users and states, for `save`. Raises SnapshotError after `close`."""
        if self._closed:
            raise SnapshotError(f"the engine is closed, and {self.folder} may be another's: start a new one")
        arrays, names = _captured(core)
        self._journal.sync()  # a snapshot must not be ahead of it
        added = [json.loads(_json(_fields(item))) for item in core.catalogue.added]
        about = {**self._about, "names": names, "added": added}
        if core.tuned:
            leaves = jax.tree.leaves(jax.device_get(core.weights.params))
            arrays |= {f"parameter_{i:03}": _plain(np.array(leaf)) for i, leaf in enumerate(leaves)}
            about["tuned"] = core.version
        return self._journal.last, arrays, about

    @property
    def last(self) -> int:
        """Number of events that were ever kept."""
        return self._journal.last

    def save(self, sequence: int, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """Write a snapshot; other methods may be called meanwhile."""
        self._snapshots.save(sequence, arrays, about)

    def trim(self) -> None:
        """Drop the part of the journal that no snapshot needs."""
        if (oldest := self._snapshots.oldest) is not None:
            self._journal.discard(oldest)

    def close(self) -> None:
        """Release the folder."""
        self._closed = True
        self._journal.close()

    def _check(self) -> None:
        """Whether the record is of this model. A new folder takes its name."""
        file = self.folder / "model.json"
        if file.is_file() and (text := file.read_text()):  # empty: power was lost while it was made
            try:
                about = json.loads(text)
            except ValueError as error:
                raise UserError(
                    f"{file} is damaged ({error}): remove it if the folder is of this model; its snapshots"
                    " are checked, too"
                ) from error
            self._accept(about)
            return
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(self._about, indent=1) + "\n")
        partial.replace(file)

    def _accept(self, about: Mapping[str, Any]) -> None:
        """Raises UserError where states are of another model."""
        for key, mine in self._about.items():
            if about.get(key) != mine:
                raise UserError(
                    f"the folder {self.folder} is of another model: its {key} is {about.get(key)!r},"
                    f" this one's is {mine!r}; use that model, or choose another folder"
                )


def digest(params: Any) -> str:
    """8 hexadecimal digits of all parameters."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:8]


def _written(entry: Event | Item) -> bytes:
    kind = "event" if isinstance(entry, Event) else "item"
    return _json([kind, *_fields(entry)]).encode()


def _fields(entry: Event | Item) -> list[Any]:
    return [getattr(entry, field.name) for field in dataclasses.fields(entry)]


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), default=_native)


def _native(value: Any) -> Any:
    """Numbers, arrays and mappings of other packages, which callers may give, as those of Python."""
    if isinstance(value, Mapping):
        return dict(value)
    return value.tolist() if hasattr(value, "tolist") else float(value)


def _entry(record: bytes | memoryview) -> Event | Item:
    kind, *fields = json.loads(bytes(record))
    entry = Event(*fields) if kind == "event" else Item(*fields)
    return entry if entry.place is None else dataclasses.replace(entry, place=tuple(entry.place))


def _apply(core: Core, events: Sequence[Event]) -> None:
    core.refresh()  # they may be of items that were added just before
    rows = [(event.user, core.encode(event)) for event in events]
    # Whatever calls they came in: a state reads its user's events by time, and by order of arrival.
    core.apply(sorted(rows, key=lambda each: each[1]["time"]))
    core.remember(events)


def _captured(core: Core) -> tuple[dict[str, np.ndarray], list[str]]:
    users, count = core.users, len(core.users)
    states = jax.tree.leaves(core.slots.rows(range(count)))
    none = np.zeros(0, np.int32)
    seen = [users.seen[user].ids() if user in users.seen else none for user in range(count)]
    pending = [row for user in range(count) for row in users.pending.get(user, [])]
    arrays = {f"state_{i:03}": _plain(leaf) for i, leaf in enumerate(states)}
    arrays |= {name: getattr(users, name)[:count].copy() for name in OF_USERS}
    arrays |= {
        "stored": core.slots.known[:count].copy(),
        "seen": np.concatenate([none, *seen]),
        "seen_count": np.asarray([len(own) for own in seen], np.int64),
        "pending": np.array(pending, core.codec.row).view(np.uint8),
        "pending_count": np.asarray([len(users.pending.get(u, [])) for u in range(count)], np.int64),
    }
    keys = [users.keys.get(user, b"") for user in range(count)]
    arrays |= {
        "keys": np.frombuffer(b"".join(keys), np.uint8),
        "keys_count": np.asarray([len(own) for own in keys], np.int64),
    }
    return arrays, list(users.names)


def _restore(core: Core, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    users, names = core.users, about["names"]
    count = len(names)
    for fields in about["added"]:
        core.add_item(Item(*fields))
    core.refresh()
    if version := about.get("tuned"):
        check_run(core.programs.model, f"the snapshot's parameters {version}, of fine_tune")
        leaves, structure = jax.tree.flatten(core.weights.params)
        saved = [arrays[f"parameter_{i:03}"].view(leaf.dtype) for i, leaf in enumerate(leaves)]
        core.swap(jax.tree.unflatten(structure, saved), version)
    for name in names:
        users.add(name)
    for name in OF_USERS:  # in snapshots of before places had a time: that of the newest event
        getattr(users, name)[:count] = arrays[name if name in arrays else "newest"]
    own = np.split(arrays["seen"], np.cumsum(arrays["seen_count"])[:-1])
    for user, items in enumerate(own):
        if len(items):
            users.restore_seen(user, items)
    if "keys" in arrays:  # none in snapshots of before events had ids
        for user, stop in enumerate(np.cumsum(arrays["keys_count"])):
            users.remember(user, arrays["keys"][stop - arrays["keys_count"][user] : stop].tobytes())
    pending = arrays["pending"].view(core.codec.row)
    rows = np.split(pending, np.cumsum(arrays["pending_count"])[:-1])
    users.pending = {user: list(some) for user, some in enumerate(rows) if len(some)}
    leaves, structure = jax.tree.flatten(core.slots.states)
    stored = np.flatnonzero(arrays["stored"])
    kept = [arrays[name] for name in sorted(arrays) if name.startswith("state_")]
    if [x.shape[1:] for x in kept] != [leaf.shape[1:] for leaf in leaves]:
        raise UserError(
            "the snapshot holds states of another form, as another version of stjax wrote them: use that"
            " version, or begin with an empty folder"
        )
    saved = [x.view(leaf.dtype)[stored] for x, leaf in zip(kept, leaves, strict=True)]
    core.slots.load(stored, jax.tree.unflatten(structure, saved))
    core.settle()


def _plain(x: np.ndarray) -> np.ndarray:
    """With a dtype that files know: bfloat16 and the like as integers of their size."""
    return x if x.dtype.kind in "biuf" else x.view(f"u{x.dtype.itemsize}")
