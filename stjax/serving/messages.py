"""What goes into the engine and what comes out, in the caller's own ids."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a user did.

    user, item: ids as the log writes them; text. time: Unix seconds. utc_offset: seconds; where it is not
    given, that of the user's event before. place: latitude and longitude in degrees; None where unknown.
    context: further event fields by name: text of categorical, numbers of numeric, lists of vector fields.
    id: the sender's own, at most 64 bytes, one for each event of the user: one that was accepted may be sent
    again, as after a lost answer, and is not read again. Without it, what is sent twice is read twice.
    """

    user: str
    item: str
    time: float
    utc_offset: int | None = None
    place: Place | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """An item that training has not seen, by its content.

    place: degrees; None where unknown. fields: item fields by name: text of categorical, lists of texts of
    multi, numbers of numeric, lists of numbers of vector fields.
    """

    id: str
    place: Place | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks, when, where, and what may be answered.

    time, utc_offset, place, context: of the request. What the model does not read of them changes no score.
    Not given: the time is now, the offset that of the user's last event, place and context are unknown.
    exclude_seen: leave out items of the user's events. allow: only these items. deny: none of these.
    within_km: only items not farther than this from `place`; items of unknown place are left out.
    candidates: rank only so many of what is allowed, those that the engine's candidate source likes best.
    where: only items whose field has one of the values, by field (categorical or multi).
    """

    user: str
    time: float | None = None
    utc_offset: int | None = None
    place: Place | None = None
    context: Mapping[str, str] = field(default_factory=dict)
    exclude_seen: bool = False
    allow: Collection[str] | None = None
    deny: Collection[str] = ()
    within_km: float | None = None
    where: Mapping[str, Collection[str]] = field(default_factory=dict)
    candidates: int | None = None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The best items for a request, best first; fewer than asked for where fewer are allowed.

    scores: float32 (K,), log-probabilities among all items. version: of the parameters that answered.
    """

    user: str
    items: list[str]
    scores: np.ndarray
    version: str
