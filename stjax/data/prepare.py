"""From a raw log to an event store: read, clean, count, sort, encode, write."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from stjax.data import quality, read
from stjax.data.clean import NO_TIME, UNREADABLE_TIME, Table, read_table
from stjax.data.log import LogColumns, LogError
from stjax.data.rows import Rows, below_minimum, duplicates, in_order
from stjax.data.store import EventStore, check_target, write_store
from stjax.events import FIRST, MISSING, Field, Schema

WEEK = 7 * 86_400
# int32 seconds, with a day to spare so that adding a UTC offset cannot overflow.
SPAN = 2**31 - 86_400

_logger = logging.getLogger(__name__)


def prepare(
    log: pl.LazyFrame | pl.DataFrame | Sequence[str | os.PathLike[str]],
    columns: LogColumns,
    out: str | os.PathLike[str],
    *,
    min_user_events: int = 1,
    min_item_events: int = 1,
    years: tuple[int, int] = (1900, 2200),
    keep_duplicates: bool = False,
    strict: bool = False,
    overwrite: bool = False,
) -> EventStore:
    """Turn a log into an event store with a data-quality report.

    Rows are dropped for the first cause that applies: missing user, missing item, missing time,
    unparsable time, time out of range, exact duplicate (all mapped columns equal; the first row stays),
    user or item below the minimum count (until none is). Ids follow the order of the text, and rows
    are sorted by user, then time, ties in the log's order.

    years: first and last calendar year (UTC) that a time may be in. Where the rest spans more than the
      68 years that int32 seconds hold, the 68-year window with the most events is kept and the others
      are counted as out of range; so a few rows of another century cost nobody else.
    keep_duplicates: for logs in which equal rows are separate events (two of one kind bought at once).
    strict: raise LogError with causes, counts and example rows where anything but the minimum counts
      would be dropped or repaired.
    Raises LogError for a log that cannot be used, StoreError for a folder that cannot be written.
    """
    if min(min_user_events, min_item_events) < 1:
        raise LogError(f"minimum counts are at least 1: {min_user_events=}, {min_item_events=}")
    if not 1 <= years[0] <= years[1] <= 9998:
        raise LogError(f"years={years} must be the first and the last, from 1 to 9998")
    check_target(out, overwrite)
    if isinstance(log, pl.LazyFrame | pl.DataFrame):
        name, frame = "the log", read.select(log.lazy(), columns.needed)
    else:
        paths = [Path(path) for path in log]
        name, frame = ", ".join(map(str, paths)), read.scan(paths, columns.needed)

    with _stage("read and parse"):
        table = read_table(frame, columns, name)
    if len(table.user) == 0:
        raise LogError(f"{name} is empty: it has a header at most, and no rows")
    with _stage("sort and clean"):
        rows = Rows(len(table.user))
        order = _clean(table, rows, years, keep_duplicates)
    if strict:
        _refuse(table, rows, name)
    with _stage("filter by counts"):
        causes = below_minimum(table.user[order], table.item[order], min_user_events, min_item_events)
        for cause, below in causes.items():
            rows.drop(cause, order[below])
        order = order[rows.keep[order]]
    if len(order) == 0:
        raise LogError(f"nothing is left of the {len(rows.keep)} rows of {name}: {_told(rows.dropped)}")
    with _stage("encode"):
        schema, offsets, events, items, vocabulary = _encode(table, columns, rows, order)
        report = quality.report(table, columns, rows, schema, offsets, events, items)
        del table, order, rows
    with _stage("write"):
        return write_store(
            out,
            schema=schema,
            offsets=offsets,
            columns=events,
            items=items,
            vocabulary=vocabulary,
            quality=report,
            overwrite=overwrite,
        )


def _clean(table: Table, rows: Rows, years: tuple[int, int], keep_duplicates: bool) -> np.ndarray:
    """Drop what cannot be used; return the kept rows sorted by user and time, ties in the log's order."""
    rows.drop("missing user", table.user == MISSING)
    rows.drop("missing item", table.item == MISSING)
    rows.drop("missing time", table.time == NO_TIME)
    rows.drop("unparsable time", table.time == UNREADABLE_TIME)
    first, stop = (
        int(datetime.datetime(year, 1, 1, tzinfo=datetime.UTC).timestamp()) * 1_000_000
        for year in (years[0], years[1] + 1)
    )
    outside = (table.time < first) | (table.time >= stop)
    kept = table.time[rows.keep & ~outside] // 1_000_000
    first, stop = _window(kept)
    outside |= (table.time < first * 1_000_000) | (table.time >= stop * 1_000_000)
    rows.drop("time out of range", outside)
    order = in_order(table.user, table.time, np.flatnonzero(rows.keep))
    rows.drop("exact duplicate", order[:0] if keep_duplicates else duplicates(table, order))
    return order[rows.keep[order]]


def _monday(second: int) -> int:
    """The Monday 00:00 UTC at or before a Unix second (1970-01-05 was one)."""
    return (second - 4 * 86_400) // WEEK * WEEK + 4 * 86_400


def _window(seconds: np.ndarray) -> tuple[int, int]:
    """First and end of the window that int32 seconds since a Monday can hold with the most events."""
    if len(seconds) == 0:
        return 0, 0
    first, last = int(seconds.min()), int(seconds.max())
    if last < _monday(first) + SPAN:
        return first, last + 1
    ordered = np.sort(seconds)
    ends = (ordered - 4 * 86_400) // WEEK * WEEK + 4 * 86_400 + SPAN
    held = np.searchsorted(ordered, ends) - np.arange(len(ordered))
    best = int(held.argmax())  # the earliest of equals
    return int(ordered[best]), int(ends[best])


def _refuse(table: Table, rows: Rows, name: str) -> None:
    """Raise LogError where anything was dropped or repaired."""
    counts = rows.dropped | {cause: int(hit.sum()) for cause, hit in table.repaired.items()}
    if not any(counts.values()):
        return
    examples = rows.examples | {
        cause: (np.flatnonzero(hit)[:3] + 1).tolist() for cause, hit in table.repaired.items()
    }
    raise LogError(f"{name} is not clean (strict): {_told(counts, examples)}")


def _told(counts: dict[str, int], examples: dict[str, list[int]] | None = None) -> str:
    """Causes and counts in one line; rows count from 1 after the header."""
    parts = []
    for cause, count in counts.items():
        if count:
            where = f" (row {', '.join(map(str, examples[cause]))})" if examples else ""
            parts.append(f"{cause}: {count}{where}")
    return "; ".join(parts)


def _encode(
    table: Table, columns: LogColumns, rows: Rows, order: np.ndarray
) -> tuple[Schema, np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray], dict[str, pl.Series]]:
    """Schema, offsets, event columns, item columns and vocabularies of the kept rows."""
    vocabulary: dict[str, pl.Series] = {}

    def encode(ids: np.ndarray, name: str) -> np.ndarray:
        """Ids of the whole log to ids from FIRST of the values that are left; keeps their order."""
        present = np.zeros(len(table.texts[name]) + 1, bool)
        present[ids] = True
        present[MISSING] = False
        vocabulary[name] = table.texts[name].filter(pl.Series(present[1:]))
        new = np.where(present, np.cumsum(present) + FIRST - 1, MISSING).astype(np.int32)
        return new[ids]

    user = encode(table.user[order], "user")
    item = encode(table.item[order], "item")
    seconds = table.time[order] // 1_000_000
    epoch = _monday(int(seconds.min()))
    events = {"user": user, "item": item, "time": (seconds - epoch).astype(np.int32)}
    if table.utc_offset is not None:
        events["utc_offset"] = table.utc_offset[order]
    if table.latitude is not None and table.longitude is not None:
        place = np.stack([table.latitude[order], table.longitude[order]], axis=-1)
        events["place"] = place.astype(np.float32)

    # The catalogue takes each item's first value in the order of the log, not of the store.
    place_of_row = np.empty(len(rows.keep), np.int64)
    place_of_row[order] = np.arange(len(order))
    by_log = place_of_row[rows.keep]
    size = len(vocabulary["item"]) + FIRST
    items: dict[str, np.ndarray] = {}
    if "place" in events:
        items["place"] = first_of_each(item[by_log], events["place"][by_log], size)
    fields = []
    for name in columns.fields:
        text = name in columns.texts
        column = table.fields[name][order]
        column = encode(column, name) if text else column.astype(np.float32)
        own = name in columns.item_categorical + columns.item_numeric
        if own:
            items[name] = first_of_each(item[by_log], column[by_log], size)
        else:
            events[name] = column
        fields.append(
            Field(
                name,
                kind="categorical" if text else "numeric",
                role="item" if own else "meta" if name in columns.meta else "event",
                size=len(vocabulary[name]) + FIRST if text else 1,
            )
        )
    users = len(vocabulary["user"])
    offsets = np.searchsorted(user, np.arange(FIRST, users + FIRST + 1))
    schema = Schema(size, users + FIRST, epoch, "place" in events, tuple(fields))
    return schema, offsets.astype(np.int64), events, items, vocabulary


def first_of_each(ids: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """The first value of each id that is not missing: (N,) ids and (N, ...) values to (size, ...)."""
    floating = np.issubdtype(values.dtype, np.floating)
    there = ~np.isnan(values) if floating else values != MISSING
    there = there.reshape(len(values), -1).all(axis=1)
    out = np.full((size, *values.shape[1:]), np.nan if floating else MISSING, values.dtype)
    # backwards, since of repeated indices the last assignment stays
    out[ids[there][::-1]] = values[there][::-1]
    return out


@contextlib.contextmanager
def _stage(name: str) -> Iterator[None]:
    started = time.perf_counter()
    _logger.info("%s ...", name)
    yield
    _logger.info("%s: %.1f s", name, time.perf_counter() - started)
