"""The run folder: one experiment, one run at a time, and files that are whole or absent.

config.json     the resolved experiment        config.py     the config file it came from
versions.json   of the packages and the machine it began with
checkpoints/    the latest and the best step   metrics.jsonl one object per log or validation line
tensorboard/    the same as scalars            result.json, curves.png   when the run is finished
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from stjax.errors import CheckpointError
from stjax.training.config import differences

PACKAGES = ("stjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "polars")


class RunFolder:
    """A run folder held by this process; as a context manager it is released at the end.

    The lock is the kernel's (flock), so a killed process holds nothing. Of several processes of one run only
    the leader holds the folder and writes to it.
    """

    def __init__(self, path: Path, leader: bool = True):
        """Make the folder where it is absent, and lock it.

        Raises CheckpointError, naming the process, where another run is using it.
        """
        self.path, self.leader = path, leader
        if leader:
            self._hold(path)

    def _hold(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = open(path / ".lock", "a+")  # noqa: SIM115 (held for the life of the run)
        except OSError as error:
            raise CheckpointError(
                f"cannot use the run folder {path}: {error.strerror}; choose another --workdir"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            pid = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise CheckpointError(
                f"the run folder {path} is in use by process {pid}; wait for it or choose another --workdir"
            ) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.leader:
            self._lock.close()

    @property
    def result(self) -> dict[str, Any] | None:
        """result.json of a finished run, else None."""
        return self._read("result.json")

    def claim(self, config: dict[str, Any], source: Path, ignore: Iterable[str] = ()) -> list[str]:
        """Write config and versions into a new folder; in an old one, check that it is the same run.

        config: the resolved experiment. source: the config file. ignore: sections that may differ.
        A run that has saved nothing, such as one that its settings ended at once, gives way to another.
        Returns remarks, one per package whose version is no longer the one the run began with.
        Raises CheckpointError naming the fields that differ, old -> new.
        """
        if not self.leader:
            return []
        old, now = self._read("config.json"), versions()
        if old is None or not (self._saved or old == json.loads(json.dumps(config))):
            self.write("versions.json", now)
            if not (copy := self.path / "config.py").exists() or not copy.samefile(source):
                shutil.copyfile(source, copy)
            self.write("config.json", config)
            return []
        hidden = dict.fromkeys(ignore)
        if lines := differences(old | hidden, json.loads(json.dumps(config)) | hidden):
            raise CheckpointError(
                f"the run folder {self.path} holds a run with other settings (there -> here):\n  "
                + "\n  ".join(lines)
                + "\nuse those settings, choose another --workdir, or delete the folder"
            )
        began = self._read("versions.json") or now
        return [
            f"{name} is {now[name]}, the run began with {began.get(name)}: its bits may differ"
            for name in now
            if now[name] != began.get(name)
        ]

    @property
    def _saved(self) -> bool:
        """Whether there is a checkpoint, or the result of what needs none."""
        steps = (self.path / "checkpoints").glob("*")
        return any(step.name.isdecimal() for step in steps) or self.result is not None

    def write(self, name: str, value: Any) -> None:
        """Write JSON whole or not at all."""
        if not self.leader:
            return
        partial = self.path / f".{name}.partial"
        partial.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")
        partial.replace(self.path / name)

    def _read(self, name: str) -> Any:
        file = self.path / name
        return json.loads(file.read_text()) if file.is_file() else None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers, and the device."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # stjax run from a checkout
            found[name] = "not installed"
    devices = jax.devices()
    found["device"] = f"{len(devices)} x {devices[0].device_kind}"
    return found


def hardware() -> dict[str, Any]:
    """Where the run was made."""
    devices = jax.devices()
    return {
        "platform": jax.default_backend(),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
        "cpus": os.cpu_count(),
    }
