"""Fields as written to typed columns: text to ids, numbers, several values in one text, vectors."""

from __future__ import annotations

import contextlib

import numpy as np
import polars as pl

from stjax.data.log import LogColumns, LogError
from stjax.data.multi import JOINT, canonical

_LARGEST = float(np.finfo(np.float32).max)


def raw_fields(schema: pl.Schema, columns: LogColumns) -> dict[str, pl.Expr]:
    """First step: each column converted once, and whether anything was written in it."""
    raw = {f"field {name}": codes(name, schema, name in columns.multi) for name in columns.texts}
    for name in columns.numbers:
        raw[f"field {name}"] = number(name, schema)
        raw[f"has field {name}"] = given(name, schema, columns.missing)
    return raw | {f"field {name}": _numbers(name, schema) for name in columns.vectors}


def checked_fields(columns: LogColumns) -> dict[str, pl.Expr]:
    """Second step: values that can be used, and what was repaired."""
    out = {f"field {name}": pl.col(f"field {name}") for name in columns.texts + columns.vectors}
    same = _as_numbers(columns.missing)
    for name in columns.numbers:
        key = f"field {name}"
        has = pl.col(f"has {key}") & ~pl.col(key).is_in(same).fill_null(False)
        # beyond float32, in which the store keeps numbers, they would become infinite
        fine = has & usable(key, _LARGEST)
        out[key] = pl.when(fine).then(key).otherwise(float("nan"))
        out[f"repaired {name}: not a number"] = has & ~fine
    return out


def take_fields(
    frame: pl.DataFrame, columns: LogColumns, schema: pl.Schema
) -> tuple[dict[str, np.ndarray], dict[str, pl.Series], dict[str, np.ndarray]]:
    """Third step: the fields' arrays, the texts behind ids 1, 2, ..., and what was repaired, by cause.

    Columns are taken out of the frame one by one, so that the memory of each goes once it is converted.
    """
    fields: dict[str, np.ndarray] = {}
    texts: dict[str, pl.Series] = {}
    repaired: dict[str, np.ndarray] = {}
    for name in columns.fields:
        column = frame.drop_in_place(f"field {name}")
        if name in columns.vectors:
            cause = f"{name}: not a vector of the common length"
            fields[name], repaired[cause] = _vectors(name, column)
        elif name in columns.texts:
            fields[name], texts[name] = ids(column, ("", *columns.missing))
        else:
            fields[name] = column.to_numpy()
        if name in columns.multi:
            separator = JOINT if schema[name].is_nested() else columns.separator
            cause = f"{name}: more than {columns.multi_width} values (the first are kept)"
            fields[name], texts[name], repaired[cause] = canonical(
                fields[name], texts[name], separator, columns.missing, columns.multi_width
            )
    keys = [key for key in frame.columns if key.startswith("repaired ")]
    return fields, texts, {key.removeprefix("repaired "): frame[key].to_numpy() for key in keys} | repaired


def codes(name: str, schema: pl.Schema, several: bool = False) -> pl.Expr:
    """A column of any simple type as dictionary codes of its text; several: lists of texts, too."""
    column, dtype = pl.col(name), schema[name]
    if several and dtype in (pl.List, pl.Array):
        lists = column.arr.to_list() if dtype == pl.Array else column
        column = lists.cast(pl.List(pl.String)).list.join(JOINT)
    elif dtype.is_nested() or dtype in (pl.Binary, pl.Object):
        raise LogError(f"column {name!r} is {dtype}; ids and categories must be plain values")
    if dtype.is_float():
        column = column.fill_nan(None)  # as pandas keeps a missing id among integers
    # A set of categories of its own: the text is freed with the frame.
    return column.cast(pl.String).cast(pl.Categorical(pl.Categories.random()))


def number(name: str, schema: pl.Schema) -> pl.Expr:
    """A column as float64; null where it is no number, or NaN."""
    dtype = schema[name]
    if not (dtype == pl.String or dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
        raise LogError(f"column {name!r} is {dtype}; numbers must be numbers or text")
    column = pl.col(name).str.strip_chars() if dtype == pl.String else pl.col(name)
    return column.cast(pl.Float64, strict=False).fill_nan(None)


def given(name: str, schema: pl.Schema, missing: tuple[str, ...]) -> pl.Expr:
    """Whether anything was written. A NaN was: it is counted, not taken for silence.

    missing: texts that mean nothing was; columns of numbers compare them as numbers.
    """
    if schema[name].is_numeric():
        return (~pl.col(name).cast(pl.Float64).is_in(_as_numbers(missing))).fill_null(False)
    if schema[name] != pl.String:
        return pl.col(name).is_not_null()
    return (~pl.col(name).str.strip_chars().is_in(["", *missing])).fill_null(False)


def usable(key: str, limit: float, strictly: bool = False) -> pl.Expr:
    """Whether a number was written and its size is not beyond the limit."""
    size = pl.col(key).abs()
    return pl.col(f"has {key}") & (size < limit if strictly else size <= limit).fill_null(False)


def ids(column: pl.Series, missing: tuple[str, ...]) -> tuple[np.ndarray, pl.Series]:
    """Dictionary codes to ids from 1 in the order of the text, whatever order polars met them in."""
    values = column.unique().drop_nulls()
    known = pl.DataFrame({"code": values.to_physical(), "text": values.cast(pl.String)})
    known = known.filter(~pl.col("text").is_in(missing)).sort("text")
    codes = known["code"].to_numpy().astype(np.int64)
    written = column.to_physical().cast(pl.Int64).fill_null(-1).to_numpy()
    table = np.zeros(int(written.max(initial=-1)) + 2, np.int32)
    table[codes + 1] = np.arange(1, len(codes) + 1)
    return table[written + 1], known["text"]


def _numbers(name: str, schema: pl.Schema) -> pl.Expr:
    """A list column as lists of float64."""
    dtype, column = schema[name], pl.col(name)
    inner = getattr(dtype, "inner", None)
    if dtype not in (pl.List, pl.Array) or inner is None or not inner.is_numeric():
        raise LogError(f"column {name!r} is {dtype}; vectors must be lists of numbers, not text")
    lists = column.arr.to_list() if dtype == pl.Array else column
    return lists.cast(pl.List(pl.Float64))


def _vectors(name: str, lists: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Lists of one length: float32 (R, N), NaN rows for what is not, and where something else was written."""
    length = lists.list.drop_nulls().list.len()
    common = length.filter(length > 0).mode().sort()
    if not len(common):
        raise LogError(f"column {name!r} holds no vector")
    width = int(common[-1])
    fits = ((length == width) & (lists.list.len() == width)).fill_null(False).to_numpy()
    values = lists.filter(pl.Series(fits)).explode().to_numpy().reshape(-1, width)
    usable = (np.abs(values) <= _LARGEST).all(axis=1)  # neither NaN nor infinite, in float32 either
    out = np.full((len(lists), width), np.nan, np.float32)
    out[np.flatnonzero(fits)[usable]] = values[usable]
    return out, lists.is_not_null().to_numpy() & np.isnan(out[:, 0])


def _as_numbers(texts: tuple[str, ...]) -> list[float]:
    """Those that are numbers."""
    found = []
    for text in texts:
        with contextlib.suppress(ValueError):
            found.append(float(text))
    return found
