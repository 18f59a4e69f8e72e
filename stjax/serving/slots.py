"""Where the states of users are: in slots on the device, or, the least recently used, in host memory."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from stjax.serving.programs import Programs, States, fitting

NOWHERE = -1


class Slots:
    """The states of at most `users` users, `capacity` of them on the device; both are allocated at the start.

    The host's arrays have a row for every user. The system gives memory to those rows alone that are used.
    """

    def __init__(self, programs: Programs, users: int) -> None:
        self._programs, self.capacity = programs, programs.capacity
        # Bound to the device from the start, as what programs return is: else the first call compiles again.
        self.states: States = jax.tree.map(lambda x: jax.device_put(x, x.sharding), programs.initial())
        shapes = jax.eval_shape(programs.initial)
        self._host = jax.tree.map(lambda x: np.zeros((users, *x.shape[1:]), x.dtype), shapes)
        self.slot = np.full(users, NOWHERE, np.int64)  # of each user
        self._owner = np.full(self.capacity, NOWHERE, np.int64)  # of each slot
        self._used = np.zeros(self.capacity, np.int64)  # when: the number of the call
        self._changed = np.zeros(self.capacity, bool)  # since it was on the host
        self._stored = np.zeros(users, bool)  # whether the host has a state of the user
        self._now = 0
        self.evictions = 0

    def source(self, users: Sequence[int] | np.ndarray, batch: int) -> np.ndarray:
        """The slots from which to read the users' states, int32 (batch,), filled up with the cold one, which
        is also that of user NOWHERE.

        Users on the host come to the device; of the users on the device, the least recently used must give
        way. At most `capacity` users at once.
        """
        own = np.asarray(users, np.int64)
        some = own[own != NOWHERE]
        self._now += 1
        here = self.slot[some] != NOWHERE
        self._used[self.slot[some[here]]] = self._now
        self._bring(np.unique(some[~here & self._stored[some]]))
        found = self._programs.cold(batch)
        slot = np.where(own == NOWHERE, NOWHERE, self.slot[own])
        found[: len(own)] = np.where(slot == NOWHERE, self.capacity, slot)
        return found

    def target(self, users: Sequence[int] | np.ndarray, batch: int) -> np.ndarray:
        """The slots into which to write the users' states, int32 (batch,), filled up with none; new users get
        one. To be called after `source` of the same users."""
        own = np.asarray(users, np.int64)
        self._settle(own[self.slot[own] == NOWHERE])
        found = self._programs.nowhere(batch)
        found[: len(own)] = self.slot[own]
        self._changed[self.slot[own]] = True
        return found

    @property
    def known(self) -> np.ndarray:
        """bool (users,), who has a state, here or there."""
        return self._stored | (self.slot != NOWHERE)

    def rows(self, users: Sequence[int] | np.ndarray) -> States:
        """The states of some users as NumPy arrays, wherever they are; zeros for one that has none."""
        own = np.asarray(users, np.int64)
        slot = self.slot[own]
        there = np.flatnonzero((slot != NOWHERE) & self._changed[np.maximum(slot, 0)])
        self._store(slot[there])
        return jax.tree.map(lambda x: x[own], self._host)

    def load(self, users: Sequence[int] | np.ndarray, rows: States) -> None:
        """Set the states of users that are not on the device."""
        own = np.asarray(users, np.int64)
        if (self.slot[own] != NOWHERE).any():
            raise ValueError("states of users on the device cannot be set")
        for mine, theirs in zip(jax.tree.leaves(self._host), jax.tree.leaves(rows), strict=True):
            mine[own] = theirs
        self._stored[own] = True

    def _bring(self, users: np.ndarray) -> None:
        """Users from the host to the device."""
        self._settle(users)
        slots = self.slot[users]
        for part in _parts(len(users), self._programs.shapes.batches):
            size = fitting(self._programs.shapes.batches, len(part))
            where = self._programs.nowhere(size)
            where[: len(part)] = slots[part]
            row = np.zeros(size, np.int64)
            row[: len(part)] = users[part]
            rows = jax.tree.map(lambda x, row=row: x[row], self._host)
            self.states = self._programs.put(self.states, where, rows)
        self._changed[slots] = False

    def _settle(self, users: np.ndarray) -> None:
        """Give users slots; who gives way goes to the host."""
        if not len(users):
            return
        order = np.argpartition(self._used, len(users) - 1)[: len(users)]
        order = order[np.argsort(self._used[order], kind="stable")]
        if (self._used[order] == self._now).any():
            raise ValueError(f"more than the {self.capacity} users that the device has slots for, at once")
        gone = order[self._owner[order] != NOWHERE]
        self._store(gone[self._changed[gone]])
        self.slot[self._owner[gone]] = NOWHERE
        self.evictions += len(gone)
        self._owner[order], self.slot[users] = users, order
        self._used[order], self._changed[order] = self._now, False

    def _store(self, slots: np.ndarray) -> None:
        """Copy slots to the host's rows of their users."""
        for part in _parts(len(slots), self._programs.shapes.batches):
            size = fitting(self._programs.shapes.batches, len(part))
            where = self._programs.cold(size)
            where[: len(part)] = slots[part]
            rows = jax.device_get(self._programs.fetch(self.states, where))
            users = self._owner[slots[part]]
            for mine, theirs in zip(jax.tree.leaves(self._host), jax.tree.leaves(rows), strict=True):
                mine[users] = theirs[: len(part)]
            self._stored[users] = True
        self._changed[slots] = False


def _parts(size: int, batches: tuple[int, ...]) -> list[np.ndarray]:
    """0..size - 1 in pieces of at most the largest batch."""
    return [np.arange(at, min(at + batches[-1], size)) for at in range(0, size, batches[-1])]
