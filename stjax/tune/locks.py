"""Locks between the processes of a search, held by the kernel (flock): a killed process holds none."""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from optuna.storages.journal import JournalFileOpenLock


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Wait for the lock of that name and hold it."""
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Worker:
    """Says to other processes that this one lives, by a lock that it holds until it ends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._file = open(self._path, "a")  # noqa: SIM115 (held for the life of the worker)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.name = self._path.name

    def close(self) -> None:
        """The worker has ended."""
        self._path.unlink(missing_ok=True)
        self._file.close()


def lives(folder: Path, worker: str) -> bool:
    """Whether the worker of that name lives. The file of a dead one is removed."""
    path = folder / worker
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    path.unlink(missing_ok=True)
    return False


class JournalLock(JournalFileOpenLock):
    """Optuna's lock of a journal, by the kernel; a last line that a killed writer left half is cut off.

    Optuna's own is a file, which a killed process leaves behind for 30 seconds.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._held: IO[str] | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._held = open(self._journal.with_suffix(".lock"), "a")  # noqa: SIM115 (closed by `release`)
        fcntl.flock(self._held, fcntl.LOCK_EX)
        with open(self._journal, "rb+") as file:
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let others write."""
        if self._held is not None:
            self._held.close()
            self._held = None
