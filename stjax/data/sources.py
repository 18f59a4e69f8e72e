"""Where the events of an experiment come from: frozen descriptions that open an event store.

A store is made once, in the cache folder, under a name that depends on every parameter, on the size and
time of the files read, and on the version numbers below; later runs map it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from typing import Protocol as StructuralType

from stjax.cache import cache_folder
from stjax.data.city import City
from stjax.data.download import SourceError
from stjax.data.log import LogColumns, Ties
from stjax.data.store import FORMAT, EventStore, StoreError

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
        return _cached("quickstart", self, ())


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
        return _cached("foursquare-nyc", self, files)


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
        return _cached("movielens-100k", self, files)


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
        return _cached(f"tripbuilder-{self.city}", self, files)


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
        return _cached("frappe", self, files)


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

    def __post_init__(self) -> None:
        if isinstance(self.paths, str):
            raise SourceError(f"paths={self.paths!r} must be a tuple of files, as ({self.paths!r},)")

    def open(self) -> EventStore:
        """Prepare once and open. Raises SourceError for a missing file, LogError for its content."""
        sides = [path for path in (self.items, self.users) if path is not None]
        files = [Path(path).expanduser() for path in (*self.paths, *sides)]
        if missing := [str(file) for file in files if not file.is_file()]:
            raise SourceError(f"no such file: {', '.join(missing)}; correct `paths`, `items` or `users`")
        return _cached("log", self, files)


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
        return _cached("city", self, ())


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


def _cached(kind: str, source: object, files: Sequence[Path]) -> EventStore:
    """Open the source's store in the cache; make it if it is not there. Safe among processes."""
    stamps = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    key = hashlib.sha256(repr((source, stamps, VERSION, FORMAT)).encode()).hexdigest()[:16]
    out = cache_folder("stores") / f"{kind}-{key}"
    if not _is_store(out):
        from stjax.data.raw import make  # here: Polars is slow to import, and most runs find their store

        try:
            make(source, files, out)
        except (StoreError, OSError):
            if not _is_store(out):  # else another process has finished the same store meanwhile
                raise
    return EventStore.open(out)


def _is_store(path: Path) -> bool:
    return (path / "schema.json").is_file()
