"""The journal: acknowledged events as records of bytes, numbered 1, 2, ..., in segment files of one folder.

NUMBER.segment     the records from that number on, see `segments`; the last one is the active one
.lock              held by the process that has the journal open, with its id
.segment.partial   a segment that is being made
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stjax.serving.durable import make_folder, sync_folder
from stjax.serving.segments import (
    SEGMENT_BYTES,
    JournalError,
    Segment,
    frame_bytes,
    new_frame,
    new_salt,
    new_segment,
    segment_name,
)

Record = bytes  # within the class `bytes` is its property


class Journal:
    """An append-only journal, held by this process; one thread at a time may use it.

    sync: every `append` is durable when it returns. Without, it survives the end of the process but not a
    loss of power, after which the journal may have lost its end, or be refused as damaged.
    segment_bytes: a segment is followed by a new one before it gets larger, unless one append alone is.
    last: sequence number of the last record; 0 where there has never been one.
    repaired_bytes: cut off when the journal was opened: the frame that a killed writer left incomplete.

    The lock is the kernel's (flock), so a killed process holds nothing.
    """

    def __init__(self, folder: Path, *, sync: bool = True, segment_bytes: int = 64 << 20) -> None:
        """Open the journal of the folder, or begin one where there is none.

        Only the active segment is checked; the others are when they are read.

        Raises JournalError where the folder cannot be used, where another process (which is named) has the
        journal open, and where the active segment is damaged elsewhere than at its end.
        """
        self.folder = folder
        self.last = 0
        self.repaired_bytes = 0
        self._sync = sync
        self._segment_bytes = segment_bytes
        self._refusal = ""  # why nothing can be appended
        self._file = -1  # descriptor of the active segment
        self._older: list[tuple[int, int]] = []  # first sequence number and bytes of the other segments
        self._first = self._size = self._salt = 0  # of the active segment
        try:
            make_folder(folder)
            self._lock = open(folder / ".lock", "a+")  # noqa: SIM115 (held while the journal is open)
        except OSError as error:
            raise self._failed("use", error, "choose another folder") from error
        try:
            self._take_lock()
            self._open()
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                raise self._failed("open", error, "mend that and open it again") from error
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.close()

    def close(self) -> None:
        """Release the journal. Raises JournalError where, without `sync`, the end cannot be made durable."""
        if self._file == -1:
            return
        try:
            if not self._sync:
                os.fsync(self._file)
        except OSError as error:
            raise self._failed("write", error, "its last records may be lost when the power is") from error
        finally:
            self._refusal = self._refusal or "it is closed"
            self._release()

    def sync(self) -> None:
        """Make durable what is not yet, without the `sync` of every append. Raises JournalError."""
        if self._sync or self._file == -1:
            return
        try:
            self._sync_file()
        except OSError as error:
            raise self._failed("write", error, f"{self._refusal}: open it again") from error

    @property
    def bytes(self) -> int:
        """Size of all segments."""
        return sum(size for _, size in self._older) + self._size

    def append(self, records: Sequence[Record]) -> int:
        """Append all of the records or none; returns the sequence number of the last one.

        Raises JournalError where they cannot be written; the journal is then as before. After some failures
        (the message says so) what the disk holds is not known: the journal then takes no further records
        until it is opened again, and records whose append failed may be found in it.
        """
        if self._refusal:
            raise JournalError(f"the journal {self.folder} takes no records: {self._refusal}; open it again")
        if not records:
            return self.last
        if self.last >= self._first and self._size + frame_bytes(records) > self._segment_bytes:
            self._end_segment()
        frame = new_frame(self._salt, self.last + 1, records)
        try:
            _write(self._file, frame)
            if self._sync:
                self._sync_file()
            self._size, self.last = self._size + len(frame), self.last + len(records)
        except BaseException as error:  # of an interrupt, too, half a frame would remain
            self._undo()
            if isinstance(error, OSError):
                raise self._not_appended(error) from error
            raise
        return self.last

    def read(self, after: int = 0) -> Iterator[tuple[int, Record]]:
        """The records behind that sequence number, up to the present last one, with theirs.

        Raises JournalError where `after` is not in the journal, or records behind it are discarded, missing
        or damaged.
        """
        firsts = [*(first for first, _ in self._older), self._first, self.last + 1]
        if after > self.last:
            raise JournalError(
                f"the journal {self.folder} ends with record {self.last}, those after {after} are asked for: "
                "it is of another server, or its end was lost; bring the right journal back"
            )
        if after + 1 < firsts[0]:
            raise JournalError(
                f"the journal {self.folder} begins with record {firsts[0]}: records {after + 1} to "
                f"{firsts[0] - 1} were discarded; start from a snapshot at {firsts[0] - 1} or later"
            )
        return self._read(after, firsts, self._size)

    def discard(self, upto: int) -> None:
        """Remove the segments, except for the active one, whose records are all <= upto.

        Raises JournalError where a segment cannot be removed; it and those behind it are then kept.
        """
        while self._older:
            following = self._older[1][0] if len(self._older) > 1 else self._first
            if following > upto + 1:
                return
            try:
                (self.folder / segment_name(self._older[0][0])).unlink(missing_ok=True)
                del self._older[0]
                sync_folder(self.folder)  # each by itself: a gap between segments would count as damage
            except OSError as error:
                raise self._failed("discard records of", error, "the rest of it is as before") from error

    def _read(self, after: int, firsts: Sequence[int], size: int) -> Iterator[tuple[int, Record]]:
        """firsts: the first sequence number of each segment, and the one behind the last record."""
        for k, (first, following) in enumerate(itertools.pairwise(firsts)):
            if following <= after + 1:
                continue
            active = k == len(firsts) - 2  # it may have grown since, so only `size` bytes of it are read
            segment = Segment(self.folder / segment_name(first), size if active else None)
            found = first
            for frame in segment.frames(active=False):
                for number, record in enumerate(segment.records(frame), frame.first):
                    if number > after:
                        yield number, record
                found += frame.records
            if found != following:
                raise JournalError(
                    f"records {found} to {following - 1} are missing behind the segment {segment.path}: "
                    "bring the journal's files back, or start from a snapshot behind them"
                )

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            pid = self._lock.read().strip() or "unknown"
            raise JournalError(
                f"the journal {self.folder} is in use by process {pid}; end it or choose another folder"
            ) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _open(self) -> None:
        names = [p.name for p in self.folder.iterdir() if re.fullmatch(r"\d{20}\.segment", p.name)]
        if not names:
            self._begin_segment(1)
            return
        *older, active = sorted(names)
        self._older = [(int(name[:20]), (self.folder / name).stat().st_size) for name in older]
        segment = Segment(self.folder / active)
        self._first, self._salt = segment.first, segment.salt
        self._size, self.last = SEGMENT_BYTES, segment.first - 1
        for frame in segment.frames(active=True):
            self._size, self.last = frame.end, self.last + frame.records
        self._file = os.open(segment.path, os.O_WRONLY | os.O_APPEND)
        self.repaired_bytes = len(segment) - self._size
        if self.repaired_bytes:
            os.ftruncate(self._file, self._size)
        # A killed writer may have left whole frames and names of segments that are not yet on the disk.
        os.fsync(self._file)
        sync_folder(self.folder)

    def _end_segment(self) -> None:
        """Begin the next segment. Raises JournalError."""
        try:
            if not self._sync:  # so that only the active segment can end in a torn frame
                self._sync_file()
            file, ended = self._file, (self._first, self._size)
            self._begin_segment(self.last + 1)
        except OSError as error:
            raise self._not_appended(error) from error
        self._older.append(ended)
        os.close(file)

    def _begin_segment(self, first: int) -> None:
        """Make a new segment, whole from the moment it has its name, the active one. Raises OSError."""
        partial, path, salt = self.folder / ".segment.partial", self.folder / segment_name(first), new_salt()
        file = os.open(partial, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            _write(file, new_segment(salt, first))
            os.fsync(file)
            partial.rename(path)
            sync_folder(self.folder)
        except BaseException:
            os.close(file)
            try:
                # Were the new segment there, records could not go on in the old one.
                if path.exists():
                    self._refusal = "which of its segments are on the disk is not known"
                for made in (path, partial):
                    made.unlink(missing_ok=True)
            except OSError as error:
                self._refusal = f"a segment that was begun could not be removed ({error.strerror})"
            raise
        self._file, self._first, self._size, self._salt = file, first, SEGMENT_BYTES, salt

    def _sync_file(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            # The kernel may have given up on the pages and yet hold them as clean: a second fsync would
            # succeed without them.
            self._refusal = f"after a failed fsync ({error.strerror}) what is on the disk is not known"
            raise

    def _undo(self) -> None:
        """Cut off what a failed append has written."""
        try:
            os.ftruncate(self._file, self._size)
        except OSError as error:
            self._refusal = f"half of a failed append could not be removed ({error.strerror})"

    def _release(self) -> None:
        if self._file != -1:
            os.close(self._file)
            self._file = -1
        self._lock.close()

    def _not_appended(self, error: OSError) -> JournalError:
        if self._refusal:
            return self._failed("append to", error, f"{self._refusal}: open it again")
        return self._failed("append to", error, "it is as before: free space on its disk and append again")

    def _failed(self, what: str, error: OSError, remedy: str) -> JournalError:
        return JournalError(f"cannot {what} the journal {self.folder}: {error.strerror}; {remedy}")


def _write(file: int, content: Record) -> None:
    rest = memoryview(content)
    while rest:  # a disk that is nearly full takes a part
        rest = rest[os.write(file, rest) :]
