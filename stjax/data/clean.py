"""From a log's columns as written to typed columns; what cannot be used is marked with its cause."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from stjax.data.fields import checked_fields, codes, given, ids, number, raw_fields, take_fields, usable
from stjax.data.log import LogColumns
from stjax.data.read import readable
from stjax.data.times import iso, plain_time, time_form

# Values of `Table.time` where there is none.
NO_TIME = -(2**63)
UNREADABLE_TIME = NO_TIME + 1

PLACE_IMPOSSIBLE = "latitude or longitude impossible"
PLACE_HALF = "latitude without longitude, or the reverse"
OFFSET_IMPOSSIBLE = "utc_offset missing or impossible (taken as 0)"


@dataclass(frozen=True)
class Table:
    """A parsed log of N rows, in the log's order.

    user, item: int32 (N,), from 1 in the order of their text, 0 is missing. time: int64 (N,) Unix
    microseconds, UTC. utc_offset: int32 (N,) seconds. latitude, longitude: float64 (N,), NaN is missing.
    fields: int32 (as user) or float64 (NaN is missing) by name. texts: the text of ids 1, 2, ... by name.
    repaired: bool (N,) by cause: something was written, or had to be, and was set to missing.
    time_form: how times are written.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    utc_offset: np.ndarray | None
    latitude: np.ndarray | None
    longitude: np.ndarray | None
    fields: dict[str, np.ndarray]
    texts: dict[str, pl.Series]
    repaired: dict[str, np.ndarray]
    time_form: str


def read_table(log: pl.LazyFrame, columns: LogColumns, name: str = "the log") -> Table:
    """Read and parse a log of selected columns. Raises LogError where it cannot be read.

    Text never lives longer than a chunk: polars streams it into dictionary codes and numbers. Only times
    in another form than the log's commonest stay as text until they are parsed with care.
    """
    with readable(name):
        form = time_form(log, columns)
        schema = log.collect_schema()
        raw = _raw(schema, columns)
        raw["time"] = plain_time(columns.time, form, schema[columns.time], _offset(columns, schema))
        # two steps, so that no conversion is done once per expression that reads it
        frame = log.select(**raw).select(**_checked(columns, form.kind == "iso"))
        frame = frame.collect(engine="streaming")

    constant = isinstance(columns.utc_offset, int)
    offset = np.full(len(frame), columns.utc_offset, np.int32) if constant else None
    if isinstance(columns.utc_offset, str):
        offset = frame.drop_in_place("utc_offset").to_numpy()
    time = frame.drop_in_place("time").to_numpy()
    if form.kind == "iso":
        time = _other_times(time, frame.drop_in_place("time text"), offset)

    texts: dict[str, pl.Series] = {}

    def taken(name: str) -> np.ndarray:
        # taken out of the frame, so that its memory goes once it has been converted
        found, texts[name] = ids(frame.drop_in_place(name), ("", *columns.missing))
        return found

    user, item = taken("user"), taken("item")
    placed = columns.latitude is not None
    latitude, longitude = (
        frame.drop_in_place(name).to_numpy() if placed else None for name in ("latitude", "longitude")
    )
    fields, field_texts, repaired = take_fields(frame, columns, schema)
    return Table(
        user=user,
        item=item,
        time=time,
        utc_offset=offset,
        latitude=latitude,
        longitude=longitude,
        fields=fields,
        texts=texts | field_texts,
        repaired=repaired,
        time_form=form.kind,
    )


def _raw(schema: pl.Schema, columns: LogColumns) -> dict[str, pl.Expr]:
    """First step: each column converted once, and whether anything was written in it."""
    raw = {name: codes(getattr(columns, name), schema) for name in ("user", "item")}
    numbers = {}
    if columns.latitude is not None and columns.longitude is not None:
        numbers |= {"latitude": columns.latitude, "longitude": columns.longitude}
    if isinstance(columns.utc_offset, str):
        numbers["utc_offset"] = columns.utc_offset
    for key, name in numbers.items():
        raw[key] = number(name, schema)
        raw[f"has {key}"] = given(name, schema, columns.missing)
    raw["has time"] = given(columns.time, schema, columns.missing)
    if schema[columns.time] == pl.String:
        raw["time text"] = pl.col(columns.time)
    return raw | raw_fields(schema, columns)


def _checked(columns: LogColumns, texts: bool) -> dict[str, pl.Expr]:
    """Second step: values that can be used, and what was repaired."""
    col, nan = pl.col, float("nan")
    out = {key: col(key) for key in ("user", "item")}
    out["time"] = pl.when("has time").then(col("time").fill_null(UNREADABLE_TIME)).otherwise(NO_TIME)
    if texts:
        out["time text"] = pl.when(col("has time") & col("time").is_null()).then("time text")
    if isinstance(columns.utc_offset, str):
        fine = usable("utc_offset", 86_400 / _scale(columns), strictly=True)
        offset = (col("utc_offset") * _scale(columns)).round().cast(pl.Int32, strict=False)
        out["utc_offset"] = pl.when(fine).then(offset).otherwise(pl.lit(0, pl.Int32))
        out[f"repaired {OFFSET_IMPOSSIBLE}"] = ~fine
    if columns.latitude is not None:
        fine = usable("latitude", 90) & usable("longitude", 180)
        out |= {key: pl.when(fine).then(key).otherwise(nan) for key in ("latitude", "longitude")}
        has_lat, has_lon = col("has latitude"), col("has longitude")
        out[f"repaired {PLACE_IMPOSSIBLE}"] = has_lat & has_lon & ~fine
        out[f"repaired {PLACE_HALF}"] = has_lat ^ has_lon
    return out | checked_fields(columns)


def _scale(columns: LogColumns) -> int:
    return 60 if columns.utc_offset_unit == "minutes" else 1


def _offset(columns: LogColumns, schema: pl.Schema) -> pl.Expr:
    """Seconds that local time is ahead of UTC; 0 where that is not known."""
    if not isinstance(columns.utc_offset, str):
        return pl.lit(columns.utc_offset or 0)
    seconds = number(columns.utc_offset, schema) * _scale(columns)
    written = given(columns.utc_offset, schema, columns.missing)
    return pl.when(written & (seconds.abs() < 86_400)).then(seconds.round()).otherwise(0)


def _other_times(time: np.ndarray, text: pl.Series, offset: np.ndarray | None) -> np.ndarray:
    """Fill in the times that the log's commonest form could not read."""
    rows = text.is_not_null().arg_true().to_numpy()
    if len(rows) == 0:
        return time
    rest = pl.DataFrame({"text": text.gather(rows)})
    ahead = pl.lit(0) if offset is None else pl.lit(pl.Series(offset[rows]))
    parsed = rest.select(iso(pl.col("text"), ahead).fill_null(UNREADABLE_TIME)).to_series()
    time = time.copy()  # polars owns the memory
    time[rows] = parsed.to_numpy()
    return time
