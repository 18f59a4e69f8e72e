"""Snapshots: arrays of a server at a sequence number of its journal, as folders that are whole or absent.

snapshot-SEQUENCE/   a second snapshot of the same sequence number is snapshot-SEQUENCE.1, and so on
    about.json       format, sequence, what the server says of it, the arrays' files and their checksums
    NAME.npy         one array; of its name, what file names do not take is percent-encoded
.snapshot-*          one that is being written or removed; of a killed process, until the next save
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import urllib.parse
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stjax.errors import UserError
from stjax.serving.durable import make_folder, sync_folder

FORMAT = 1
_CHUNK = 1 << 20  # bytes read at once


class SnapshotError(UserError):
    """A snapshot that cannot be written or read; the message names the folder and the remedy."""


class _Damaged(Exception):
    """A snapshot whose checksums do not hold."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What was saved. The arrays are in memory."""

    sequence: int
    about: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Snapshots:
    """The snapshots of one folder. One process at a time may save; others may read meanwhile.

    keep: so many of the newest are kept, those not counted that are known to be damaged.
    damaged: folders of the snapshots that were passed over because their checksums do not hold.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """Make the folder where it is absent. Raises SnapshotError where it cannot be made, or keep < 1."""
        if keep < 1:
            raise SnapshotError(f"keep={keep} would keep no snapshot: give 1 or more")
        self.folder = folder
        self.damaged: list[Path] = []
        self._keep = keep
        self._whole: set[Path] = set()  # checked or written by this process
        try:
            make_folder(folder)
        except OSError as error:
            raise SnapshotError(
                f"cannot use the snapshot folder {folder}: {error.strerror}; choose another folder"
            ) from error

    def save(self, sequence: int, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> Path:
        """Write a snapshot, durable when this returns, and remove those that are too old; returns its folder.

        arrays: of bool, integer, float or complex numbers. about: JSON.

        Raises SnapshotError where it cannot be written (those before it are then as they were), where an
        array is of another type, and where the folder holds a later snapshot. Raises TypeError or ValueError
        where `about` is not JSON.
        """
        about = json.loads(json.dumps(dict(about), allow_nan=False))
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        for name, array in arrays.items():
            if array.dtype.kind not in "biufc":
                raise SnapshotError(
                    f"array {name!r} is of type {array.dtype}, which .npy files do not keep: "
                    "give a view of it as integers"
                )
        try:
            path = self._next(sequence)
            partial = self.folder / f".{path.name}"
            try:
                for left in self.folder.glob(".snapshot-*"):
                    shutil.rmtree(left)
                partial.mkdir()
                files = {name: _save(partial, name, array) for name, array in arrays.items()}
                content = {"format": FORMAT, "sequence": sequence, "about": about, "arrays": files}
                _write(partial / "about.json", content)
                sync_folder(partial)
                partial.rename(path)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            sync_folder(self.folder)
            self._whole.add(path)
            self._remove_old()
        except OSError as error:
            raise SnapshotError(
                f"cannot save the snapshot {sequence} to {self.folder}: {error.strerror}; "
                "the older ones are whole: free space on its disk and save again"
            ) from error
        return path

    def latest(self, accept: Callable[[dict[str, Any]], None] | None = None) -> Snapshot | None:
        """The newest snapshot that is whole, or None. Those passed over are in `damaged`.

        accept: is given `about` before the arrays are read; what it raises ends the search.

        Raises SnapshotError where a snapshot may not be read or has another format.
        """
        for path in reversed(self._paths()):
            try:
                content = _about(path)
                if accept is not None:
                    accept(content["about"])
                self._check(path, content)
                arrays = {
                    name: np.load(path / file["file"], allow_pickle=False)
                    for name, file in content["arrays"].items()
                }
            except _Damaged:
                self._pass_over(path)
                continue
            return Snapshot(content["sequence"], content["about"], arrays)
        return None

    @property
    def oldest(self) -> int | None:
        """Sequence number of the oldest snapshot that is whole: the journal may be discarded up to there.

        None where there is none. Reads what this process has neither written nor checked before.
        Raises SnapshotError as `latest` does.
        """
        for path in self._paths():
            if path in self.damaged:
                continue
            try:
                if path not in self._whole:
                    self._check(path, _about(path))
            except _Damaged:
                self._pass_over(path)
                continue
            return _order(path)[0]
        return None

    def _paths(self) -> list[Path]:
        """Folders of the snapshots, the newest last."""
        return sorted((p for p in self.folder.iterdir() if _NAME.fullmatch(p.name)), key=_order)

    def _next(self, sequence: int) -> Path:
        """Where that snapshot is to be. An older one of its number stays, so that one is always whole."""
        name = f"snapshot-{sequence}"
        if paths := self._paths():
            newest, copy = _order(paths[-1])
            if newest > sequence:
                raise SnapshotError(
                    f"cannot save the snapshot {sequence} to {self.folder}: {paths[-1].name} is there, of "
                    "another journal or a later time; move it away or choose another folder"
                )
            if newest == sequence:
                name += f".{copy + 1}"
        return self.folder / name

    def _check(self, path: Path, content: dict[str, Any]) -> None:
        """Raise _Damaged where the checksums of the arrays do not hold."""
        for file in content["arrays"].values():
            if _checksum(path / file["file"]) != (file["bytes"], file["crc32"]):
                raise _Damaged
        self._whole.add(path)

    def _pass_over(self, path: Path) -> None:
        self._whole.discard(path)
        if path not in self.damaged:
            self.damaged.append(path)

    def _remove_old(self) -> None:
        """Remove all that are older than the newest `keep`. Raises OSError."""
        paths = self._paths()
        first = [path for path in paths if path not in self.damaged][-self._keep :][0]
        removed = []
        for path in paths[: paths.index(first)]:
            # Not in place: a half-removed one would look damaged.
            removed.append(path.rename(self.folder / f".{path.name}"))
            self._whole.discard(path)
        sync_folder(self.folder)
        for path in removed:
            shutil.rmtree(path, ignore_errors=True)  # what stays is removed by the next save


_NAME = re.compile(r"snapshot-(\d+)(?:\.(\d+))?")


def _order(path: Path) -> tuple[int, int]:
    """Sequence number, and which snapshot of that number it is."""
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1]), int(found[2] or 0)


class _Summed:
    """Counts and sums what is written through it to a file."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self._file = file
        self.size = self.checksum = 0

    def write(self, data: bytes, /) -> int:
        self.size += len(data)
        self.checksum = zlib.crc32(data, self.checksum)
        return self._file.write(data)


def _save(folder: Path, name: str, array: np.ndarray) -> dict[str, Any]:
    """Write an array, durable; returns its entry in about.json."""
    path = folder / f"{urllib.parse.quote(name, safe='')}.npy"
    with open(path, "xb") as file:
        # Not to the file itself: numpy would then write it past `file`, and name no cause if it cannot.
        summed = _Summed(file)
        np.save(summed, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return {"file": path.name, "bytes": summed.size, "crc32": summed.checksum}


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with the checksum of its own text, durable."""
    checksum = zlib.crc32(json.dumps(content).encode())
    with open(path, "x") as file:
        file.write(json.dumps({"crc32": checksum, **content}, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _about(path: Path) -> dict[str, Any]:
    """The content of about.json.

    Raises _Damaged, or SnapshotError where it may not be read or has another format.
    """
    try:
        content = json.loads((path / "about.json").read_bytes())
        checksum = content.pop("crc32")
    except PermissionError as error:
        raise _forbidden(path, error) from error
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise _Damaged from error
    # Numbers, texts and the order of keys come out of JSON as they went in, and so does the text.
    if zlib.crc32(json.dumps(content).encode()) != checksum or content["sequence"] != _order(path)[0]:
        raise _Damaged
    if content["format"] != FORMAT:
        raise SnapshotError(
            f"{path} has snapshot format {content['format']}, this version reads {FORMAT}: "
            "use the version that wrote it, or move it away"
        )
    return content


def _checksum(file: Path) -> tuple[int, int]:
    """Bytes and CRC32 of a file. Raises _Damaged, or SnapshotError where it may not be read."""
    size = checksum = 0
    try:
        with open(file, "rb") as data:
            while chunk := data.read(_CHUNK):
                size += len(chunk)
                checksum = zlib.crc32(chunk, checksum)
    except PermissionError as error:
        raise _forbidden(file, error) from error
    except OSError as error:
        raise _Damaged from error
    return size, checksum


def _forbidden(path: Path, error: OSError) -> SnapshotError:
    return SnapshotError(f"cannot read {path}: {error.strerror}; let this process read it")
