"""Protocols: which events train, which are targets, and which may only be read.

A protocol is a pure function from an event store to one label per row. The history of a target is
every earlier row of the same user, whatever its label, unless the protocol allows less; so a protocol
cannot leak a target's own future. It can leak other users' future into training, and says so where it
does. Only where a log has no order in time does a target read all training rows of its user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal
from typing import Protocol as StructuralType

import numpy as np

from stjax.data.store import EventStore
from stjax.errors import UserError
from stjax.events import FIRST, MISSING

TRAIN, VALID, TEST, HISTORY = 0, 1, 2, 3
PARTS = {VALID: "valid", TEST: "test"}

SPLIT_WORDS = {
    "train": TRAIN,
    "validation": VALID,
    "valid": VALID,
    "val": VALID,
    "test": TEST,
}


class ProtocolError(UserError):
    """A log that a protocol cannot split; the message names the cause and the remedy."""


@dataclass(frozen=True)
class Split:
    """One label per row of a store: as what the event may be a target.

    label: int8 (N,). TRAIN rows train (all but a user's first one are targets), VALID and TEST rows
    are targets, HISTORY rows are only read. name: the protocol and its parameters. notes: counts by
    cause.
    session: int64 (N,) in 0..N-1, or negative for none. With it a target reads, of the earlier rows of its
    user, only those that are TRAIN or of its own session; None: all earlier rows.
    ordered: False where the order of rows means nothing: a target reads all TRAIN rows of its user, before
    and after it, but for itself.
    part: int8 (N,), the part that each row is of (TRAIN, VALID, TEST), of HISTORY rows too where they are of
    one; None: the labels tell it.
    refit: the last part that trains, above TRAIN after `through`.
    Raises ProtocolError for sessions that do not fit the labels, or of a log without order.
    """

    label: np.ndarray
    name: str
    notes: Mapping[str, int | float | str]
    session: np.ndarray | None = None
    ordered: bool = True
    part: np.ndarray | None = None
    refit: int = TRAIN

    def __post_init__(self) -> None:
        if self.session is None:
            return
        if not self.ordered:
            raise ProtocolError(f"{self.name}: a session has earlier rows, so it needs ordered=True")
        if self.session.shape != self.label.shape or (self.session >= len(self.label)).any():
            raise ProtocolError(
                f"{self.name}: session must hold a number below {len(self.label)} for each of the "
                f"{len(self.label)} rows"
            )

    @property
    def history(self) -> str:
        """What a target may read, in words."""
        if not self.ordered:
            return "all training events of the user"
        earlier = "earlier events of the user"
        return earlier if self.session is None else f"{earlier}, of training or the own session"

    @property
    def parts(self) -> dict[int, str]:
        """Those of VALID and TEST that are held out, and their names."""
        return {part: word for part, word in PARTS.items() if part > self.refit}

    def targets(self, part: int) -> np.ndarray:
        """Rows of one part (VALID or TEST), int64, in the store's order."""
        return np.flatnonzero(self.label == part)

    def through(self, last: int, store: EventStore) -> Split:
        """The split for training again once validation has done its work.

        last: VALID, the rows of validation are TRAIN, whether they were targets or not; but those of items
        that training has not are HISTORY, so that the targets of TEST and their candidates are the same as
        before. TEST: every row is TRAIN.
        """
        if last == TEST:
            label = np.full_like(self.label, TRAIN)
        else:
            part, item = self.label if self.part is None else self.part, np.asarray(store.columns["item"])
            known = _occurs(item[self.label == TRAIN], store.schema.items)[item]
            label = np.where(part == last, np.where(known, TRAIN, HISTORY), self.label).astype(np.int8)
        name = f"{self.name}, trained through {PARTS[last]}"
        return replace(self, label=label, name=name, refit=last, notes={**self.notes, **_sizes(label)})


class Protocol(StructuralType):
    """What `LeaveOneOut`, `GlobalTemporal`, `TrajectoryLast`, `NextInTrip`, `RandomSplit` have in common."""

    @property
    def name(self) -> str: ...

    def __call__(self, store: EventStore) -> Split: ...


@dataclass(frozen=True)
class LeaveOneOut:
    """The last event of each user is TEST, the one before VALID, the rest TRAIN.

    Users with one or two events only train: a target taken from them would leave nothing to read,
    or nothing to train on. Training holds events that are later than other users' targets.
    """

    @property
    def name(self) -> str:
        return "leave-one-out"

    def __call__(self, store: EventStore) -> Split:
        """Label every row."""
        counts = np.diff(store.offsets)
        last = store.offsets[1:][counts >= 3] - 1
        label = np.full(len(store), TRAIN, np.int8)
        label[last] = TEST
        label[last - 1] = VALID
        notes = {
            "users_held_out": len(last),
            "users_only_training": int((counts < 3).sum()),
        }
        return Split(label, self.name, notes | _sizes(label))


@dataclass(frozen=True)
class GlobalTemporal:
    """The last `test` of all events by time are TEST, the `valid` before them VALID.

    The fractions fix two boundary times; events at a boundary all belong to the later part, so with
    ties the parts may be larger. A user's first event has nothing to be predicted from: HISTORY
    instead of a target.
    valid, test: fractions in (0, 1), with a sum below 1; ProtocolError otherwise.
    """

    valid: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        _check_fractions("GlobalTemporal", self.valid, self.test)

    @property
    def name(self) -> str:
        return f"global-temporal(valid={self.valid:g}, test={self.test:g})"

    def __call__(self, store: EventStore) -> Split:
        """Label every row. Raises ProtocolError where the log is empty."""
        if not len(store):
            raise ProtocolError(f"{store.path} holds no events: nothing can be split by time")
        time = np.asarray(store.columns["time"])
        boundaries = _boundaries(time, self.valid, self.test)
        label = np.searchsorted(boundaries, time, side="right").astype(np.int8)
        first, part = store.offsets[:-1], label.copy()
        late = first[label[first] != TRAIN]
        label[late] = HISTORY
        notes = {
            "valid_from": _iso(store, boundaries[0]),
            "test_from": _iso(store, boundaries[1]),
            "first_events_not_targets": len(late),
        }
        return Split(label, self.name, notes | _sizes(label), part=part)


@dataclass(frozen=True)
class TrajectoryLast:
    """The last check-in of each validation or test trajectory, as in the published NYC tables.

    Validation and test rows whose item or user does not occur in training are set aside first: they
    may be read, but are never targets and do not count as part of their trajectory. A trajectory
    with fewer than `shortest` remaining check-ins has no target. All other rows of validation and
    test are HISTORY.
    history: what a target may read of its user's earlier check-ins: "all", or of the "training" part and of
    the target's own trajectory and part alone, as in the published tables.
    trajectory, split: names of categorical columns of the store. The texts of `split` are train,
    test, and validation, valid or val; rows without one are HISTORY. shortest: at
    least 2. Public code derived from GETNext asks for two check-ins *before* the target within the
    trajectory, which is 3.

    Source: Yang et al., GETNext, SIGIR 2022, section 5.
    """

    trajectory: str = "trajectory"
    split: str = "split"
    shortest: int = 2
    history: Literal["all", "training"] = "all"

    def __post_init__(self) -> None:
        if self.shortest < 2:
            raise ProtocolError(
                f"TrajectoryLast shortest={self.shortest}: choose 2 or more, since the last check-in "
                "is predicted from at least one before it"
            )
        if self.history not in ("all", "training"):
            raise ProtocolError(f"TrajectoryLast history={self.history!r}: choose 'all' or 'training'")

    @property
    def name(self) -> str:
        history = "" if self.history == "all" else f", history={self.history}"
        return f"trajectory-last({self.trajectory}, {self.split}, shortest={self.shortest}{history})"

    def __call__(self, store: EventStore) -> Split:
        """Label every row. Raises ProtocolError for a missing column or an unknown split text."""
        trajectory, words = (
            categorical_ids(store, n, "TrajectoryLast") for n in (self.trajectory, self.split)
        )
        part = self._word_labels(store)[words]
        item, user = np.asarray(store.columns["item"]), np.asarray(store.columns["user"])
        held = np.flatnonzero((part == VALID) | (part == TEST))
        trains = part == TRAIN
        known_item = _occurs(item[trains], store.schema.items)[item[held]]
        known_user = _occurs(user[trains], store.schema.users)[user[held]]
        whole = trajectory[held] != MISSING
        rest = held[known_item & known_user & whole]
        # lexsort is stable: within a trajectory the rows stay in the store's order
        rest = rest[np.lexsort((trajectory[rest], part[rest], user[rest]))]
        key = np.stack([user[rest], part[rest], trajectory[rest]])
        starts = np.flatnonzero(np.r_[True, (key[:, 1:] != key[:, :-1]).any(0)][: len(rest)])
        sizes = np.diff(np.r_[starts, len(rest)])
        targets = rest[starts + sizes - 1][sizes >= self.shortest]
        label = part.copy()
        label[held] = HISTORY
        label[targets] = part[targets]
        notes: dict[str, int | float | str] = {"rows_without_split": int((words == MISSING).sum())}
        for code, word in PARTS.items():
            mine = part[held] == code
            notes |= {
                f"{word}_rows": int(mine.sum()),
                f"{word}_set_aside_unseen_item": int((mine & ~known_item).sum()),
                f"{word}_set_aside_unseen_user": int((mine & known_item & ~known_user).sum()),
                f"{word}_rows_without_trajectory": int((mine & known_item & known_user & ~whole).sum()),
                f"{word}_trajectories_too_short": int(
                    ((part[rest[starts]] == code) & (sizes < self.shortest)).sum()
                ),
            }
        session = None
        if self.history == "training":
            session = np.full(len(store), -1)
            inside = held[whole]
            key = np.stack([user[inside], part[inside], trajectory[inside]])
            session[inside] = np.unique(key, axis=1, return_inverse=True)[1].reshape(-1)
        return Split(label, self.name, notes | _sizes(label), session, part=part)

    def _word_labels(self, store: EventStore) -> np.ndarray:
        """The label of each id of the split column, int8."""
        words = store.vocabulary(self.split).to_list()
        if unknown := [word for word in words if word not in SPLIT_WORDS]:
            raise ProtocolError(
                f"{store.path}: column {self.split!r} holds {unknown[:5]}; "
                f"its texts must be among {list(SPLIT_WORDS)}"
            )
        return np.asarray([HISTORY] * FIRST + [SPLIT_WORDS[word] for word in words], np.int8)


@dataclass(frozen=True)
class NextInTrip:
    """Every visit of a held-out trip but its first is a target; the last trips by their start are held out.

    Of all trips, ordered by when they start, the last `test` are TEST and the `valid` before them VALID:
    the fractions fix two boundary times, at which trips belong to the later part. The first visit of a
    held-out trip has no trip yet to be predicted from: HISTORY. So are the visits of an earlier trip that
    goes on past a boundary, so that nothing is trained on, or selected on, that is later than the targets
    to come. Targets may read all earlier events of the user, in and before the trip.
    trip: name of a meta field; rows without one are TRAIN or HISTORY by their own time.
    valid, test: fractions in (0, 1), with a sum below 1; ProtocolError otherwise.
    """

    trip: str = "trip"
    valid: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        _check_fractions("NextInTrip", self.valid, self.test)

    @property
    def name(self) -> str:
        return f"next-in-trip({self.trip}, valid={self.valid:g}, test={self.test:g})"

    def __call__(self, store: EventStore) -> Split:
        """Label every row. Raises ProtocolError for a missing column and for a log without trips."""
        trip, user = categorical_ids(store, self.trip, "NextInTrip"), np.asarray(store.columns["user"])
        time = np.asarray(store.columns["time"])
        whole = trip != MISSING
        # A trip is of one user; rows are in the order of time within each.
        key = user.astype(np.int64)[whole] * store.schema[self.trip].size + trip[whole]
        _, first, of_row = np.unique(key, return_index=True, return_inverse=True)
        starts = time[whole][first]
        if not len(starts):
            raise ProtocolError(f"{store.path}: no row has a {self.trip!r}: nothing can be split by trips")
        boundaries = _boundaries(starts, self.valid, self.test)
        by_time = np.searchsorted(boundaries, time, side="right")
        part = by_time.copy()
        part[whole] = np.searchsorted(boundaries, starts, side="right")[of_row]
        label = np.where(by_time == part, part, HISTORY).astype(np.int8)
        label[~whole & (part != TRAIN)] = HISTORY
        of = label.copy()
        opening = np.zeros(len(store), bool)
        opening[np.flatnonzero(whole)[first]] = True
        label[opening & (part != TRAIN)] = HISTORY
        notes = {
            "trips": len(starts),
            "valid_from": _iso(store, boundaries[0]),
            "test_from": _iso(store, boundaries[1]),
            "rows_past_a_boundary": int((by_time != part).sum()),
            "first_visits_not_targets": int((opening & (part != TRAIN)).sum()),
            "rows_without_trip": int((~whole).sum()),
        }
        return Split(label, self.name, notes | _sizes(label), part=of)


@dataclass(frozen=True)
class RandomSplit:
    """Rows at random, for logs without times: a target reads all training rows of its user.

    valid, test: fractions in (0, 1), with a sum below 1; ProtocolError otherwise. seed: of the permutation.
    """

    valid: float = 0.1
    test: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _check_fractions("RandomSplit", self.valid, self.test)

    @property
    def name(self) -> str:
        return f"random-split(valid={self.valid:g}, test={self.test:g}, seed={self.seed})"

    def __call__(self, store: EventStore) -> Split:
        """Label every row."""
        rows = np.random.default_rng(self.seed).permutation(len(store))
        test, valid = round(self.test * len(store)), round(self.valid * len(store))
        label = np.full(len(store), TRAIN, np.int8)
        label[rows[:test]] = TEST
        label[rows[test : test + valid]] = VALID
        return Split(label, self.name, _sizes(label), ordered=False)


def _check_fractions(protocol: str, valid: float, test: float) -> None:
    for name, value in (("valid", valid), ("test", test)):
        if not 0 < value < 1:
            raise ProtocolError(f"{protocol} {name}={value}: choose a fraction between 0 and 1")
    if not valid + test < 1:
        raise ProtocolError(
            f"{protocol} valid={valid} and test={test} leave no training part: "
            "choose fractions with a sum below 1"
        )


def _boundaries(time: np.ndarray, valid: float, test: float) -> np.ndarray:
    """First times of the VALID and of the TEST part."""
    test_rank = len(time) - max(1, round(test * len(time)))
    valid_rank = max(0, test_rank - max(1, round(valid * len(time))))
    return np.partition(time, (valid_rank, test_rank))[[valid_rank, test_rank]]


def _iso(store: EventStore, second: int) -> str:
    return datetime.fromtimestamp(int(second) + store.schema.epoch, UTC).isoformat()


def categorical_ids(store: EventStore, name: str, needed_by: str) -> np.ndarray:
    """The ids of a categorical field of the events. Raises ProtocolError where the store has none such."""
    kinds = {f.name: f.kind for f in store.schema.fields if f.name in store.columns}
    if kinds.get(name) != "categorical":
        there = [column for column, kind in kinds.items() if kind == "categorical"]
        raise ProtocolError(
            f"{store.path} has no categorical column {name!r}, only {there}, and {needed_by} "
            "needs it: prepare the log again with this column as a meta field, or name another"
        )
    return np.asarray(store.columns[name])


def _occurs(ids: np.ndarray, size: int) -> np.ndarray:
    occurs = np.zeros(size, bool)
    occurs[ids] = True
    return occurs


def _sizes(label: np.ndarray) -> dict[str, int | float | str]:
    counts = np.bincount(label, minlength=4)
    names = ("train_rows", "valid_targets", "test_targets", "history_rows")
    return {name: int(count) for name, count in zip(names, counts, strict=True)}
