"""From a raw log to an event store: read, clean, count, sort, encode, write."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from stjax.data import quality, read
from stjax.data.clean import NO_TIME, UNREADABLE_TIME, Table, read_table
from stjax.data.encode import WEEK, encode, monday
from stjax.data.log import LogColumns, LogError, Ties
from stjax.data.rows import Rows, below_minimum, duplicates, first_rows, in_order, tie_key
from stjax.data.side import SideTable, TableFile
from stjax.data.store import EventStore, check_target, write_store
from stjax.events import MISSING

# int32 seconds, with a day to spare so that adding a UTC offset cannot overflow.
SPAN = 2**31 - 86_400

UNPARSABLE, OUT_OF_RANGE = "unparsable time", "time out of range"

_logger = logging.getLogger(__name__)


def prepare(
    log: pl.LazyFrame | pl.DataFrame | Sequence[str | os.PathLike[str]],
    columns: LogColumns,
    out: str | os.PathLike[str],
    *,
    items: TableFile | None = None,
    users: TableFile | None = None,
    min_user_events: int = 1,
    min_item_events: int = 1,
    years: tuple[int, int] = (1900, 2200),
    keep_duplicates: bool = False,
    ties: Ties = "log",
    tie_seed: int = 0,
    strict: bool = False,
    overwrite: bool = False,
) -> EventStore:
    """Turn a log into an event store with a data-quality report.

    Rows are dropped for the first cause that applies: missing user, missing item, missing time,
    unparsable time, time out of range, exact duplicate (all mapped columns equal; the first row stays),
    user or item below the minimum count (until none is). Ids follow the order of the text, and rows
    are sorted by user, then time, then by `ties`.

    items, users: tables (CSV, Parquet, JSON lines or a frame) of the items' and the users' own fields, with
      the log's column of ids. Fields that a table has a column for are read there, the others in the log.
      Rows whose id has no event are counted and left out.
    years: first and last calendar year (UTC) that a time may be in. Where the rest spans more than the
      68 years that int32 seconds hold, the 68-year window with the most events is kept and the others
      are counted as out of range; so a few rows of another century cost nobody else.
    ties: events of a user at one time stay in the log's order ("log"), or are put in the order of a hash of
      tie_seed, user and item ("hash"): where a log is sorted by item or by what was liked, its order tells of
      the answer. How many rows that moves is in the report.
    keep_duplicates: for logs in which equal rows are separate events (two of one kind bought at once).
    strict: raise LogError with causes, counts and example rows where anything but the minimum counts
      would be dropped or repaired.
    Raises LogError for a log that cannot be used, StoreError for a folder that cannot be written.
    """
    if min(min_user_events, min_item_events) < 1:
        raise LogError(f"minimum counts are at least 1: {min_user_events=}, {min_item_events=}")
    if ties not in ("log", "hash"):
        raise LogError(f"ties={ties!r}: choose 'log' or 'hash'")
    if not 1 <= years[0] <= years[1] <= 9998:
        raise LogError(f"years={years} must be the first and the last, from 1 to 9998")
    check_target(out, overwrite)
    sides = {}
    for role, given in (("item", items), ("user", users)):
        if given is not None:
            with _stage(f"read the table of {role}s"):
                sides[role] = SideTable.read(given, columns, role)
    elsewhere = {name for side in sides.values() for name in side.fields}
    in_log = columns.only(set(columns.fields) - elsewhere)
    if in_log.vectors:
        raise LogError(f"vectors {list(in_log.vectors)} are in no table: give one that has them")
    if isinstance(log, pl.LazyFrame | pl.DataFrame):
        name, frame = "the log", read.select(log.lazy(), in_log.needed)
    else:
        paths = [Path(path) for path in log]
        name, frame = ", ".join(map(str, paths)), read.scan(paths, in_log.needed)

    with _stage("read and parse"):
        table = read_table(frame, in_log, name)
    if len(table.user) == 0:
        raise LogError(f"{name} is empty: it has a header at most, and no rows")
    with _stage("sort and clean"):
        rows = Rows(len(table.user))
        key = tie_key(table, tie_seed) if ties == "hash" else None
        order = _clean(table, rows, years, keep_duplicates, key)
    if strict:
        _refuse(name, table.repaired, rows.dropped, rows.examples)
        for side in sides.values():
            _refuse(side.name, side.problems)
    with _stage("filter by counts"):
        causes = below_minimum(table.user[order], table.item[order], min_user_events, min_item_events)
        for cause, below in causes.items():
            rows.drop(cause, order[below])
        order = order[rows.keep[order]]
    if len(order) == 0:
        remedy = ""
        if any(rows.dropped[cause] for cause in (UNPARSABLE, OUT_OF_RANGE)):
            remedy = (
                f"; times are Unix seconds or milliseconds or ISO 8601, of {years[0]} to {years[1]}: convert"
                " the column, or name another"
            )
        raise LogError(
            f"nothing is left of the {len(rows.keep)} rows of {name}: {_told(rows.dropped)}{remedy}"
        )
    with _stage("encode"):
        encoded = encode(table, columns, rows, order, sides)
        rule = "the log's order" if key is None else f"hash of seed {tie_seed}, user and item"
        moved = 0 if key is None else int((in_order(table.user, table.time, np.sort(order)) != order).sum())
        report = quality.report(table, columns, rows, encoded, {"rule": rule, "rows moved": moved})
        del table, order, rows
    with _stage("write"):
        return write_store(
            out,
            schema=encoded.schema,
            offsets=encoded.offsets,
            columns=encoded.columns,
            items=encoded.items,
            users=encoded.users,
            vocabulary=encoded.vocabulary,
            quality=report,
            overwrite=overwrite,
        )


def _clean(
    table: Table, rows: Rows, years: tuple[int, int], keep_duplicates: bool, key: np.ndarray | None
) -> np.ndarray:
    """Drop what cannot be used; return the kept rows sorted by user and time, ties by `key`, if any, and then
    in the log's order.
    """
    rows.drop("missing user", table.user == MISSING)
    rows.drop("missing item", table.item == MISSING)
    rows.drop("missing time", table.time == NO_TIME)
    rows.drop(UNPARSABLE, table.time == UNREADABLE_TIME)
    first, stop = (
        int(datetime.datetime(year, 1, 1, tzinfo=datetime.UTC).timestamp()) * 1_000_000
        for year in (years[0], years[1] + 1)
    )
    outside = (table.time < first) | (table.time >= stop)
    kept = table.time[rows.keep & ~outside] // 1_000_000
    first, stop = _window(kept)
    outside |= (table.time < first * 1_000_000) | (table.time >= stop * 1_000_000)
    rows.drop(OUT_OF_RANGE, outside)
    kept = np.flatnonzero(rows.keep)
    kept = kept if key is None else kept[np.argsort(key[kept], kind="stable")]
    order = in_order(table.user, table.time, kept)
    rows.drop("exact duplicate", order[:0] if keep_duplicates else duplicates(table, order))
    return order[rows.keep[order]]


def _window(seconds: np.ndarray) -> tuple[int, int]:
    """First and end of the window that int32 seconds since a Monday can hold with the most events."""
    if len(seconds) == 0:
        return 0, 0
    first, last = int(seconds.min()), int(seconds.max())
    if last < monday(first) + SPAN:
        return first, last + 1
    ordered = np.sort(seconds)
    ends = (ordered - 4 * 86_400) // WEEK * WEEK + 4 * 86_400 + SPAN
    held = np.searchsorted(ordered, ends) - np.arange(len(ordered))
    best = int(held.argmax())  # the earliest of equals
    return int(ordered[best]), int(ends[best])


def _refuse(
    name: str,
    repaired: Mapping[str, np.ndarray],
    dropped: Mapping[str, int] = {},
    examples: Mapping[str, list[int]] = {},
) -> None:
    """Raise LogError where anything was dropped or repaired."""
    counts = {**dropped, **{cause: int(hit.sum()) for cause, hit in repaired.items()}}
    if any(counts.values()):
        where = {**examples, **{cause: first_rows(hit) for cause, hit in repaired.items()}}
        raise LogError(f"{name} is not clean (strict): {_told(counts, where)}")


def _told(counts: dict[str, int], examples: dict[str, list[int]] | None = None) -> str:
    """Causes and counts in one line; rows count from 1 after the header."""
    parts = []
    for cause, count in counts.items():
        if count:
            where = f" (row {', '.join(map(str, examples[cause]))})" if examples else ""
            parts.append(f"{cause}: {count}{where}")
    return "; ".join(parts)


@contextlib.contextmanager
def _stage(name: str) -> Iterator[None]:
    started = time.perf_counter()
    _logger.info("%s ...", name)
    yield
    _logger.info("%s: %.1f s", name, time.perf_counter() - started)
