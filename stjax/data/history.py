"""What targets may read: store rows of their users, oldest first, many targets at once."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from stjax.data.windows import ranges


@dataclass(frozen=True)
class History:
    """The readable rows of B targets: those of target b are index[first_b : stop_b].

    first, stop: int64 (B,). index: int64 store rows, ascending within a target; None: every row of the
    store, so that a history is a run of neighbouring rows and nothing is copied.
    """

    first: np.ndarray
    stop: np.ndarray
    index: np.ndarray | None = None

    @classmethod
    def of(cls, owner: np.ndarray, row: np.ndarray, targets: int) -> History:
        """From pairs (target in 0..targets-1, store row), each once, in any order."""
        stop = np.cumsum(np.bincount(owner, minlength=targets))
        return cls(np.concatenate([[0], stop[:-1]]), stop, row[np.lexsort((row, owner))])

    @property
    def count(self) -> np.ndarray:
        """Rows of each target, int64 (B,)."""
        return self.stop - self.first

    @property
    def offsets(self) -> np.ndarray:
        """Where each target's part of `row` begins, and the end: int64 (B+1,)."""
        return np.concatenate([[0], np.cumsum(self.count)])

    @functools.cached_property
    def owner(self) -> np.ndarray:
        """The target of each entry of `row`."""
        return self._entries[0]

    @functools.cached_property
    def row(self) -> np.ndarray:
        """The store rows of all targets, one history after the other, oldest first."""
        at = self._entries[1]
        return at if self.index is None else self.index[at]

    @functools.cached_property
    def position(self) -> np.ndarray:
        """The place of each entry of `row` within its history: 0 is the oldest."""
        return self._entries[1] - self.first[self.owner]

    @property
    def age(self) -> np.ndarray:
        """The place of each entry of `row` from the end of its history: 0 is the last."""
        return self.count[self.owner] - 1 - self.position

    @property
    def last(self) -> np.ndarray:
        """The last row of each target, -1 where there is none: int64 (B,)."""
        at = self.stop - 1
        if self.index is not None:
            at = self.index[at] if len(self.index) else np.zeros_like(at)
        return np.where(self.count > 0, at, -1)

    def tail(self, length: int) -> History:
        """The last `length` rows of each target."""
        return History(np.maximum(self.first, self.stop - length), self.stop, self.index)

    @functools.cached_property
    def _entries(self) -> tuple[np.ndarray, np.ndarray]:
        return ranges(self.first, self.stop)
