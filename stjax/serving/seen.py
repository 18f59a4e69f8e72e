"""The items that one user had, in little memory: a few ids as numbers, many as bits."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence

import numpy as np

WORD = 32


def words(rows: int) -> int:
    """Words of uint32 that hold one bit each of 0..rows - 1."""
    return -(-rows // WORD)


class Seen(Collection[int]):
    """A set of ids 0..rows - 1, exact: ascending int32 while they are few, uint32 (ceil(rows / 32),) from
    where that is smaller, bit v % 32 of word v // 32 for id v. It only grows, to at most rows / 8 bytes."""

    __slots__ = ("_bits", "_count", "_ids", "rows")

    def __init__(self, rows: int, ids: Sequence[int] | np.ndarray = ()) -> None:
        """ids: in any order, some perhaps twice. Raises ValueError for one that is out of range."""
        self.rows, self._count = rows, 0
        self._ids = array("i")
        self._bits: np.ndarray | None = None
        own = np.unique(np.asarray(ids, np.int64))
        if len(own) and not 0 <= own[0] <= own[-1] < rows:
            raise ValueError(f"ids {own[0]}..{own[-1]} are not within 0..{rows - 1}")
        self._count = len(own)
        if self._count <= words(rows):
            self._ids = array("i", own.astype(np.int32).tobytes())
        else:
            self._as_bits(own)

    def add(self, item: int) -> None:
        """Add an id, if it is not there. Raises ValueError where it is out of range."""
        if not 0 <= item < self.rows:
            raise ValueError(f"id {item} is not within 0..{self.rows - 1}")
        if item in self:
            return
        self._count += 1
        if self._bits is not None:
            self._bits[item // WORD] |= np.uint32(1 << item % WORD)
            return
        self._ids.insert(bisect_left(self._ids, item), item)
        if self._count > words(self.rows):
            self._as_bits(self.ids())

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, (int, np.integer)) or not 0 <= item < self.rows:
            return False
        if self._bits is not None:
            return bool(int(self._bits[item // WORD]) >> int(item % WORD) & 1)
        at = bisect_left(self._ids, item)
        return at < len(self._ids) and self._ids[at] == item

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids().tolist())

    def ids(self) -> np.ndarray:
        """int32, ascending; a copy."""
        if self._bits is None:
            return np.array(self._ids, np.int32)
        return np.flatnonzero(flags(self._bits)).astype(np.int32)

    def clear_in(self, bits: np.ndarray) -> None:
        """Clear these ids in uint32 (ceil(rows / 32),), in place."""
        if self._bits is not None:
            bits &= ~self._bits
            return
        own = self.ids()
        np.bitwise_and.at(bits, own // WORD, ~(np.uint32(1) << (own % WORD).astype(np.uint32)))

    @property
    def nbytes(self) -> int:
        """Bytes of the ids or bits."""
        return self._ids.itemsize * len(self._ids) if self._bits is None else self._bits.nbytes

    def _as_bits(self, ids: np.ndarray) -> None:
        own = np.zeros(words(self.rows) * WORD, bool)
        own[ids] = True
        self._bits, self._ids = packed(own), array("i")


def packed(flags: np.ndarray) -> np.ndarray:
    """bool (n,), n a multiple of 32, as bits: uint32 (n / 32,)."""
    return np.packbits(flags, bitorder="little").view("<u4").astype(np.uint32, copy=False)


def flags(bits: np.ndarray) -> np.ndarray:
    """The inverse of `packed`."""
    return np.unpackbits(bits.astype("<u4", copy=False).view(np.uint8), bitorder="little").astype(bool)
