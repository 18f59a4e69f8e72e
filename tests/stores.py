"""Small event stores for tests, written from plain lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from stjax.data.store import EventStore, write_store
from stjax.events import FIRST, MISSING, Field, Schema

EPOCH = 345_600  # 1970-01-05, a Monday


def make_store(
    path: Path,
    users: Sequence[Any],
    items: Sequence[Any],
    times: Sequence[int],
    *,
    places: Sequence[tuple[float, float]] | None = None,
    utc_offsets: Sequence[int] | None = None,
    event: Mapping[str, Sequence[Any]] | None = None,
    meta: Mapping[str, Sequence[Any]] | None = None,
    item: Mapping[str, Mapping[Any, Any]] | None = None,
    user: Mapping[str, Mapping[Any, Any]] | None = None,
) -> EventStore:
    """Write a log, given as one list per column, and open it. The log may be in any order.

    times: seconds since the schema's epoch. places: (latitude, longitude), NaN where unknown.
    event, meta: further columns by name; item, user: attributes by name, {item: value}. The first value
    that is not None decides the kind: a float is numeric, a list or tuple is a vector (multi if it holds
    texts), all else is categorical. An item's place is the place of its first event in the log. Ids follow
    the first occurrence in the log.
    """
    user_words, item_words = list(dict.fromkeys(users)), list(dict.fromkeys(items))
    user_ids, item_ids = _ids(users, user_words), _ids(items, item_words)
    order = np.lexsort((np.asarray(times), user_ids))  # stable: ties stay in the log's order
    columns = {"user": user_ids, "item": item_ids, "time": np.asarray(times, np.int32)}
    catalogue: dict[str, np.ndarray] = {}
    vocabulary = {"user": user_words, "item": item_words}
    fields: list[Field] = []
    if places is not None:
        columns["place"] = np.asarray(places, np.float32).reshape(-1, 2)
        catalogue["place"] = np.full((len(item_words) + FIRST, 2), np.nan, np.float32)
        _, first = np.unique(item_ids, return_index=True)
        catalogue["place"][FIRST:] = columns["place"][first]
    if utc_offsets is not None:
        columns["utc_offset"] = np.asarray(utc_offsets, np.int32)
    for role, group in (("event", event or {}), ("meta", meta or {})):
        for name, values in group.items():
            columns[name] = _column(name, role, list(values), fields, vocabulary)
    for name, by_item in (item or {}).items():
        values = [None] * FIRST + [by_item.get(word) for word in item_words]
        catalogue[name] = _column(name, "item", values, fields, vocabulary)
    people: dict[str, np.ndarray] = {}
    for name, by_user in (user or {}).items():
        values = [None] * FIRST + [by_user.get(word) for word in user_words]
        people[name] = _column(name, "user", values, fields, vocabulary)
    return write_store(
        path,
        schema=Schema(
            items=len(item_words) + FIRST,
            users=len(user_words) + FIRST,
            epoch=EPOCH,
            place=places is not None,
            fields=tuple(fields),
        ),
        offsets=np.searchsorted(np.sort(user_ids), np.arange(len(user_words) + 1) + FIRST),
        columns={name: values[order] for name, values in columns.items()},
        items=catalogue,
        users=people,
        vocabulary={
            name: pl.Series([str(word) for word in words], dtype=pl.String)
            for name, words in vocabulary.items()
        },
        quality={},
    )


def _ids(values: Sequence[Any], words: Sequence[Any]) -> np.ndarray:
    index = {word: FIRST + k for k, word in enumerate(words)} | {None: MISSING}
    return np.asarray([index[value] for value in values], np.int32)


def _column(
    name: str, role: Any, values: list[Any], fields: list[Field], vocabulary: dict[str, list[Any]]
) -> np.ndarray:
    """One further column; its description is added to `fields`, its words to `vocabulary`."""
    sample = next((value for value in values if value is not None), None)
    if isinstance(sample, float):
        fields.append(Field(name, "numeric", role))
        return np.asarray([np.nan if value is None else value for value in values], np.float32)
    if isinstance(sample, list | tuple) and isinstance(sample[0], str):
        words = list(dict.fromkeys(word for value in values for word in value or ()))
        width = max(len(value or ()) for value in values)
        fields.append(Field(name, "multi", role, len(words) + FIRST, width))
        vocabulary[name] = words
        return np.stack([_ids([*(v or ()), *[None] * (width - len(v or ()))], words) for v in values])
    if isinstance(sample, list | tuple):
        fields.append(Field(name, "vector", role, len(sample)))
        missing = [np.nan] * len(sample)
        return np.asarray([missing if v is None else v for v in values], np.float32)
    words = list(dict.fromkeys(value for value in values if value is not None))
    fields.append(Field(name, "categorical", role, len(words) + FIRST))
    vocabulary[name] = words
    return _ids(values, words)
