"""A disk that fails: what was not acknowledged leaves no trace, and the journal goes on or refuses."""

from __future__ import annotations

import errno
import itertools
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stjax.serving.journal import Journal, JournalError
from tests import journals
from tests.journals import content, records

no_fsync, folder = journals.no_fsync, journals.folder


class Disk:
    """Lets a call of `os` fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def fail(
        self, name: str, number: int, skip: int = 0, before: Callable[..., Any] = lambda *_: None
    ) -> None:
        """skip: so many calls are as usual. before: what a failing one does first, with its arguments."""
        call, left = getattr(os, name), itertools.count(skip, -1)

        def failing(*arguments: Any, **options: Any) -> Any:
            if next(left) > 0:
                return call(*arguments, **options)
            before(*arguments)
            raise OSError(number, os.strerror(number))

        self._patch.setattr(os, name, failing)

    def mend(self) -> None:
        """Let all calls be as usual."""
        self._patch.undo()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("part", [0, 1, 31, 32, 40])
def test_a_full_disk(folder: Path, disk: Disk, part: int) -> None:
    """A part is written, then no more: the journal is as it was, and goes on once there is space."""
    write = os.write
    with Journal(folder) as journal:
        journal.append([b"first"])
        before = content(folder)
        disk.fail("write", errno.ENOSPC, before=lambda file, rest: write(file, rest[:part]))
        for _ in range(2):
            with pytest.raises(JournalError, match=r"No space left on device.*as before: free space"):
                journal.append([b"second", b"third"])
            assert (journal.last, content(folder)) == (1, before)
        disk.mend()
        assert journal.append([b"second", b"third"]) == 3
        assert records(journal) == [b"first", b"second", b"third"]
    with Journal(folder) as journal:
        assert (journal.repaired_bytes, journal.last) == (0, 3)


def test_a_limit_on_file_size(folder: Path) -> None:
    """The kernel itself writes a part of the frame and then refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(folder) as journal:
        journal.append([b"first"])
        before = content(folder)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (journal.bytes + 1000, hard))
            with pytest.raises(JournalError, match="File too large"):
                journal.append([bytes(5000)])
            assert (journal.last, content(folder)) == (1, before)
            assert journal.append([b"small"]) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert journal.append([bytes(5000)]) == 3
        assert records(journal) == [b"first", b"small", bytes(5000)]


@pytest.mark.parametrize("call", ["write", "rename", "open"])
def test_no_space_for_a_new_segment(folder: Path, disk: Disk, call: str) -> None:
    with Journal(folder, segment_bytes=1) as journal:
        journal.append([b"first"])
        before = content(folder)
        disk.fail(call, errno.ENOSPC)
        with pytest.raises(JournalError, match="No space left on device"):
            journal.append([b"second"])
        disk.mend()
        assert (journal.last, content(folder)) == (1, before)
        assert journal.append([b"second"]) == 2
        assert records(journal) == [b"first", b"second"]


def test_half_a_frame_that_cannot_be_removed(folder: Path, disk: Disk) -> None:
    write = os.write
    with Journal(folder) as journal:
        journal.append([b"first"])
        disk.fail("write", errno.EIO, before=lambda file, rest: write(file, rest[:40]))
        disk.fail("ftruncate", errno.EIO)
        with pytest.raises(JournalError, match="half of a failed append could not be removed"):
            journal.append([b"second"])
        disk.mend()
        with pytest.raises(JournalError, match=r"takes no records: half of .*; open it again"):
            journal.append([b"second"])
        assert records(journal) == [b"first"]
    with Journal(folder) as journal:
        assert journal.repaired_bytes == 40
        assert journal.append([b"second"]) == 2


@pytest.mark.parametrize("segment_bytes", [1, 1000])
def test_a_failed_fsync(folder: Path, disk: Disk, segment_bytes: int) -> None:
    """What is on the disk is not known, and a second fsync would not tell: no record is taken any more."""
    with Journal(folder, segment_bytes=segment_bytes) as journal:
        journal.append([b"first"])
        before = content(folder)
        # With one record in a segment, of the new segment's file, then of its name: this one fails.
        disk.fail("fsync", errno.EIO, skip=1 if segment_bytes == 1 else 0)
        with pytest.raises(JournalError, match=r"Input/output error.*not known: open it again"):
            journal.append([b"second"])
        disk.mend()
        with pytest.raises(JournalError, match=r"takes no records: .* not known"):
            journal.append([b"second"])
        assert records(journal) == [b"first"]
        assert content(folder) == before
    with Journal(folder) as journal:
        assert records(journal) == [b"first"]
        assert journal.append([b"second"]) == 2
