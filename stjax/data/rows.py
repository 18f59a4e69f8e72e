"""Which rows of a log stay, in which order: dropped rows by cause, ties, duplicates, minimum counts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import polars as pl

from stjax.data.clean import Table

USER_BELOW = "user below the minimum count"
ITEM_BELOW = "item below the minimum count"


class Rows:
    """The rows still kept, and how many were dropped by cause.

    keep: bool (N,). dropped: rows by cause. examples: up to three row numbers by cause, from 1.
    """

    def __init__(self, count: int) -> None:
        self.keep = np.ones(count, bool)
        self.dropped: dict[str, int] = {}
        self.examples: dict[str, list[int]] = {}

    def drop(self, cause: str, which: np.ndarray) -> None:
        """Drop rows, by mask or by number; those dropped before keep their first cause."""
        before = self.keep.copy()
        self.keep[which] = False
        gone = before & ~self.keep
        self.dropped[cause] = int(gone.sum())
        self.examples[cause] = first_rows(gone)


def first_rows(hit: np.ndarray) -> list[int]:
    """Numbers of the first three rows that are True, from 1."""
    return (np.flatnonzero(hit)[:3] + 1).tolist()


def in_order(user: np.ndarray, time: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows sorted by user, then time, ties in the order of `rows`."""
    if len(rows) == 0:
        return rows
    time, user = time[rows], user[rows].astype(np.int64)
    time -= time.min()
    while len(time) and not (time % 1000).any() and time.any():
        time //= 1000  # whole milliseconds or seconds: a shorter key
    bits = int(time.max()).bit_length()
    if bits + int(user.max()).bit_length() < 63:
        return rows[np.argsort((user << bits) | time, kind="stable")]
    return rows[np.lexsort((time, user))]


def tie_key(table: Table, seed: int) -> np.ndarray:
    """A number for each row, uint64 (N,), that only `seed` and the texts of its user and item decide.

    So rows of equal user and item have the same, and neither the log's order nor its other rows matter.
    """
    user, item = (
        _digests(table.texts[name], f"{seed} {name} ")[codes]
        for name, codes in (("user", table.user), ("item", table.item))
    )
    # The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    mixed = user ^ item
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _digests(texts: Iterable[str], prefix: str) -> np.ndarray:
    """A hash of each text, uint64 (V+1,), after one for the missing text."""
    words = [b"", *((prefix + text).encode() for text in texts)]
    digests = b"".join(hashlib.blake2b(word, digest_size=8).digest() for word in words)
    return np.frombuffer(digests, "<u8")


def duplicates(table: Table, order: np.ndarray) -> np.ndarray:
    """Rows that equal an earlier one of the log in every column, as parsed.

    order: rows sorted by user and time. Only runs of equal user and time are compared in full.
    """
    user, time = table.user[order], table.time[order]
    same = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    if not same.any():
        return order[:0]
    run = np.r_[same, False] | np.r_[False, same]
    rows = order[run]
    parts = {"item": table.item, "utc_offset": table.utc_offset, "latitude": table.latitude}
    parts |= {"longitude": table.longitude, "user": table.user, "time": table.time}
    parts |= {f"field {name}": column for name, column in table.fields.items()}
    frame = pl.DataFrame({key: part[rows] for key, part in parts.items() if part is not None})
    first = frame.select(pl.struct(pl.all()).is_first_distinct()).to_series().to_numpy()
    return rows[~first]


def below_minimum(
    user: np.ndarray, item: np.ndarray, min_user_events: int, min_item_events: int
) -> dict[str, np.ndarray]:
    """Positions to drop, by cause, so that every user and item left has its minimum of events.

    Dropping items takes events from users and the reverse, so this goes on until nothing changes; what
    is left is unique, whichever side goes first.
    """
    left = np.arange(len(user))
    gone: dict[str, list[np.ndarray]] = {USER_BELOW: [], ITEM_BELOW: []}
    sides = ((USER_BELOW, user, min_user_events), (ITEM_BELOW, item, min_item_events))
    changed = min_user_events > 1 or min_item_events > 1
    while changed and len(left):
        changed = False
        for cause, ids, least in sides:
            few = np.bincount(ids[left])[ids[left]] < least if len(left) else left < 0
            gone[cause].append(left[few])
            left = left[~few]
            changed |= bool(few.any())
    return {cause: np.concatenate([left[:0], *parts]) for cause, parts in gone.items()}
