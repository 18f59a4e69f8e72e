"""What the page shows and the engine does not keep: where items are, and what users did last."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from stjax.data.store import EventStore
from stjax.errors import ConfigError
from stjax.events import FIRST
from stjax.serving import Event
from stjax.serving.load import Trained


class Recent:
    """The last events of users: of the log, and those that came since.

    each: events kept of one user. users: with new events that are kept; those who came longest ago go first.
    log: the events of a user of the log, oldest first.
    """

    def __init__(
        self, log: Callable[[str], Sequence[Event]] = lambda user: (), each: int = 50, users: int = 100_000
    ) -> None:
        self._log, self._each, self._users = log, each, users
        self._new: OrderedDict[str, deque[Event]] = OrderedDict()
        self._out: TextIO | None = None

    def add(self, events: Iterable[Event]) -> None:
        """Events that were accepted."""
        events = list(events)
        self._remember(events)
        with contextlib.suppress(OSError):  # the engine has the events; it tells of a full disk
            self._write(events)

    def _remember(self, events: Iterable[Event]) -> None:
        for event in events:
            self._new.setdefault(event.user, deque(maxlen=self._each)).append(event)
            self._new.move_to_end(event.user)
        while len(self._new) > self._users:
            self._new.popitem(last=False)

    def of(self, user: str) -> list[Event]:
        """At most `each` events, by time."""
        events = [*self._log(user), *self._new.get(user, ())]
        return sorted(events, key=lambda event: event.time)[-self._each :]

    def keep(self, file: Path, most: int = 1 << 26) -> None:
        """Read what an earlier process kept in this file, however that one ended, and write there what is
        added from now on. Of more than `most` bytes it takes the place of the file of older events.
        """
        self._file, self._older, self._most = file, file.with_suffix(".older"), most
        for kept in (self._older, self._file):
            if kept.is_file():
                self._remember(filter(None, map(_event, kept.read_bytes().splitlines())))
        self._out = file.open("a")
        self._out.write("\n")  # after a line that was cut

    def _write(self, events: Iterable[Event]) -> None:
        if self._out is None:
            return
        self._out.writelines(f"{json.dumps(dataclasses.astuple(event))}\n" for event in events)
        self._out.flush()
        if self._out.tell() > self._most:
            self._out.close()
            self._file.replace(self._older)
            self._out = self._file.open("a")

    def close(self) -> None:
        """Write no more."""
        if self._out is not None:
            self._out.close()
            self._out = None


def _event(line: bytes) -> Event | None:
    """Of a line of the file; None of one that was cut."""
    try:
        user, item, time, offset, place, *more = json.loads(line)
    except ValueError:
        return None
    return Event(user, item, time, offset, place and tuple(place), *more)


@dataclass(frozen=True)
class City:
    """ids: of items. places: (V, 2) degrees, NaN where unknown. kind: (V,) index in `kinds` or -1.
    reads: what of a request the model reads, such as "time"."""

    ids: Sequence[str]
    places: np.ndarray
    kind: np.ndarray
    kinds: Sequence[str] = ()
    reads: Sequence[str] = ()
    recent: Recent = field(default_factory=Recent)

    @classmethod
    def of(cls, trained: Trained, history: bool = True, kind: str | None = None) -> City:
        """Of a run, or an export. history: whether users have the events of the run's log. kind: the
        categorical item field that colours the map, the first one where it is None."""
        fields = trained.catalogue.items.categorical
        if kind is not None and kind not in fields:
            raise ConfigError(f"kind={kind!r} is no categorical item field; the log has {sorted(fields)}")
        names = [f.name for f in trained.catalogue.schema.select("item", "categorical")]
        chosen = kind or next(iter(names), None)
        items = slice(FIRST, FIRST + len(trained.vocabulary["item"].texts))
        none = np.full(len(trained.vocabulary["item"].texts), -1)
        return cls(
            ids=trained.vocabulary["item"].texts,
            places=np.asarray(trained.catalogue.place)[items],
            kind=none if chosen is None else np.maximum(np.asarray(fields[chosen])[items] - FIRST, -1),
            kinds=() if chosen is None else trained.vocabulary[chosen].texts,
            reads=tuple(trained.model.known),
            recent=Recent(Log(trained.dataset.store)) if history and trained.dataset else Recent(),
        )

    def items(self) -> dict[str, Any]:
        """For the map: columns of equal length."""
        places = np.round(self.places.astype(float), 5).tolist()
        return {
            "id": list(self.ids),
            "place": [None if math.isnan(place[0]) else place for place in places],
            "kind": self.kind.tolist(),
            "kinds": list(self.kinds),
        }


class Log:
    """The last events of each user of a store, read when they are asked for."""

    def __init__(self, store: EventStore, each: int = 50) -> None:
        self._store, self._each = store, each
        self._items = store.vocabulary("item").to_list()
        self._users = {name: k for k, name in enumerate(store.vocabulary("user").to_list())}

    def __call__(self, user: str) -> list[Event]:
        """Oldest first; none of a user who is not in the log."""
        if (k := self._users.get(user)) is None:
            return []
        first, last = self._store.offsets[k : k + 2].tolist()
        return [self._event(user, row) for row in range(max(first, last - self._each), last)]

    def _event(self, user: str, row: int) -> Event:
        columns = self._store.columns
        place = columns["place"][row].tolist() if "place" in columns else [np.nan, np.nan]
        return Event(
            user=user,
            item=self._items[int(columns["item"][row]) - FIRST],
            time=int(columns["time"][row]) + self._store.schema.epoch,
            utc_offset=int(columns["utc_offset"][row]) if "utc_offset" in columns else 0,
            place=None if np.isnan(place).any() else (place[0], place[1]),
        )
