"""Times as logs write them, to Unix microseconds: Unix seconds or milliseconds, ISO 8601, datetimes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl

from stjax.data.fields import given
from stjax.data.log import LogColumns, LogError

_ISO = (
    r"^(?P<day>\d{4}-\d{2}-\d{2})(?:[Tt ](?P<clock>\d{2}:\d{2})(?P<second>:\d{2})?"
    r"(?:\.(?P<fraction>\d+))?\s?(?P<zone>[Zz]|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)?)?$"
)
_COMMON = r"^\d{4}-\d\d-\d\d(?P<mark>[T ])\d\d:\d\d:\d\d(?P<zone>Z|[+-]\d\d:\d\d|)$"
_LARGEST = 2.0**62  # clips times of any size into an int64 that is plainly out of range


@dataclass(frozen=True)
class TimeForm:
    """How a log writes its times.

    mark, zone: of an ISO log, what stands before the hour and after the seconds in most of its times.
    Those are parsed by one fast pattern; others take `iso`, with the same result.
    """

    kind: Literal["seconds", "milliseconds", "iso", "datetime"]
    mark: str = "T"
    zone: str = "Z"


def time_form(log: pl.LazyFrame, columns: LogColumns) -> TimeForm:
    """The form asked for, or decided from the first 10,000 times (see `LogColumns.time_format`).

    Raises LogError for a column that cannot be times, and for days written as numbers.
    """
    name = columns.time
    dtype = log.collect_schema()[name]
    if dtype in (pl.Datetime, pl.Date):
        return TimeForm("datetime")
    if not (dtype == pl.String or dtype == pl.Null or dtype.is_numeric()):
        raise LogError(f"time column {name!r} is {dtype}; it must be numbers, text or datetimes")
    if columns.time_format in ("seconds", "milliseconds"):
        return TimeForm(columns.time_format)
    if dtype != pl.String and columns.time_format == "iso":
        raise LogError(f"time column {name!r} is {dtype}, but time_format 'iso' needs text")

    written = given(name, log.collect_schema(), columns.missing)
    sample = log.select(name).filter(written).head(10_000).collect(engine="streaming").to_series()
    numbers = sample.cast(pl.Float64, strict=False).drop_nulls()
    if dtype != pl.String or (columns.time_format == "auto" and 2 * len(numbers) > len(sample)):
        if columns.time_format == "auto" and _are_days(numbers):
            raise LogError(
                f"times of column {name!r}, such as {numbers[0]:.0f}, look like days (YYYYMMDD), and as Unix"
                " seconds are all of 1970: write YYYY-MM-DD, or give time_format 'seconds'"
            )
        middle = numbers.abs().median()
        return TimeForm("milliseconds" if isinstance(middle, float) and middle > 1e11 else "seconds")
    common = sample.str.strip_chars().str.extract_groups(_COMMON).struct.unnest().drop_nulls()
    common = common.group_by("mark", "zone").len().sort("len", "mark", "zone", descending=True)
    return TimeForm("iso", *common.row(0)[:2]) if len(common) else TimeForm("iso")


def _are_days(numbers: pl.Series) -> bool:
    """Whether all are days of the years 1900 to 2200, written as YYYYMMDD."""
    if not len(numbers) or not numbers.is_between(19_000_101, 22_001_231).all():
        return False
    days = numbers.cast(pl.Int64).cast(pl.String).str.to_date("%Y%m%d", strict=False)
    return days.is_not_null().all()


def plain_time(name: str, form: TimeForm, dtype: pl.DataType, offset: pl.Expr) -> pl.Expr:
    """Unix microseconds of the times in the log's form, null for any other.

    offset: seconds that local time is ahead of UTC, for times without a zone.
    """
    local = offset.cast(pl.Int64) * 1_000_000
    if form.kind == "datetime":
        zone = getattr(dtype, "time_zone", None)
        time = pl.col(name).cast(pl.Datetime("us", zone)).dt.timestamp("us")
        return time if zone else time - local
    if form.kind == "iso":
        text = pl.col(name).str.strip_chars()
        pattern = f"%Y-%m-%d{form.mark}%H:%M:%S{form.zone}"
        time = text.str.to_datetime(pattern, time_unit="us", strict=False).dt.timestamp("us")
        time = pl.when(text.str.len_bytes() == 19 + len(form.zone)).then(time)
        if form.zone in ("", "Z"):
            return time - (local if form.zone == "" else 0)
        sign = -1 if form.zone[0] == "-" else 1
        return time - sign * (int(form.zone[1:3]) * 60 + int(form.zone[4:6])) * 60_000_000
    # float64 holds microseconds exactly until the year 2255
    scale = 1e6 if form.kind == "seconds" else 1e3
    text = pl.col(name).str.strip_chars() if dtype == pl.String else pl.col(name)
    number = text.cast(pl.Float64, strict=False).fill_nan(None) * scale
    return number.clip(-_LARGEST, _LARGEST).round().cast(pl.Int64, strict=False)


def iso(text: pl.Expr, offset: pl.Expr) -> pl.Expr:
    """ISO 8601 of any shape to Unix microseconds; null where it is something else."""
    part = text.str.strip_chars().str.extract_groups(_ISO).struct
    day, clock, second = part.field("day"), part.field("clock"), part.field("second")
    written = pl.concat_str(day, clock.fill_null("00:00"), second.fill_null(":00"))
    time = written.str.to_datetime("%Y-%m-%d%H:%M:%S", time_unit="us", strict=False)
    micro = part.field("fraction").str.slice(0, 6).str.pad_end(6, "0").cast(pl.Int64, strict=False)
    zone = part.field("zone").str.replace(":", "", literal=True)
    hours = zone.str.slice(1, 2).cast(pl.Int64, strict=False).fill_null(0)  # none after a Z
    minutes = zone.str.slice(3, 2).cast(pl.Int64, strict=False).fill_null(0)
    sign = pl.when(zone.str.starts_with("-")).then(-1).otherwise(1)
    ahead = pl.when(zone.is_null()).then(offset).otherwise(sign * (hours * 3600 + minutes * 60))
    return time.dt.timestamp("us") + micro.fill_null(0) - ahead.cast(pl.Int64) * 1_000_000
