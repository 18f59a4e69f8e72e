"""Where the events of an experiment come from: frozen descriptions that open an event store.

A store is made once, in the cache folder, under a name that depends on every parameter, on the size and
time of the files read, and on the version numbers below; later runs map it.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from typing import Protocol as StructuralType

import numpy as np
import polars as pl

from stjax.cache import cache_folder
from stjax.data.city import City
from stjax.data.download import SourceError, fetch_wheel
from stjax.data.log import LogColumns
from stjax.data.prepare import prepare
from stjax.data.rows import Ties
from stjax.data.store import FORMAT, EventStore, StoreError
from stjax.data.synthetic import write_city

# Raise it when the same parameters should give another store than before.
VERSION = 2


class Source(StructuralType):
    """What every source here can do."""

    def open(self) -> EventStore: ...


@dataclass(frozen=True)
class Quickstart:
    """Check-ins in New York, April 2012 to February 2013, with weather, price level and rating.

    66,962 events from the sample in the PyPI package `mat-data` (about 7 MB, downloaded once). A user is
    one person's week (`tid`). Times are local, and kept as if they were UTC. A venue is its type and its
    coordinates to 4 decimals (11 m); venues and weeks with fewer events than the minimum are left out and
    counted in the quality report.
    """

    min_user_events: int = 3
    min_item_events: int = 2

    def open(self) -> EventStore:
        """Download, prepare and open. Raises SourceError without a network."""
        return _cached("quickstart", self, (), self._prepare)

    def _prepare(self, out: Path) -> None:
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
            min_user_events=self.min_user_events,
            min_item_events=self.min_item_events,
        )


@dataclass(frozen=True)
class FoursquareNYC:
    """Foursquare check-ins in New York with the GETNext split, in the meta fields `split`, `trajectory`.

    folder: holds train.csv.gz, val.csv.gz and test.csv.gz; by default `foursquare_nyc` in $STJAX_DATA or
    in ../shared/data. ties: see `stjax.data.prepare`; 121 events have the time of their user's previous one.
    alone: add the 42,888 check-ins of the log (checkins.csv.gz) that the split leaves out, nearly all of them
    alone or in twos within a day. They are of no trajectory and never targets. Those before the end of the
    training part, of users and venues that it knows, train too, so that vocabularies and targets stay as they
    are; the others may be read. Source: Yang et al., TSMC 2015 (log), SIGIR 2022 (split).
    """

    folder: str | None = None
    ties: Ties = "log"
    alone: bool = False

    def open(self) -> EventStore:
        """Prepare once and open. Raises SourceError where a file is missing."""
        names = ["train.csv.gz", "val.csv.gz", "test.csv.gz"] + ["checkins.csv.gz"] * self.alone
        files = _files(self.folder, "foursquare_nyc", names)
        return _cached("foursquare-nyc", self, files, lambda out: self._prepare(files, out))

    def _prepare(self, files: Sequence[Path], out: Path) -> None:
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
        if self.alone:
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
        prepare(pl.concat(parts), columns, out, keep_duplicates=True, ties=self.ties)


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


@dataclass(frozen=True)
class MovieLens100K:
    """100,000 film ratings; item fields `genre` (the first named), `genres` (all of them) and `year`; user
    fields `age`, `gender` and `occupation`.

    folder: holds ml-100k.inter.tsv.gz, ml-100k.item.tsv.gz and ml-100k.user.tsv.gz in RecBole's columns; by
    default `movielens_100k` in $STJAX_DATA or in ../shared/data. No places. ties: see `stjax.data.prepare`;
    half of the ratings have the time of their user's previous one. Source: Harper and Konstan, TiiS 2015.
    """

    folder: str | None = None
    ties: Ties = "log"

    def open(self) -> EventStore:
        """Prepare once and open. Raises SourceError where a file is missing."""
        names = [f"ml-100k.{part}.tsv.gz" for part in ("inter", "item", "user")]
        files = _files(self.folder, "movielens_100k", names)
        return _cached("movielens-100k", self, files, lambda out: self._prepare(files, out))

    def _prepare(self, files: Sequence[Path], out: Path) -> None:
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
        prepare(log, columns, out, items=films, users=users, ties=self.ties)


@dataclass(frozen=True)
class TripBuilder:
    """Visits of tourists to the sights of Florence or Pisa, rebuilt from dated photos; meta field `trip`.

    The time of a visit is that of its first photo; its event fields are `stay`, the seconds to its last
    photo, and `photos`, their number. Item fields: `categories` (several), place. Visits dated outside 2001
    to 2013 come from camera clocks gone wrong: dropped and counted. A trip is the visits of a user with less
    than `trip_gap_hours` between the last photo of one and the first of the next; 6 gives the trips
    published for Florence, 3 those for Pisa.
    In Pisa local time is 3 hours behind the written one, which is put right through the UTC offset. What the
    clock of Florence shows is unknown, and its times are left as written: hours of the day may be shifted,
    the same for all.

    city: florence or pisa. folder: holds CITY_visits.csv.gz and CITY_pois.csv.gz; by default `tripbuilder` in
    $STJAX_DATA or in ../shared/data. Source: Brilhante et al., CIKM 2013.
    """

    city: Literal["florence", "pisa"] = "florence"
    trip_gap_hours: float = 6.0
    folder: str | None = None

    def open(self) -> EventStore:
        """Prepare once and open. Raises SourceError where a file is missing."""
        files = _files(
            self.folder, "tripbuilder", [f"{self.city}_{part}.csv.gz" for part in ("visits", "pois")]
        )
        return _cached(f"tripbuilder-{self.city}", self, files, lambda out: self._prepare(files, out))

    def _prepare(self, files: Sequence[Path], out: Path) -> None:
        visits, sights = (pl.read_csv(file, infer_schema=False) for file in files)
        first, last = pl.col("t_first").cast(pl.Int64), pl.col("t_last").cast(pl.Int64)
        visits = visits.sort("user_id", first, maintain_order=True)
        gap = first - last.shift().over("user_id")
        visits = visits.with_columns(trip=(gap < self.trip_gap_hours * 3600).not_().fill_null(True).cum_sum())
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
            utc_offset=-10_800 if self.city == "pisa" else None,
            latitude="latitude",
            longitude="longitude",
            numeric=("stay", "photos"),
            item_multi=("categories",),
            meta=("trip",),
            separator=";",
        )
        sights = sights.select("categories", item="poi_id")
        prepare(log, columns, out, items=sights, years=(2001, 2013))


@dataclass(frozen=True)
class Frappe:
    """96,203 uses of smartphone apps, each an app in a context: event fields `daytime`, `weekday`,
    `isweekend`, `homework`, `weather`, `country`, `city`; item fields `cost`, `category`, `language`,
    `downloads`, `rating`.

    There are no times: all events have the same, and `shuffle`, a seed, decides the order of rows, so that
    the order of the file tells nothing. The file has `cost` (free or paid) in each row as if it were context,
    but it is the same in all rows of an app: here it is an item field, since as context it would tell of the
    answer.

    folder: holds frappe.csv.gz and apps.csv.gz; by default `frappe` in $STJAX_DATA or in ../shared/data.
    Source: Baltrunas et al., arXiv 1505.03014, 2015.
    """

    folder: str | None = None
    shuffle: int = 0

    def open(self) -> EventStore:
        """Prepare once and open. Raises SourceError where a file is missing."""
        files = _files(self.folder, "frappe", ["frappe.csv.gz", "apps.csv.gz"])
        return _cached("frappe", self, files, lambda out: self._prepare(files, out))

    def _prepare(self, files: Sequence[Path], out: Path) -> None:
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
        order = np.random.default_rng(self.shuffle).permutation(len(log))
        prepare(log[order], columns, out, items=apps, keep_duplicates=True)


@dataclass(frozen=True)
class LogFiles:
    """Your own log: CSV, Parquet or JSON lines files, whose columns `columns` names.

    items, users: a file each with fields of items and of users, see `stjax.data.prepare`.
    ties: order of a user's events at one time, see there. strict: refuse a log with any row that would be
    repaired or dropped.
    """

    paths: tuple[str, ...]
    columns: LogColumns = field(default_factory=LogColumns)
    items: str | None = None
    users: str | None = None
    min_user_events: int = 1
    min_item_events: int = 1
    ties: Ties = "log"
    strict: bool = False

    def open(self) -> EventStore:
        """Prepare once and open. Raises SourceError for a missing file, LogError for its content."""
        sides = [path for path in (self.items, self.users) if path is not None]
        files = [Path(path).expanduser() for path in (*self.paths, *sides)]
        if missing := [str(file) for file in files if not file.is_file()]:
            raise SourceError(f"no such file: {', '.join(missing)}; correct `paths`, `items` or `users`")
        return _cached("log", self, files, lambda out: self._prepare(files[: len(self.paths)], out))

    def _prepare(self, files: Sequence[Path], out: Path) -> None:
        prepare(
            files,
            self.columns,
            out,
            items=None if self.items is None else Path(self.items).expanduser(),
            users=None if self.users is None else Path(self.users).expanduser(),
            min_user_events=self.min_user_events,
            min_item_events=self.min_item_events,
            ties=self.ties,
            strict=self.strict,
        )


@dataclass(frozen=True)
class StoreFolder:
    """An event store that `python -m stjax.data prepare` has made."""

    path: str

    def open(self) -> EventStore:
        """Open it. Raises StoreError where it is not a store."""
        return EventStore.open(Path(self.path).expanduser())


@dataclass(frozen=True)
class SyntheticCity:
    """A generated city, offline and of any size, with known next-item probabilities (`Oracle`)."""

    city: City = field(default_factory=City)

    def open(self) -> EventStore:
        """Generate once and open."""
        return _cached("city", self, (), lambda out: write_city(self.city, out))


def _files(folder: str | None, name: str, files: Sequence[str]) -> list[Path]:
    """The files of a data set. Raises SourceError with the folder looked at and how to name another."""
    data = Path(os.environ.get("STJAX_DATA") or Path("..", "shared", "data"))
    base = Path(folder) if folder else data / name
    paths = [base.expanduser() / file for file in files]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise SourceError(
            f"{base.expanduser().absolute()} lacks {', '.join(missing)}: give `folder`, or set STJAX_DATA to "
            f"the folder that holds {name}"
        )
    return paths


def _cached(kind: str, source: object, files: Sequence[Path], make: Callable[[Path], object]) -> EventStore:
    """Open the source's store in the cache; make it if it is not there. Safe among processes."""
    stamps = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    key = hashlib.sha256(repr((source, stamps, VERSION, FORMAT)).encode()).hexdigest()[:16]
    out = cache_folder("stores") / f"{kind}-{key}"
    if not _is_store(out):
        try:
            make(out)
        except (StoreError, OSError):
            if not _is_store(out):  # else another process has finished the same store meanwhile
                raise
    return EventStore.open(out)


def _is_store(path: Path) -> bool:
    return (path / "schema.json").is_file()
