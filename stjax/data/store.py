"""The event store: a log as a folder of memory-mapped columns, sorted by user and time.

    schema.json          format, sizes, epoch, fields, fingerprint of the content
    offsets.npy          int64 (U+1,): rows of the k-th user are offsets[k]:offsets[k+1]
    columns/NAME.npy     one value per event: item, user, time, [utc_offset, place,] event and meta fields
    items/NAME.npy       one value per item id: place and item fields (row 0 padding, row 1 unseen)
    users/NAME.npy       one value per user id: user fields
    vocabulary/NAME.parquet   the text behind the ids FIRST, FIRST+1, ... in order
    quality.json         what was read, kept, repaired and dropped, by cause

Writing goes to a temporary folder beside the target and is renamed at the end: a killed writer leaves no
folder of the target's name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stjax.errors import UserError
from stjax.events import Field, Schema

if TYPE_CHECKING:
    import polars as pl

FORMAT = 2
_LOCK = threading.Lock()


class StoreError(UserError):
    """A store that cannot be read or written; the message names the folder and the remedy."""


@dataclasses.dataclass(frozen=True)
class EventStore:
    """A log on disk. Arrays are memory maps: opening costs nothing, and processes share the pages.

    schema: sizes count every value of the whole log; a protocol's training part has its own (`Dataset`).
    offsets: int64 (U+1,). columns, items, user_fields: arrays by name, see the module's docstring.
    """

    path: Path
    schema: Schema
    offsets: np.ndarray
    columns: Mapping[str, np.ndarray]
    items: Mapping[str, np.ndarray]
    user_fields: Mapping[str, np.ndarray]
    fingerprint: str

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> EventStore:
        """Open a store. Raises StoreError where the folder is missing, incomplete or of another format."""
        path = Path(path)
        file = path / "schema.json"
        if not file.is_file():
            raise StoreError(
                f"{path} is not an event store (no schema.json); make one with `python -m stjax.data prepare`"
            )
        with _whole(path):
            about = json.loads(file.read_text())
        if about.get("format") != FORMAT:
            raise StoreError(
                f"{path} has store format {about.get('format')}, this version reads {FORMAT}: "
                "prepare it again"
            )
        with _whole(path):
            fields = tuple(Field(**f) for f in about["schema"].pop("fields"))
            schema = Schema(**about["schema"], fields=fields)
            offsets = np.load(path / "offsets.npy")
            place = ["place"] if schema.place else []
            own = {
                role: [f.name for f in fields if f.role == role] for role in ("event", "meta", "item", "user")
            }
            return cls(
                path=path,
                schema=schema,
                offsets=offsets,
                columns=_mapped(
                    path / "columns",
                    ["item", "user", "time", *place, *own["event"], *own["meta"]],
                    int(offsets[-1]),
                ),
                items=_mapped(path / "items", [*place, *own["item"]], schema.items),
                user_fields=_mapped(path / "users", own["user"], schema.users),
                fingerprint=about["fingerprint"],
            )

    def __len__(self) -> int:
        """Number of events."""
        return int(self.offsets[-1])

    @property
    def users(self) -> int:
        """Number of users with events."""
        return len(self.offsets) - 1

    def user_of(self, rows: np.ndarray) -> np.ndarray:
        """Which user, in 0..U-1, each row belongs to: int64 as `rows`."""
        return np.searchsorted(self.offsets, rows, side="right") - 1

    def vocabulary(self, name: str) -> pl.Series:
        """The text of each id of `item`, `user` or a field with ids; id = position + FIRST."""
        import polars as pl  # here: slow to import, and training reads no text

        return pl.read_parquet(self.path / "vocabulary" / f"{name}.parquet")["value"]

    @functools.cached_property
    def quality(self) -> dict[str, Any]:
        """The data-quality report that was made with the store."""
        return json.loads((self.path / "quality.json").read_text())


def write_store(
    path: str | os.PathLike[str],
    *,
    schema: Schema,
    offsets: np.ndarray,
    columns: Mapping[str, np.ndarray],
    items: Mapping[str, np.ndarray],
    vocabulary: Mapping[str, pl.Series],
    quality: Mapping[str, Any],
    users: Mapping[str, np.ndarray] = {},
    overwrite: bool = False,
) -> EventStore:
    """Write a store atomically and open it.

    Raises StoreError where `path` exists and `overwrite` is False, or cannot be written. An existing folder
    that is not a store is never overwritten.
    """
    import polars as pl

    with _writing(path):
        path = check_target(path, overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_dead(path)
        partial = path.parent / f".{path.name}.partial-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            digest = hashlib.sha256()
            _save(partial, "offsets", offsets.astype(np.int64), digest)
            for folder, arrays in (("columns", columns), ("items", items), ("users", users)):
                for name in sorted(arrays):
                    _save(partial / folder, name, arrays[name], digest)
            (partial / "vocabulary").mkdir()
            for name in sorted(vocabulary):
                frame = pl.DataFrame({"value": vocabulary[name].cast(pl.String)})
                frame.write_parquet(partial / "vocabulary" / f"{name}.parquet")
                digest.update("\0".join([name, *frame["value"]]).encode())
            (partial / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")
            about = {
                "format": FORMAT,
                "fingerprint": digest.hexdigest()[:16],
                "schema": dataclasses.asdict(schema),
            }
            (partial / "schema.json").write_text(json.dumps(about, indent=1) + "\n")
            old = path.parent / f".{path.name}.old-{os.getpid()}"
            if check_target(path, overwrite).exists():  # again: another writer may have been faster
                path.rename(old)
            partial.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return EventStore.open(path)


def check_target(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """The path, if a store may be written there. Raises StoreError where it may not."""
    path = Path(path)
    if path.exists() and not (overwrite and (path / "schema.json").is_file()):
        raise StoreError(f"{path} exists; choose another folder or pass --overwrite for an event store")
    return path


def _clear_dead(path: Path) -> None:
    """Remove what killed writers of the same store left beside it.

    A writer killed between its two renames has left the store under the name `.old`: it gets its name back.
    """
    for folder in path.parent.iterdir():
        stem, _, pid = folder.name.rpartition("-")
        if stem in (f".{path.name}.partial", f".{path.name}.old") and pid.isdigit():
            try:
                os.kill(int(pid), 0)  # signal 0 only asks whether the process lives
            except ProcessLookupError:
                if stem.endswith(".old") and not path.exists():
                    folder.rename(path)
                else:
                    shutil.rmtree(folder, ignore_errors=True)
            except PermissionError:
                continue  # another user's process: alive


@contextlib.contextmanager
def _writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """One writer of this process at a time, for its folders have the process's number; StoreError where the
    file system refuses."""
    with _LOCK:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written: {error.strerror or error}; make room or give access there, or"
                " choose another folder (STJAX_CACHE, for the stores of sources)"
            ) from error


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Say of a store that was copied in part, or damaged, what can be done."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise StoreError(
            f"{path} is incomplete or damaged ({error}): copy it again as a whole, or delete it and make it"
            " again"
        ) from error


def _mapped(folder: Path, needed: list[str], rows: int) -> dict[str, np.ndarray]:
    """The arrays of a folder. ValueError where one of the needed is not there, or any has other rows."""
    found = {f.stem: np.load(f, mmap_mode="r") for f in sorted(folder.glob("*.npy"))}
    for name in (*found, *needed):
        there = len(found[name]) if name in found else "no"
        if there != rows:
            raise ValueError(f"{folder.name}/{name}.npy has {there} rows of {rows}")
    return found


def _save(folder: Path, name: str, array: np.ndarray, digest: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    array = np.ascontiguousarray(array)
    np.save(folder / f"{name}.npy", array)
    digest.update(f"{name} {array.dtype} {array.shape}".encode())
    digest.update(array.data if array.size else b"")
