"""From typed columns to what a store holds: ids from FIRST, the schema, one row an item and a user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from stjax.data.clean import Table
from stjax.data.log import LogColumns
from stjax.data.multi import members
from stjax.data.rows import Rows
from stjax.data.side import SideTable
from stjax.events import FIRST, MISSING, Field, Schema

WEEK = 7 * 86_400


@dataclass(frozen=True)
class Encoded:
    """What a store is made of; see `stjax.data.store`.

    columns: by event. items, users: by id. several: of each item and user field, the ids for which more
    than one value is given. tables: counts of each side table by role.
    """

    schema: Schema
    offsets: np.ndarray
    columns: dict[str, np.ndarray]
    items: dict[str, np.ndarray]
    users: dict[str, np.ndarray]
    vocabulary: dict[str, pl.Series]
    several: dict[str, dict[str, int]] = field(default_factory=lambda: {"item": {}, "user": {}})
    tables: dict[str, dict[str, int]] = field(default_factory=dict)


def encode(
    table: Table, columns: LogColumns, rows: Rows, order: np.ndarray, sides: Mapping[str, SideTable]
) -> Encoded:
    """The kept rows of a log, in the store's `order`, with the fields of side tables, by role.

    An attribute is the first value that is not missing, in the order of the log or of the side table.
    Raises LogError where a side table has no id of the log.
    """
    vocabulary: dict[str, pl.Series] = {}

    texts = dict(table.texts)

    def numbered(codes: np.ndarray, name: str) -> np.ndarray:
        """Codes from 1 to ids from FIRST of the values that are left; keeps their order."""
        new, vocabulary[name] = renumbered(codes, texts[name])
        return new

    user, item = numbered(table.user[order], "user"), numbered(table.item[order], "item")
    seconds = table.time[order] // 1_000_000
    epoch = monday(int(seconds.min()))
    events = {"user": user, "item": item, "time": (seconds - epoch).astype(np.int32)}
    if table.utc_offset is not None:
        events["utc_offset"] = table.utc_offset[order]
    if table.latitude is not None and table.longitude is not None:
        place = np.stack([table.latitude[order], table.longitude[order]], axis=-1)
        events["place"] = place.astype(np.float32)

    # The first value in the order of the log, not of the store.
    place_of_row = np.empty(len(rows.keep), np.int64)
    place_of_row[order] = np.arange(len(order))
    by_log = place_of_row[rows.keep]
    sizes = {name: len(vocabulary[name]) + FIRST for name in ("item", "user")}
    ids = {"item": item[by_log], "user": user[by_log]}
    own: dict[str, dict[str, np.ndarray]] = {"item": {}, "user": {}}
    several: dict[str, dict[str, int]] = {"item": {}, "user": {}}
    if "place" in events:
        place = own["item"]["place"] = first_of_each(ids["item"], events["place"][by_log], sizes["item"])
        elsewhere = _given(events["place"]) & (events["place"] != place[item]).any(axis=1)
        several["item"]["place"] = len(np.unique(item[elsewhere]))
    tables, found, used = {}, {}, {}
    for role, side in sides.items():
        matched = side.matched(vocabulary[role])
        found[role], used[role] = matched[matched != MISSING], side.rows(matched != MISSING)
        tables[role] = _counts(side, used[role], found[role], sizes[role] - FIRST)
        texts |= side.texts

    fields = []
    for name in columns.fields:
        role, kind, width = columns.role(name), columns.kind(name), 1
        if role in used and name in used[role].fields:
            who, column = found[role], used[role].fields[name]
        elif role in ("item", "user"):
            who, column = ids[role], table.fields[name][order][by_log]
        else:
            who, column = None, table.fields[name][order]
        if kind == "categorical":
            column = numbered(column, name)
        elif kind == "numeric":
            column = column.astype(np.float32)
        if who is None:
            events[name] = column
        else:
            several[role][name] = several_values(who, column, sizes[role])
            column = first_of_each(who, column, sizes[role])
            if kind == "multi":
                column, vocabulary[name] = _members(column, texts[name])
                width = column.shape[1]
            own[role][name] = column
        size = len(vocabulary[name]) + FIRST if name in vocabulary else 1
        fields.append(Field(name, kind, role, column.shape[1] if kind == "vector" else size, width))
    offsets = np.searchsorted(user, np.arange(FIRST, sizes["user"] + 1))
    schema = Schema(sizes["item"], sizes["user"], epoch, "place" in events, tuple(fields))
    return Encoded(
        schema, offsets.astype(np.int64), events, own["item"], own["user"], vocabulary, several, tables
    )


def monday(second: int) -> int:
    """The Monday 00:00 UTC at or before a Unix second (1970-01-05 was one)."""
    return (second - 4 * 86_400) // WEEK * WEEK + 4 * 86_400


def renumbered(codes: np.ndarray, texts: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Codes from 1 in `texts`, 0 is missing, to int32 ids from FIRST in the texts that occur, and these."""
    present = np.zeros(len(texts) + 1, bool)
    present[codes] = True
    present[MISSING] = False
    new = np.where(present, np.cumsum(present) + FIRST - 1, MISSING).astype(np.int32)
    return new[codes], texts.filter(pl.Series(present[1:]))


def first_of_each(ids: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """The first value of each id that is not missing: (N,) ids and (N, ...) values to (size, ...)."""
    floating = np.issubdtype(values.dtype, np.floating)
    there = _given(values)
    out = np.full((size, *values.shape[1:]), np.nan if floating else MISSING, values.dtype)
    # backwards, since of repeated indices the last assignment stays
    out[ids[there][::-1]] = values[there][::-1]
    return out


def several_values(ids: np.ndarray, values: np.ndarray, size: int) -> int:
    """How many ids have more than one value that is not missing: (N,) ids and (N, ...) values."""
    there = _given(values)
    least = np.full((size, *values.shape[1:]), np.inf)
    most = -least
    np.minimum.at(least, ids[there], values[there])
    np.maximum.at(most, ids[there], values[there])
    return int((least < most).reshape(size, -1).any(axis=1).sum())


def _given(values: np.ndarray) -> np.ndarray:
    """Which of (N, ...) values are not missing, bool (N,)."""
    flat = values.reshape(len(values), -1)
    missing = np.isnan(flat) if np.issubdtype(flat.dtype, np.floating) else np.equal(flat, MISSING)
    return np.logical_not(missing.any(axis=1))


def _members(codes: np.ndarray, texts: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Codes of canonical texts to the ids of their values: int32 (R,) to (R, W), and the vocabulary."""
    new, used = renumbered(codes, texts)
    vocabulary, ids = members(used)
    none = np.full((FIRST, ids.shape[1]), MISSING, np.int32)
    return np.concatenate([none, ids])[new], vocabulary


def _counts(side: SideTable, used: SideTable, ids: np.ndarray, known: int) -> dict[str, int]:
    """What a side table gave, for the report."""
    return {
        "rows": len(side.ids),
        "rows without an id": side.ids.null_count(),
        "rows left out: no events": len(side.ids) - side.ids.null_count() - len(ids),
        "ids of the log without a row": known - len(np.unique(ids)),
        **{cause: int(hit.sum()) for cause, hit in used.repaired.items()},
    }
