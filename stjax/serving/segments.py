"""The format of a journal's segment files: what is written, and what of it can be believed.

    segment    magic "stjaxjrn", version, salt, sequence number of the first record, CRC32 of these
    frame      magic "frm1", CRC32 of what follows here, first sequence number, bytes of the body,
               number of records, CRC32 of the body
    body       each record: its length, its bytes

All numbers are little-endian. A frame is what one `Journal.append` wrote: all of it is valid, or none.

A frame that is not valid is either torn (its writer was killed or the power went) or damaged. It is torn
where nothing was written behind it, for the next frame is begun only when this one is durable. Behind it
there may be zeros: blocks that the file system had allotted but not filled. Frames are found behind a
frame of unknown length by their magic and checksum; every checksum begins with the segment's random salt,
so that a record with the image of a frame in it is never taken for one.

Damage within the very last frame looks like a torn frame. Nothing in the file can tell them apart.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from stjax.errors import UserError

VERSION = 1
_SEGMENT = struct.Struct("<8sIIQ")
_FRAME = struct.Struct("<QQII")
_NUMBER = struct.Struct("<I")
_SEGMENT_MAGIC, _FRAME_MAGIC = b"stjaxjrn", b"frm1"
SEGMENT_BYTES = _SEGMENT.size + _NUMBER.size  # of a segment without frames
_HEADER_BYTES = len(_FRAME_MAGIC) + _NUMBER.size + _FRAME.size


class JournalError(UserError):
    """A journal that cannot be read or written; the message names the file and the remedy."""


class Frame(NamedTuple):
    """What a frame holds, records first, first + 1, ..., and its place in the segment."""

    first: int
    records: int
    body: int  # where it begins, in bytes from the segment's start
    end: int
    checksum: int


def new_salt() -> int:
    """Where a segment's checksums begin."""
    return int.from_bytes(os.urandom(_NUMBER.size))


def new_segment(salt: int, first: int) -> bytes:
    """A segment without frames, whose first record is to have that sequence number."""
    fields = _SEGMENT.pack(_SEGMENT_MAGIC, VERSION, salt, first)
    return fields + _NUMBER.pack(zlib.crc32(fields))


def frame_bytes(records: Sequence[bytes]) -> int:
    """Size of the frame of these records."""
    return _HEADER_BYTES + sum(_NUMBER.size + len(record) for record in records)


def new_frame(salt: int, first: int, records: Sequence[bytes]) -> bytes:
    """The frame of these records, which get the sequence numbers first, first + 1, ...

    Raises JournalError where a record has 4 GiB or more, or where there are as many records.
    """
    if max(len(records), *map(len, records)) >= 1 << 32:
        raise JournalError("a record of 4 GiB or more cannot be journaled; divide it")
    body = b"".join(part for record in records for part in (_NUMBER.pack(len(record)), record))
    fields = _FRAME.pack(first, len(body), len(records), zlib.crc32(body, salt))
    return _FRAME_MAGIC + _NUMBER.pack(zlib.crc32(fields, salt)) + fields + body


class Segment:
    """A segment file's content, in memory."""

    def __init__(self, path: Path, size: int | None = None) -> None:
        """Read the file, or its first `size` bytes.

        Raises JournalError where it cannot be read or does not begin as a segment of its name.
        """
        self.path = path
        try:
            with open(path, "rb") as file:
                self._data = file.read(-1 if size is None else size)
        except OSError as error:
            raise JournalError(
                f"cannot read the journal's segment {path}: {error.strerror}; bring the file back"
            ) from error
        if len(self._data) < SEGMENT_BYTES or not self._data.startswith(_SEGMENT_MAGIC):
            raise self._damaged(0, "it does not begin as a segment")
        _, version, self.salt, self.first = _SEGMENT.unpack_from(self._data)
        if version != VERSION:
            raise JournalError(f"{path} has journal format {version}, this version reads {VERSION}")
        if self._number(_SEGMENT.size) != zlib.crc32(self._data[: _SEGMENT.size]):
            raise self._damaged(0, "the checksum of its beginning does not hold")
        if path.name != segment_name(self.first):
            raise JournalError(
                f"{path} begins with record {self.first}: give it its name {segment_name(self.first)} back"
            )

    def __len__(self) -> int:
        """Bytes read."""
        return len(self._data)

    def frames(self, active: bool) -> Iterator[Frame]:
        """The valid frames in order; in the active segment they may end in a torn one, which is left out.

        Raises JournalError, naming the byte, where a frame is damaged.
        """
        at, first = SEGMENT_BYTES, self.first
        while at < len(self._data):
            frame = self._frame(at)
            if frame is None or not self._holds(frame):
                if active and not self._goes_on_behind(at, frame, first):
                    return
                raise self._damaged(at, f"the checksum of the frame with record {first} does not hold")
            if frame.first != first:
                raise self._damaged(at, f"record {first} is expected, {frame.first} is there")
            yield frame
            at, first = frame.end, first + frame.records

    def records(self, frame: Frame) -> Iterator[bytes]:
        """The records of one of the `frames`."""
        at = frame.body
        for _ in range(frame.records):
            start = at + _NUMBER.size
            at = start + self._number(at)
            yield self._data[start:at]

    def _frame(self, at: int) -> Frame | None:
        """The frame whose header is there, if the header is valid; its body may not be."""
        body = at + _HEADER_BYTES
        if body > len(self._data) or not self._data.startswith(_FRAME_MAGIC, at):
            return None
        checksum, fields = at + len(_FRAME_MAGIC), body - _FRAME.size
        if self._number(checksum) != zlib.crc32(self._data[fields:body], self.salt):
            return None
        first, size, records, of_body = _FRAME.unpack_from(self._data, fields)
        return Frame(first, records, body, body + size, of_body)

    def _holds(self, frame: Frame) -> bool:
        if frame.end > len(self._data):
            return False
        return zlib.crc32(memoryview(self._data)[frame.body : frame.end], self.salt) == frame.checksum

    def _goes_on_behind(self, at: int, frame: Frame | None, first: int) -> bool:
        """Whether anything was written behind the invalid frame there.

        frame: what is known of it. first: the sequence number of its first record.
        """
        if frame is not None:  # its length is known
            return self._data.count(0, frame.end) < len(self._data) - frame.end
        while (at := self._data.find(_FRAME_MAGIC, at + 1)) != -1:
            later = self._frame(at)
            if later is not None and later.first > first:
                return True
        return False

    def _number(self, at: int) -> int:
        return _NUMBER.unpack_from(self._data, at)[0]

    def _damaged(self, at: int, why: str) -> JournalError:
        return JournalError(
            f"the journal's segment {self.path} is damaged at byte {at}: {why}. "
            "Nothing was changed or deleted: bring the file back from a copy, or begin a new journal in "
            "another folder"
        )


def segment_name(first: int) -> str:
    """The name of the segment whose first record has that sequence number."""
    return f"{first:020d}.segment"
