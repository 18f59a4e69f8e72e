"""What the host keeps of every user: how far the state has read, what waits, what was seen, where it was."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np

from stjax.errors import UserError
from stjax.events import FIRST
from stjax.serving.codec import KEY_BYTES
from stjax.serving.seen import Seen

NEVER = -(2**62)
_time = itemgetter("time")


class CapacityError(UserError):
    """More users than there is room for."""


@dataclass
class Users:
    """The table of users, of a size that is fixed; users are numbered 0, 1, ... as they come.

    Events may come late by up to `lateness` seconds behind their user's newest: those wait in order, at
    most `waiting` a user, before the state reads them. What comes later than that, or before an event
    that the state has read, is refused: a state cannot forget.

    items: rows of the catalogue, those in reserve among them. seen_bytes: of all that is `seen`.
    keys: of each user's last `ids_kept` accepted events with an id, one behind the other.
    """

    size: int
    items: int
    lateness: int = 0
    waiting: int = 16
    ids_kept: int = 32
    number: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    pending: dict[int, list[np.ndarray]] = field(default_factory=dict)
    seen: dict[int, Seen] = field(default_factory=dict)
    seen_bytes: int = 0
    keys: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.newest = np.full(self.size, NEVER, np.int64)
        self.floor = np.full(self.size, NEVER, np.int64)
        self.utc_offset = np.zeros(self.size, np.int32)
        self.place = np.full((self.size, 2), np.nan, np.float32)
        self.placed = np.full(self.size, NEVER, np.int64)  # when they were there

    def __len__(self) -> int:
        """Number of users with events."""
        return len(self.names)

    def get(self, name: str) -> int | None:
        """A user's number; None for one without events."""
        return self.number.get(name)

    def add(self, name: str) -> int:
        """The number of a user, a new one where there is none. Raises CapacityError."""
        if (known := self.number.get(name)) is not None:
            return known
        if len(self.names) >= self.size:
            raise CapacityError(
                f"there is room for {self.size:,} users and user {name!r} is one more: start the engine with"
                " a larger `users`"
            )
        self.number[name] = number = len(self.names)
        self.names.append(name)
        return number

    def accepts(self, user: int, time: int) -> bool:
        """Whether an event of that time may still be read."""
        return time >= self.floor[user]

    def take(self, user: int, rows: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Accepted events, in the order of their times: what the state is to read now, in order."""
        merged = self.pending.pop(user, [])
        for row in rows:
            bisect.insort_right(merged, row, key=_time)  # behind those of the same time
            if row["time"] >= self.newest[user]:
                self.newest[user], self.utc_offset[user] = row["time"], row["utc_offset"]
            # Of a late event, too: what is known does not depend on the order of arrival.
            if row["time"] >= self.placed[user] and not np.isnan(row["place"]).any():
                self.placed[user], self.place[user] = row["time"], row["place"]
            if row["item"] >= FIRST:
                self._had(user, int(row["item"]))
        horizon = self.newest[user] - self.lateness
        due = max(bisect.bisect_right(merged, horizon, key=_time), len(merged) - self.waiting)
        now, later = merged[:due], merged[due:]
        if later:
            self.pending[user] = later
        self.floor[user] = max(horizon, now[-1]["time"] if now else NEVER, self.floor[user])
        return now

    def knows(self, user: int, key: bytes) -> bool:
        """Whether an event with that key is among the last that `remember` was told."""
        own = self.keys.get(user, b"")
        at = own.find(key)
        while at % KEY_BYTES and at != -1:  # parts of two others
            at = own.find(key, at + 1)
        return at != -1

    def remember(self, user: int, keys: bytes) -> None:
        """Keys of events that were accepted, the last one last."""
        own = self.keys.get(user, b"") + keys
        if kept := own[max(0, len(own) - KEY_BYTES * self.ids_kept) :]:
            self.keys[user] = kept

    def restore_seen(self, user: int, items: np.ndarray) -> None:
        """Set what a user without any has seen."""
        self.seen[user] = own = Seen(self.items, items)
        self.seen_bytes += own.nbytes

    def _had(self, user: int, item: int) -> None:
        own = self.seen.get(user)
        if own is None:
            own = self.seen[user] = Seen(self.items)
        before = own.nbytes
        own.add(item)
        self.seen_bytes += own.nbytes - before
