"""From the files of a source to its event store: what is done once, where it is not in the cache yet."""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from stjax.data.download import fetch_wheel
from stjax.data.log import LogColumns
from stjax.data.prepare import prepare
from stjax.data.sources import (
    FoursquareNYC,
    Frappe,
    LogFiles,
    MovieLens100K,
    Quickstart,
    SyntheticCity,
    TripBuilder,
)
from stjax.data.synthetic import write_city


@functools.singledispatch
def make(source: object, files: Sequence[Path], out: Path) -> None:
    """Prepare the files of a source into the folder `out`."""
    raise TypeError(f"{type(source).__name__} is no source of stjax.data.sources")


@make.register
def quickstart(source: Quickstart, files: Sequence[Path], out: Path) -> None:
    wheel = fetch_wheel(
        "mat-data==0.1rc6",
        "mat_data-0.1rc6-py3-none-any.whl",
        "b55519844a241069f936e844b0620c05889eb59d33c50dcf1879fa96361ee0ea",
        "without a network, train on generated data: `python train.py configs/synthetic.py`",
    )
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("matdata/assets/sample/Foursquare_Sample.csv")
    coordinates = pl.col("lat_lon").str.split_exact(" ", 1).struct
    log = pl.read_csv(io.BytesIO(text), infer_schema=False).select(
        user="tid",
        time="date_time",
        latitude=coordinates.field("field_0"),
        longitude=coordinates.field("field_1"),
        weather="weather",
        category="type",
        root_category="root_type",
        price="price",
        rating="rating",
    )
    rounded = [pl.col(name).cast(pl.Float64).round(4) for name in ("latitude", "longitude")]
    log = log.with_columns(item=pl.format("{} @ {}, {}", "category", *rounded))
    columns = LogColumns(
        latitude="latitude",
        longitude="longitude",
        categorical=("weather",),
        item_categorical=("category", "root_category", "price"),
        item_numeric=("rating",),
        missing=("-1", "Unknown"),
    )
    prepare(
        log,
        columns,
        out,
        min_user_events=source.min_user_events,
        min_item_events=source.min_item_events,
    )


@make.register
def foursquare_nyc(source: FoursquareNYC, files: Sequence[Path], out: Path) -> None:
    parts = [
        pl.read_csv(file, infer_schema=False).select(
            "latitude",
            "longitude",
            user="user_id",
            item="POI_id",
            time="UTC_time",
            utc_offset="timezone",
            category="POI_catname",
            trajectory="trajectory_id",
            split=pl.lit(split),
        )
        for file, split in zip(files[:3], ("train", "validation", "test"), strict=True)
    ]
    if source.alone:
        parts.append(_alone(pl.read_csv(files[3], infer_schema=False), pl.concat(parts)))
    columns = LogColumns(
        utc_offset="utc_offset",
        utc_offset_unit="minutes",
        latitude="latitude",
        longitude="longitude",
        item_categorical=("category",),
        meta=("trajectory", "split"),
    )
    # the published row counts include equal rows
    prepare(pl.concat(parts), columns, out, keep_duplicates=True, ties=source.ties)


def _alone(log: pl.DataFrame, split: pl.DataFrame) -> pl.DataFrame:
    """The check-ins of the log that are not in the split, as its rows; whole minutes tell them apart."""
    minute = pl.col("time").str.slice(0, 16).str.replace("T", " ")
    # Where the seconds are cut off: at the end of its minute no event precedes a target that it may follow.
    last = pl.col("utc_time").str.replace(r":\d\dZ$", ":59Z")
    log = log.select(
        latitude="lat",
        longitude="lon",
        user="user_id",
        item="venue_id",
        time=pl.when(pl.col("seconds_exact") == "0").then(last).otherwise("utc_time"),
        utc_offset="tz_offset_min",
        category="category",
    ).with_columns(minute=minute)
    split = split.with_columns(minute=minute)
    train = split.filter(pl.col("split") == "train")
    learnt = (
        (pl.col("minute") <= train["minute"].max())
        & pl.col("user").is_in(train["user"].unique().implode())
        & pl.col("item").is_in(train["item"].unique().implode())
    )
    rest = log.join(split, on=["user", "item", "minute"], how="anti").with_columns(
        trajectory=pl.lit(None, pl.String), split=pl.when(learnt).then(pl.lit("train"))
    )
    # One venue has one place and category, which are the split's where it has it.
    known = split.group_by("item").agg(pl.col("latitude", "longitude", "category").first())
    rest = rest.join(known, on="item", how="left", suffix="_known", maintain_order="left")
    own = [pl.coalesce(f"{name}_known", name).alias(name) for name in ("latitude", "longitude", "category")]
    return rest.with_columns(own).select(split.drop("minute").columns)


@make.register
def movielens_100k(source: MovieLens100K, files: Sequence[Path], out: Path) -> None:
    ratings, films, users = (
        pl.read_csv(file, infer_schema=False, separator="\t", quote_char=None) for file in files
    )
    genres, year = pl.col("class:token_seq"), pl.col("release_year:token")
    films = films.select(
        item="item_id:token",
        genre=genres.str.split(" ").list.first(),
        genres=genres,
        year=pl.when(year.str.contains(r"^\d{4}$")).then(year),
    )
    users = users.select(
        user="user_id:token",
        age="age:token",
        gender="gender:token",
        occupation="occupation:token",
    )
    log = ratings.select(
        user="user_id:token",
        item="item_id:token",
        rating="rating:float",
        time="timestamp:float",
    )
    columns = LogColumns(
        time_format="seconds",
        categorical=("rating",),
        item_categorical=("genre", "year"),
        item_multi=("genres",),
        user_categorical=("gender", "occupation"),
        user_numeric=("age",),
        separator=" ",
        missing=("unknown",),
    )
    prepare(log, columns, out, items=films, users=users, ties=source.ties)


@make.register
def tripbuilder(source: TripBuilder, files: Sequence[Path], out: Path) -> None:
    visits, sights = (pl.read_csv(file, infer_schema=False) for file in files)
    first, last = pl.col("t_first").cast(pl.Int64), pl.col("t_last").cast(pl.Int64)
    visits = visits.sort("user_id", first, maintain_order=True)
    gap = first - last.shift().over("user_id")
    visits = visits.with_columns(trip=(gap < source.trip_gap_hours * 3600).not_().fill_null(True).cum_sum())
    log = visits.join(sights, on="poi_id", how="left", maintain_order="left").select(
        user="user_id",
        item="poi_id",
        time="t_first",
        latitude="lat",
        longitude="lon",
        stay=last - first,
        photos="n_photos",
        trip=pl.format("{}", "trip"),
    )
    columns = LogColumns(
        time_format="seconds",
        utc_offset=-10_800 if source.city == "pisa" else None,
        latitude="latitude",
        longitude="longitude",
        numeric=("stay", "photos"),
        item_multi=("categories",),
        meta=("trip",),
        separator=";",
    )
    sights = sights.select("categories", item="poi_id")
    prepare(log, columns, out, items=sights, years=(2001, 2013))


@make.register
def frappe(source: Frappe, files: Sequence[Path], out: Path) -> None:
    log, apps = (pl.read_csv(file, infer_schema=False) for file in files)
    context = ("daytime", "weekday", "isweekend", "homework", "weather", "country", "city")
    costs = log.group_by("item").agg(pl.col("cost").first())
    apps = apps.join(costs, on="item", how="left", maintain_order="left")
    apps = apps.select("item", "cost", "category", "language", "downloads", "rating")
    log = log.select("user", "item", *context, time=pl.lit("0"))
    columns = LogColumns(
        time_format="seconds",
        categorical=context,
        item_categorical=("cost", "category", "language", "downloads"),
        item_numeric=("rating",),
        missing=("unknown",),
    )
    order = np.random.default_rng(source.shuffle).permutation(len(log))
    prepare(log[order], columns, out, items=apps, keep_duplicates=True)


@make.register
def log_files(source: LogFiles, files: Sequence[Path], out: Path) -> None:
    prepare(
        files[: len(source.paths)],  # those of items and users follow
        source.columns,
        out,
        items=None if source.items is None else Path(source.items).expanduser(),
        users=None if source.users is None else Path(source.users).expanduser(),
        min_user_events=source.min_user_events,
        min_item_events=source.min_item_events,
        ties=source.ties,
        strict=source.strict,
    )


@make.register
def synthetic_city(source: SyntheticCity, files: Sequence[Path], out: Path) -> None:
    del files
    write_city(source.city, out)
