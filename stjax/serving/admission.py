"""Which events an engine accepts, and why it refuses the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stjax.serving.codec import BadEvent, check_id, event_key
from stjax.serving.core import Core
from stjax.serving.messages import Event


@dataclass(frozen=True)
class Admitted:
    """accepted: events as the journal keeps them and as records, in the order of time. refused: of each call,
    the cause by the position of the event. repeated: of each call, the positions of events whose id was
    accepted before."""

    accepted: list[tuple[Event, np.ndarray]]
    refused: list[dict[int, str]]
    repeated: list[list[int]]


def admit(core: Core, calls: Sequence[Sequence[Event]], now: float) -> Admitted:
    """Check the events of several calls; refusals are counted. Changes nothing else. now: Unix seconds."""
    settings, refused, repeated = core.settings, [{} for _ in calls], [[] for _ in calls]
    ahead = f"more than future={settings.future} seconds ahead of the clock"
    behind = f"more than lateness={settings.lateness} seconds behind the newest event of the user"

    def refuse(kind: str, c: int, i: int, cause: str) -> None:
        refused[c][i] = cause
        core.counts[f"refused: {kind}"] += 1

    def repeat(c: int, i: int) -> None:
        repeated[c].append(i)
        core.counts["repeated"] += 1

    encoded = []
    for c, call in enumerate(calls):
        for i, event in enumerate(call):
            try:
                key, number = event_key(event.id), core.users.get(check_id("user", event.user))
                # Before all else: by now it may be late.
                if key is not None and number is not None and core.users.knows(number, key):
                    repeat(c, i)
                    continue
                row = core.encode(event)
            except BadEvent as error:
                refuse("not usable", c, i, str(error))
                continue
            if event.time > now + settings.future:
                refuse("in the future", c, i, f"time={event.time!r} is {ahead}")
                continue
            # The offset may depend on the events before: what is kept says it.
            kept = dataclasses.replace(event, user=str(event.user), utc_offset=int(row["utc_offset"]))
            encoded.append((kept, row, key, c, i))
    encoded.sort(key=lambda each: each[1]["time"])  # stable: those of one time in the order they came
    accepted: list[tuple[Event, np.ndarray]] = []
    new: set[str] = set()
    given: set[tuple[str, bytes]] = set()  # by these very calls
    for event, row, key, c, i in encoded:
        number = core.users.get(event.user)
        if key is not None and (event.user, key) in given and settings.ids_kept:
            repeat(c, i)
        elif number is not None and not core.users.accepts(number, int(row["time"])):
            refuse("late", c, i, f"time={event.time!r} is {behind}")
        elif number is None and event.user not in new and len(core.users) + len(new) >= settings.users:
            refuse("no room for the user", c, i, f"there is room for {settings.users:,} users; raise `users`")
        else:
            if number is None:
                new.add(event.user)
            if key is not None:
                given.add((event.user, key))
            accepted.append((event, row))
    return Admitted(accepted, refused, [sorted(own) for own in repeated])
