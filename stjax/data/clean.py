"""From a log's columns as written to typed columns; what cannot be used is marked with its cause."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from stjax.data.log import LogColumns, LogError
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

    def array(key: str, vocabulary: str | None = None) -> np.ndarray:
        # taken out of the frame, so that its memory goes once it has been converted
        column = frame.drop_in_place(key)
        if vocabulary is None:
            return column.to_numpy()
        ids, texts[vocabulary] = _ids(column, ("", *columns.missing))
        return ids

    placed = columns.latitude is not None
    return Table(
        user=array("user", "user"),
        item=array("item", "item"),
        time=time,
        utc_offset=offset,
        latitude=array("latitude") if placed else None,
        longitude=array("longitude") if placed else None,
        fields={n: array(f"field {n}", n if n in columns.texts else None) for n in columns.fields},
        texts=texts,
        repaired={key.removeprefix("repaired "): array(key) for key in frame.columns},
        time_form=form.kind,
    )


def _raw(schema: pl.Schema, columns: LogColumns) -> dict[str, pl.Expr]:
    """First step: each column converted once, and whether anything was written in it."""
    raw = {name: _codes(getattr(columns, name), schema) for name in ("user", "item")}
    raw |= {f"field {name}": _codes(name, schema) for name in columns.texts}
    numbers = {f"field {name}": name for name in columns.numeric + columns.item_numeric}
    if columns.latitude is not None and columns.longitude is not None:
        numbers |= {"latitude": columns.latitude, "longitude": columns.longitude}
    if isinstance(columns.utc_offset, str):
        numbers["utc_offset"] = columns.utc_offset
    for key, name in numbers.items():
        raw[key] = _number(name, schema)
        raw[f"has {key}"] = _given(name, schema, columns.missing)
    raw["has time"] = _given(columns.time, schema, columns.missing)
    if schema[columns.time] == pl.String:
        raw["time text"] = pl.col(columns.time)
    return raw


def _checked(columns: LogColumns, texts: bool) -> dict[str, pl.Expr]:
    """Second step: values that can be used, and what was repaired."""
    col, nan = pl.col, float("nan")
    out = {key: col(key) for key in ("user", "item", *(f"field {n}" for n in columns.texts))}
    out["time"] = pl.when("has time").then(col("time").fill_null(UNREADABLE_TIME)).otherwise(NO_TIME)
    if texts:
        out["time text"] = pl.when(col("has time") & col("time").is_null()).then("time text")
    if isinstance(columns.utc_offset, str):
        fine = _usable("utc_offset", 86_400 / _scale(columns), strictly=True)
        offset = (col("utc_offset") * _scale(columns)).round().cast(pl.Int32, strict=False)
        out["utc_offset"] = pl.when(fine).then(offset).otherwise(pl.lit(0, pl.Int32))
        out[f"repaired {OFFSET_IMPOSSIBLE}"] = ~fine
    if columns.latitude is not None:
        fine = _usable("latitude", 90) & _usable("longitude", 180)
        out |= {key: pl.when(fine).then(key).otherwise(nan) for key in ("latitude", "longitude")}
        has_lat, has_lon = col("has latitude"), col("has longitude")
        out[f"repaired {PLACE_IMPOSSIBLE}"] = has_lat & has_lon & ~fine
        out[f"repaired {PLACE_HALF}"] = has_lat ^ has_lon
    same = [number for number in map(_as_number, columns.missing) if number is not None]
    for name in columns.numeric + columns.item_numeric:
        key = f"field {name}"
        has = col(f"has {key}") & ~col(key).is_in(same).fill_null(False)
        # beyond float32, in which the store keeps numbers, they would become infinite
        fine = has & _usable(key, float(np.finfo(np.float32).max))
        out[key] = pl.when(fine).then(key).otherwise(nan)
        out[f"repaired {name}: not a number"] = has & ~fine
    return out


def _codes(name: str, schema: pl.Schema) -> pl.Expr:
    """A column of any simple type as dictionary codes of its text."""
    if schema[name].is_nested() or schema[name] in (pl.Binary, pl.Object):
        raise LogError(f"column {name!r} is {schema[name]}; ids and categories must be plain values")
    # A set of categories of its own: the text is freed with the frame.
    return pl.col(name).cast(pl.String).cast(pl.Categorical(pl.Categories.random()))


def _number(name: str, schema: pl.Schema) -> pl.Expr:
    """A column as float64; null where it is no number, or NaN."""
    dtype = schema[name]
    if not (dtype == pl.String or dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
        raise LogError(f"column {name!r} is {dtype}; numbers must be numbers or text")
    column = pl.col(name).str.strip_chars() if dtype == pl.String else pl.col(name)
    return column.cast(pl.Float64, strict=False).fill_nan(None)


def _given(name: str, schema: pl.Schema, missing: tuple[str, ...]) -> pl.Expr:
    """Whether anything was written. A NaN was: it is counted, not taken for silence."""
    if schema[name] != pl.String:
        return pl.col(name).is_not_null()
    return (~pl.col(name).str.strip_chars().is_in(["", *missing])).fill_null(False)


def _usable(key: str, limit: float, strictly: bool = False) -> pl.Expr:
    size = pl.col(key).abs()
    return pl.col(f"has {key}") & (size < limit if strictly else size <= limit).fill_null(False)


def _scale(columns: LogColumns) -> int:
    return 60 if columns.utc_offset_unit == "minutes" else 1


def _offset(columns: LogColumns, schema: pl.Schema) -> pl.Expr:
    """Seconds that local time is ahead of UTC; 0 where that is not known."""
    if not isinstance(columns.utc_offset, str):
        return pl.lit(columns.utc_offset or 0)
    seconds = _number(columns.utc_offset, schema) * _scale(columns)
    given = _given(columns.utc_offset, schema, columns.missing)
    return pl.when(given & (seconds.abs() < 86_400)).then(seconds.round()).otherwise(0)


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


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


def _ids(column: pl.Series, missing: tuple[str, ...]) -> tuple[np.ndarray, pl.Series]:
    """Dictionary codes to ids from 1 in the order of the text, whatever order polars met them in."""
    values = column.unique().drop_nulls()
    known = pl.DataFrame({"code": values.to_physical(), "text": values.cast(pl.String)})
    known = known.filter(~pl.col("text").is_in(missing)).sort("text")
    codes = known["code"].to_numpy().astype(np.int64)
    written = column.to_physical().cast(pl.Int64).fill_null(-1).to_numpy()
    table = np.zeros(int(written.max(initial=-1)) + 2, np.int32)
    table[codes + 1] = np.arange(1, len(codes) + 1)
    return table[written + 1], known["text"]
