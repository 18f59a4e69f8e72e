"""Events and requests in the caller's ids to arrays in the model's, with what was repaired counted."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stjax.errors import UserError
from stjax.events import Events, Field, Schema
from stjax.serving.messages import Event, Place
from stjax.serving.vocabulary import Vocabulary

LONGEST_ID = 256
LONGEST_EVENT_ID, KEY_BYTES = 64, 16  # that two of 2**40 ids have one key has probability 2**-49
DAY = 86_400
INT32 = 2**31


class BadEvent(UserError):
    """An event or a request that cannot be used; the message names the field, the value and the remedy."""


class Codec:
    """Encodes by a schema and its vocabularies, and counts repairs by cause in `counts`.

    Rows are NumPy records: item, user, time, utc_offset, place and the event fields.
    """

    def __init__(self, schema: Schema, vocabulary: Mapping[str, Vocabulary]) -> None:
        self.schema = schema
        self.vocabulary = vocabulary
        self.counts: Counter[str] = Counter()
        self.fields = {f.name: f for f in schema.fields if f.role == "event"}
        kinds: dict[str, Any] = {"categorical": ("i4",), "numeric": ("f4",)}
        own = [(f"field {n}", *kinds.get(f.kind, ("f4", (f.size,)))) for n, f in self.fields.items()]
        self.row = np.dtype(
            [
                ("item", "i4"),
                ("user", "i4"),
                ("time", "i4"),
                ("utc_offset", "i4"),
                ("place", "f4", (2,)),
                *own,
            ]
        )
        self.missing = np.zeros((), self.row)
        self.missing["place"] = np.nan
        for name, f in self.fields.items():
            if f.kind != "categorical":
                self.missing[f"field {name}"] = np.nan

    def event(self, event: Event, utc_offset: int) -> np.ndarray:
        """One event as a record; utc_offset: where it gives none. Raises BadEvent.

        Counted in `counts`, not refused: items and values that training has not seen, places and numbers
        that cannot be used and so are unknown.
        """
        row = self.missing.copy()
        row["item"] = self.known("item", check_id("item", event.item))
        row["user"] = self.vocabulary["user"].id(check_id("user", event.user))
        row["time"] = self.time(event.time)
        row["utc_offset"] = utc_offset if event.utc_offset is None else check_offset(event.utc_offset)
        row["place"] = self.place(event.place)
        for name, value in check_context(event.context).items():
            row[f"field {name}"] = self.value(self._field(name), value)
        return row

    def time(self, seconds: Any) -> int:
        """Unix seconds to seconds since the schema's epoch. Raises BadEvent where an int32 cannot hold them
        with a UTC offset."""
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float, np.number)):
            raise BadEvent(f"time={seconds!r} must be Unix seconds, a number")
        if not -1e15 < seconds < 1e15:  # NaN, infinity, and integers that no float holds
            raise BadEvent(f"time={str(seconds)[:20]} must be Unix seconds")
        since = math.floor(seconds) - self.schema.epoch
        if not DAY - INT32 <= since < INT32 - DAY:
            raise BadEvent(
                f"time={seconds!r} is {since / 31_557_600:+,.0f} years from the epoch of the log; give Unix"
                " seconds, not milliseconds"
            )
        return since

    def place(self, place: Place | None) -> tuple[float, float]:
        """Degrees; NaN where it is not given or, counted, cannot be one."""
        if place is None:
            return math.nan, math.nan
        try:
            latitude, longitude = map(float, place)
        except (TypeError, ValueError, OverflowError):
            raise BadEvent(f"place={place!r} must be (latitude, longitude) in degrees") from None
        if abs(latitude) <= 90 and abs(longitude) <= 180:  # False for NaN
            return latitude, longitude
        self.counts["place is not on the globe: unknown"] += 1
        return math.nan, math.nan

    def context(self, name: str, value: Any) -> int:
        """The id of a value of a categorical event field, of a request. Raises BadEvent."""
        f = self._field(name)
        if f.kind != "categorical":
            raise BadEvent(f"context field {name!r} is {f.kind}; a request has categorical ones only")
        return self.value(f, value)

    def events(self, rows: np.ndarray, valid: np.ndarray) -> Events:
        """Records (...,), of any shape, as Events."""

        def select(kind: str) -> dict[str, np.ndarray]:
            return {n: rows[f"field {n}"].copy() for n, f in self.fields.items() if f.kind == kind}

        return Events(
            item=rows["item"].copy(),
            user=rows["user"].copy(),
            time=rows["time"].copy(),
            utc_offset=rows["utc_offset"].copy(),
            place=rows["place"].copy(),
            valid=valid,
            categorical=select("categorical"),
            numeric=select("numeric"),
            vector=select("vector"),
        )

    def records(self, events: Events) -> np.ndarray:
        """Events (N,) as records; the inverse of `events`."""
        rows = np.empty(len(events.item), self.row)
        for name in ("item", "user", "time", "utc_offset", "place"):
            rows[name] = getattr(events, name)
        for name, values in {**events.categorical, **events.numeric, **events.vector}.items():
            rows[f"field {name}"] = values
        return rows

    def check_field(self, name: str) -> None:
        """Raises BadEvent where the log has no such event field."""
        self._field(name)

    def known(self, name: str, text: str) -> int:
        """The id of a text; one that training has not seen is counted."""
        vocabulary = self.vocabulary[name]
        if text and text not in vocabulary:
            self.counts[f"{name}: unseen"] += 1
        return vocabulary.id(text)

    def _field(self, name: str) -> Field:
        if name not in self.fields:
            raise BadEvent(f"no context field {name!r}; the model's log has {sorted(self.fields)}")
        return self.fields[name]

    def value(self, f: Field, value: Any) -> Any:
        """What a field that is not `multi` keeps of a value. Raises BadEvent."""
        where = f"{'context' if f.role == 'event' else 'item'} field {f.name}"
        if f.kind == "categorical":
            if value is not None and not isinstance(value, (str, int)):
                raise BadEvent(f"{where}={value!r} must be text")
            return self.known(f.name, "" if value is None else str(value))
        width = f.size if f.kind == "vector" else 1
        try:
            with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and so no number
                numbers = np.asarray(np.nan if value is None else value, np.float32).reshape(-1)
        except (TypeError, ValueError, OverflowError):
            raise BadEvent(f"{where}={value!r} must be numbers") from None
        if value is None:
            return np.full(width, np.nan, np.float32) if f.kind == "vector" else np.nan
        if len(numbers) != width:
            raise BadEvent(f"{where} has {len(numbers)} numbers, the model reads {width}")
        if not np.isfinite(numbers).all():
            self.counts[f"{f.name}: not a number"] += 1
            numbers = np.full(width, np.nan, np.float32)
        return numbers if f.kind == "vector" else numbers[0]


def check_id(name: str, value: Any) -> str:
    """An id as text. Raises BadEvent for one that is missing, not text or endless."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise BadEvent(f"{name}={value!r} must be an id: text that is not empty")
    if len(value) > LONGEST_ID:
        raise BadEvent(
            f"{name}={value[:20]!r}... has {len(value):,} characters; ids have at most {LONGEST_ID}"
        )
    return value


def check_context(value: Any) -> Mapping[str, Any]:
    """Further fields by name. Raises BadEvent."""
    if not isinstance(value, Mapping):
        raise BadEvent(f"context is of type {type(value).__name__}; it must be fields by name, {{}} for none")
    return value


def event_key(value: Any) -> bytes | None:
    """16 bytes that stand for an event's id; None where it has none. Raises BadEvent."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadEvent(f"id is of type {type(value).__name__}; it must be text, or None")
    text = value.encode("utf-8", "surrogatepass")
    if not 0 < len(text) <= LONGEST_EVENT_ID:
        raise BadEvent(f"id={value[:20]!r} has {len(text):,} bytes; 1 to {LONGEST_EVENT_ID} are needed")
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()


def check_offset(seconds: Any) -> int:
    """Seconds from UTC. Raises BadEvent for what no zone has."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, np.integer)):
        raise BadEvent(f"utc_offset={seconds!r} must be whole seconds")
    if abs(seconds) >= DAY:
        raise BadEvent(f"utc_offset={seconds} is a day or more; give seconds, such as -18000")
    return int(seconds)


def stacked(rows: Sequence[Sequence[np.ndarray]], width: int, missing: np.ndarray) -> tuple[Any, np.ndarray]:
    """Records of each user, at most `width`, as (B, width) records and which are there."""
    out = np.full((len(rows), width), missing, missing.dtype)
    for own, some in zip(out, rows, strict=True):
        for k, row in enumerate(some):
            own[k] = row
    count = np.asarray([len(some) for some in rows])
    return out, np.arange(width) < count[:, None]
