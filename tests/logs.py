"""Small logs for tests of preparation, and times as the store gives them back."""

from __future__ import annotations

import datetime

import numpy as np
import polars as pl

from stjax.data.store import EventStore
from stjax.events import FIRST

UTC = datetime.UTC


def simple(times: list, **more: list) -> pl.DataFrame:
    """One user and item, so that only times matter."""
    return pl.DataFrame({"user": ["u"] * len(times), "item": ["i"] * len(times), "time": times} | more)


def utc(store: EventStore) -> list[int]:
    return (store.columns["time"].astype(np.int64) + store.schema.epoch).tolist()


def unix(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp())


def text_of(store: EventStore, name: str, ids: np.ndarray) -> list[str | None]:
    known = store.vocabulary(name).to_list()
    return [known[i - FIRST] if i >= FIRST else None for i in ids.tolist()]
