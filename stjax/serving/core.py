"""The engine without threads, disk and clock: events into states, requests to answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from stjax.events import Catalogue, Query
from stjax.serving.answers import Filters, no_filters
from stjax.serving.candidates import Source
from stjax.serving.codec import (
    BadEvent,
    Codec,
    check_context,
    check_id,
    check_offset,
    event_key,
    stacked,
)
from stjax.serving.exported import Model
from stjax.serving.filters import ItemBits
from stjax.serving.items import Items
from stjax.serving.mesh import Devices
from stjax.serving.messages import Event, Item, Recommendation, Request
from stjax.serving.programs import Programs, fitting
from stjax.serving.seen import Seen
from stjax.serving.settings import Settings
from stjax.serving.slots import NOWHERE, Slots
from stjax.serving.users import Users
from stjax.serving.vocabulary import Vocabulary


@dataclass(frozen=True)
class Asked:
    """One request, checked. user: its number or NOWHERE. now: (time, utc_offset, place, context ids) as the
    model reads them. filters: (bits or None, here, radius), or None where everything may be answered."""

    request: Request
    k: int
    user: int
    now: tuple[int, int, tuple[float, float], tuple[int, ...]]
    filters: tuple[np.ndarray | None, tuple[float, float], float] | None


class Core:
    """Users and their states, the model and what it knows of items. One thread at a time."""

    def __init__(
        self,
        model: Model,
        params: Any,
        catalogue: Catalogue,
        vocabulary: Mapping[str, Vocabulary],
        settings: Settings,
        version: str,
        source: Source | None = None,
    ) -> None:
        self.settings, self.version, self.source = settings, version, source
        self.tuned = False  # whether the parameters are others than at the start
        self.known: tuple[str, ...] = tuple(model.known)
        self._context = [name for name in self.known if name not in ("time", "place")]
        # Its own, since new items are added to it.
        vocabulary = {**vocabulary, "item": Vocabulary(vocabulary["item"].texts)}
        self.vocabulary = vocabulary
        self.codec = Codec(catalogue.schema, vocabulary)
        self.programs = Programs(model, settings.capacity, settings.shapes, Devices.of(settings.sharding))
        catalogue = jax.tree.map(np.asarray, catalogue)
        self.catalogue = Items(catalogue, self.codec, settings.spare_items)
        self.weights = self.programs.weights(params, self.catalogue.catalogue)
        self.bits = ItemBits(self.catalogue.catalogue, vocabulary)
        self._added = 0  # items that the weights know
        self.slots = Slots(self.programs, settings.users)
        own = settings.lateness, settings.waiting, settings.ids_kept
        self.users = Users(settings.users, self.bits.rows, *own)
        self.counts: Counter[str] = Counter()

    @property
    def items(self) -> int:
        """Number of items that can be answered."""
        return len(self.vocabulary["item"].texts)

    def warm_up(self) -> None:
        """Compile every program for every shape."""
        nobody = self.ask(Request("nobody", time=0.0 + self.codec.schema.epoch), 1, 0.0)
        self.slots.states = self.programs.warm_up(
            self.slots.states,
            self.weights,
            lambda batch, length: self.codec.events(*stacked([()] * batch, length, self.codec.missing)),
            lambda batch: self._query([nobody], batch),
            self.settings.waiting if self.settings.lateness else 0,
        )

    def add_item(self, item: Item) -> None:
        """Use a row in reserve; `refresh` makes it known to the programs. Raises BadEvent."""
        self.catalogue.add(self.catalogue.prepared(item))

    def refresh(self) -> None:
        """Compute anew what depends on the catalogue, where items were added."""
        if self._added == len(self.catalogue.added):
            return
        self._added = len(self.catalogue.added)
        self.weights = self.programs.weights(self.weights.params, self.catalogue.catalogue)
        self.bits = ItemBits(self.catalogue.catalogue, self.vocabulary)

    def swap(self, params: Any, version: str) -> None:
        """Answer by other parameters of the same model from now on."""
        self.weights = self.programs.weights(params, self.catalogue.catalogue)
        self.version, self.tuned = version, True

    def encode(self, event: Event) -> np.ndarray:
        """An event as a record of ids and numbers. Raises BadEvent."""
        return self.codec.event(event, self.offset(check_id("user", event.user)))

    def offset(self, user: str) -> int:
        """Seconds from UTC of the user's last event; 0 where there is none."""
        number = self.users.get(user)
        return 0 if number is None else int(self.users.utc_offset[number])

    def apply(self, accepted: Iterable[tuple[str, np.ndarray]]) -> None:
        """Read accepted events, each user's in the order of time."""
        by_user: dict[int, list[np.ndarray]] = {}
        for name, row in accepted:
            by_user.setdefault(self.users.add(name), []).append(row)
        due = {user: self.users.take(user, rows) for user, rows in by_user.items()}
        self._read({user: rows for user, rows in due.items() if rows})

    def settle(self) -> None:
        """Read what waits no longer, where the engine that it waited in had other settings."""
        due = {user: self.users.take(user, ()) for user in list(self.users.pending)}
        self._read({user: rows for user, rows in due.items() if rows})

    def remember(self, events: Iterable[Event]) -> None:
        """Know the ids of events, which `apply` has read, where they come again."""
        for event in events:
            if (key := event_key(event.id)) is not None:
                self.users.remember(self.users.add(event.user), key)

    def ask(self, request: Request, k: int, now: float) -> Asked:
        """Check a request; now: its time where it gives none. Raises BadEvent."""
        found = self.users.get(check_id("user", request.user))
        user = NOWHERE if found is None else found
        place, context = self.codec.place(request.place), check_context(request.context)
        offset = self.offset(str(request.user))
        moment = (
            self._time(request.time, now),
            offset if request.utc_offset is None else check_offset(request.utc_offset),
            place,
            tuple(self.codec.context(name, context.get(name)) for name in self._context),
        )
        for name in context:
            self.codec.check_field(name)
        seen = self.users.seen.get(user) or Seen(self.users.items)
        bits = self.bits.of(request, seen, self.counts)
        if request.candidates is not None:
            bits = self._candidates(bits, request.candidates, seen)
        if request.within_km is None:
            return Asked(request, k, user, moment, None if bits is None else (bits, place, math.inf))
        if not (isinstance(request.within_km, (int, float, np.number)) and request.within_km > 0):
            raise BadEvent(f"within_km={request.within_km!r} must be kilometres, above 0")
        if math.isnan(place[0]) and found is not None:
            latitude, longitude = self.users.place[found].tolist()
            place = latitude, longitude
        if math.isnan(place[0]):
            raise BadEvent("within_km: neither the request nor the user's events have a place; give `place`")
        return Asked(request, k, user, moment, (bits, place, float(request.within_km)))

    def _candidates(self, bits: np.ndarray | None, count: int, seen: Seen) -> np.ndarray:
        if self.source is None:
            raise BadEvent(f"candidates={count}: the engine has no source of candidates; start it with one")
        if not (isinstance(count, int) and count >= 1):
            raise BadEvent(f"candidates={count!r} must be a number of items, at least 1")
        return self.bits.among(bits, self.source(seen), count)

    def _time(self, time: float | None, now: float) -> int:
        if time is None and "time" not in self.known:
            return 0  # the clock may be beyond what the log's epoch allows, and is not read
        return self.codec.time(now if time is None else time)

    def answer(self, asked: Sequence[Asked]) -> list[Recommendation]:
        """The best items for each request."""
        shapes = self.settings.shapes
        groups: dict[Any, list[int]] = {}
        for i, one in enumerate(asked):
            late = one.user in self.users.pending
            groups.setdefault((fitting(shapes.tops, one.k), one.filters is not None, late), []).append(i)
        largest = min(shapes.batches[-1], self.settings.capacity)
        answers: dict[int, Recommendation] = {}
        for (top, filtered, late), group in groups.items():
            for at in range(0, len(group), largest):
                part = group[at : at + largest]
                answers |= zip(part, self._answer([asked[i] for i in part], top, filtered, late), strict=True)
        self.counts["recommended"] += len(asked)
        return [answers[i] for i in range(len(asked))]

    def _answer(self, asked: list[Asked], top: int, filtered: bool, late: bool) -> list[Recommendation]:
        batch = fitting(self.settings.shapes.batches, len(asked))
        users = [one.user for one in asked]
        source, first = self.slots.source(users, batch), None
        if late:
            rows = [self.users.pending[user] for user in users] + [[]] * (batch - len(users))
            first = self.codec.events(*stacked(rows, self.settings.waiting, self.codec.missing))
        filters = self._filters(asked, batch) if filtered else None
        query = self._query(asked, batch)
        found = self.programs.recommend(self.slots.states, self.weights, source, query, filters, first, top)
        scores, ids = map(np.asarray, found)
        text, out = self.vocabulary["item"].text, []
        for one, score, own in zip(asked, scores, ids, strict=False):
            count = min(one.k, int(np.isfinite(score).sum()))
            self.counts["answers shorter than k"] += count < one.k
            items = [text(v) for v in own[:count].tolist()]
            out.append(Recommendation(str(one.request.user), items, score[:count].copy(), self.version))
        return out

    def _read(self, due: dict[int, list[np.ndarray]]) -> None:
        """Events of users, in order, into their states."""
        shapes = self.settings.shapes
        largest = min(shapes.batches[-1], self.settings.capacity)
        while due:
            users = sorted(due, key=lambda user: -len(due[user]))[:largest]
            batch = fitting(shapes.batches, len(users))
            length = fitting(shapes.chunks, len(due[users[0]]))
            now = [due[user][:length] for user in users] + [[]] * (batch - len(users))
            events = self.codec.events(*stacked(now, length, self.codec.missing))
            source, target = self.slots.source(users, batch), self.slots.target(users, batch)
            self.slots.states = self.programs.observe(self.slots.states, self.weights, source, target, events)
            for user in users:
                due[user] = due[user][length:]
                if not due[user]:
                    del due[user]

    def _filters(self, asked: Sequence[Asked], batch: int) -> Filters:
        out = no_filters(batch, self.bits.rows)
        for j, one in enumerate(asked):
            bits, here, radius = one.filters or (None, (math.nan, math.nan), math.inf)
            if bits is not None:
                out.allowed[j] = bits
            out.here[j], out.radius[j] = here, radius
        return out

    def _query(self, asked: Sequence[Asked], batch: int) -> Query:
        """What the model reads of the requests, filled up with the last of them."""
        now = [one.now for one in asked]
        now += now[-1:] * (batch - len(now))
        time, offset, place, context = zip(*now, strict=True)
        timed, placed = "time" in self.known, "place" in self.known
        fields = np.asarray(context, np.int32).reshape(batch, -1).T
        return Query(
            time=np.asarray(time, np.int32) if timed else None,
            utc_offset=np.asarray(offset, np.int32) if timed else None,
            place=np.asarray(place, np.float32) if placed else None,
            categorical=dict(zip(self._context, fields, strict=True)),
        )
