"""What a target may read, by looking at every row of the store; and splits of each kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from stjax.data.protocols import HISTORY, TEST, TRAIN, VALID, Split
from stjax.data.store import EventStore

Kind = Literal["all", "session", "unordered"]
KINDS: tuple[Kind, ...] = ("all", "session", "unordered")


@dataclass(frozen=True)
class Drawn:
    """Labels and sessions drawn at random, without any order in time: the hardest case for every reader.

    A number is a session of several users, as trajectories are that are numbered for each user.
    """

    kind: Kind
    seed: int = 0

    @property
    def name(self) -> str:
        return f"drawn({self.kind}, {self.seed})"

    def __call__(self, store: EventStore) -> Split:
        rng = np.random.default_rng(self.seed)
        label = rng.choice([TRAIN, VALID, TEST, HISTORY], len(store), p=[0.5, 0.2, 0.2, 0.1])
        split = Split(label.astype(np.int8), self.name, {})
        if self.kind == "session":
            return replace(split, session=rng.integers(-1, 3, len(store)))
        return replace(split, ordered=self.kind == "all")


def readable(store: EventStore, split: Split, row: int) -> list[int]:
    """The rows that a target at `row` may read, oldest first."""
    user, rows = store.columns["user"], []
    for r in range(len(store)):
        if user[r] != user[row] or r == row:
            continue
        trains, earlier = split.label[r] == TRAIN, r < row
        if not split.ordered:
            allowed = trains
        elif split.session is None:
            allowed = earlier
        else:
            together = split.session[r] == split.session[row] >= 0
            allowed = earlier and (trains or together)
        if allowed:
            rows.append(r)
    return rows
