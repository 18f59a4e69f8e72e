"""What the columns of a raw log mean, named on the command line or in a small schema file."""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
import types
import typing
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stjax.errors import UserError

# Names that the event store and the query use themselves.
RESERVED = ("user", "item", "time", "utc_offset", "place")

Ties = Literal["log", "hash"]  # which of a user's events at one time is first, see `stjax.data.prepare`


class LogError(UserError):
    """A log that cannot be prepared; the message names the column or file, and the remedy."""


@dataclass(frozen=True)
class LogColumns:
    """Names of the log's columns by meaning. Ids and categorical values are text, kept as written.

    Raises LogError for names that clash or cannot be file names.
    """

    user: str = "user"
    """Column of user ids."""
    item: str = "item"
    """Column of item ids."""
    time: str = "time"
    """Column of times. Unix times are UTC. ISO 8601 takes `T` or a space, a fraction, and `Z`, an offset
    or neither; a time with neither is local, and UTC = local - utc_offset."""
    time_format: Literal["auto", "seconds", "milliseconds", "iso"] = "auto"
    """`auto` decides from the first 10,000 times: ISO 8601 unless most are numbers; these are milliseconds
    where their median magnitude is above 1e11, otherwise seconds."""
    utc_offset: int | str | None = None
    """What local time is ahead of UTC: a column, or seconds for the whole log."""
    utc_offset_unit: Literal["seconds", "minutes"] = "seconds"
    """Unit of a utc_offset column."""
    latitude: str | None = None
    """Column of latitudes in degrees. The catalogue keeps as each item's own place that of its first event in
    the log that has one, whatever a protocol makes of that event: where places are not of items but of users
    (GPS), and the request's is known, that may tell of a target; `train.py` counts such targets."""
    longitude: str | None = None
    """Column of longitudes in degrees."""
    categorical: tuple[str, ...] = ()
    """Event fields that are text: device, scene."""
    numeric: tuple[str, ...] = ()
    """Event fields that are numbers."""
    item_categorical: tuple[str, ...] = ()
    """Fields of the item that are text. The catalogue keeps each item's first value that is not missing."""
    item_numeric: tuple[str, ...] = ()
    """Fields of the item that are numbers."""
    item_multi: tuple[str, ...] = ()
    """Fields of the item with several values: genres, tags. A text of values with `separator` between them,
    or a list of texts, of Parquet or JSON lines."""
    item_vector: tuple[str, ...] = ()
    """Fields of the item that are vectors: lists of numbers, in the table of items only."""
    user_categorical: tuple[str, ...] = ()
    """Fields of the user that are text, kept as those of the item are."""
    user_numeric: tuple[str, ...] = ()
    """Fields of the user that are numbers."""
    user_multi: tuple[str, ...] = ()
    """Fields of the user with several values."""
    user_vector: tuple[str, ...] = ()
    """Fields of the user that are vectors, in the table of users only."""
    separator: str = "|"
    """What stands between the values of one text; values are stripped, empty and repeated ones dropped."""
    multi_width: int = 16
    """Values that a field with several values keeps of each text; the rest is dropped and counted."""
    meta: tuple[str, ...] = ()
    """Text columns that protocols read and models never see."""
    missing: tuple[str, ...] = ()
    """Texts that mean missing in any column, beside the empty text. Numeric fields, and columns that are
    numbers in the file, compare them as numbers, so that "-1" covers -1.0."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(f.default, tuple) and isinstance(value, str):
                raise LogError(f"{f.name}={value!r} must be a tuple of names, as ({value!r},)")
        if (self.latitude is None) != (self.longitude is None):
            raise LogError("give both latitude and longitude, or neither")
        if len({self.user, self.item, self.time}) < 3:
            raise LogError(
                f"user={self.user!r}, item={self.item!r} and time={self.time!r} must be three different"
                " columns"
            )
        if isinstance(self.utc_offset, int) and self.utc_offset_unit != "seconds":
            raise LogError(
                f"utc_offset_unit={self.utc_offset_unit!r} is of a column; utc_offset={self.utc_offset} of"
                " the whole log is in seconds: give it so, and leave the unit out"
            )
        if isinstance(self.utc_offset, int) and abs(self.utc_offset) >= 86_400:
            raise LogError(f"utc_offset={self.utc_offset} is not below 86400 seconds in size")
        if not self.separator:
            raise LogError("separator is empty: give the text that stands between values")
        if self.multi_width < 1:
            raise LogError(f"multi_width={self.multi_width} must be at least 1")
        fields = self.fields
        if twice := sorted({name for name in fields if fields.count(name) > 1}):
            raise LogError(f"column {twice} has two roles; give each field one")
        for name in fields:
            if name in RESERVED:
                raise LogError(f"field {name!r} clashes with the store's own column: rename it")
            if name != Path(name).name or name.startswith(".") or "\0" in name:
                raise LogError(f"field {name!r} cannot be a file name in the store: rename it")

    @property
    def item_fields(self) -> tuple[str, ...]:
        """Names of the item's fields."""
        return self.item_categorical + self.item_numeric + self.item_multi + self.item_vector

    @property
    def user_fields(self) -> tuple[str, ...]:
        """Names of the user's fields."""
        return self.user_categorical + self.user_numeric + self.user_multi + self.user_vector

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of all event, item, user and meta fields."""
        return self.categorical + self.numeric + self.item_fields + self.user_fields + self.meta

    @property
    def texts(self) -> tuple[str, ...]:
        """The fields that have a vocabulary."""
        return self.categorical + self.item_categorical + self.user_categorical + self.multi + self.meta

    @property
    def numbers(self) -> tuple[str, ...]:
        """The fields that are numbers."""
        return self.numeric + self.item_numeric + self.user_numeric

    @property
    def multi(self) -> tuple[str, ...]:
        """The fields with several values."""
        return self.item_multi + self.user_multi

    @property
    def vectors(self) -> tuple[str, ...]:
        """The fields that are vectors."""
        return self.item_vector + self.user_vector

    def role(self, name: str) -> Literal["event", "item", "user", "meta"]:
        """Whose field it is."""
        if name in self.item_fields:
            return "item"
        if name in self.user_fields:
            return "user"
        return "meta" if name in self.meta else "event"

    def kind(self, name: str) -> Literal["categorical", "multi", "numeric", "vector"]:
        """What its values are."""
        if name in self.multi:
            return "multi"
        if name in self.vectors:
            return "vector"
        return "numeric" if name in self.numbers else "categorical"

    def only(self, names: Collection[str]) -> LogColumns:
        """The same with no other fields than these."""
        groups = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "missing"}
        kept = {
            key: tuple(name for name in group if name in names)
            for key, group in groups.items()
            if isinstance(group, tuple)
        }
        return dataclasses.replace(self, **kept)

    @property
    def needed(self) -> dict[str, str]:
        """The columns that the log must have -> the role that asks for each."""
        roles = {"user": self.user, "item": self.item, "time": self.time}
        roles |= {"latitude": self.latitude, "longitude": self.longitude}
        if isinstance(self.utc_offset, str):
            roles["utc_offset"] = self.utc_offset
        roles |= {f"field {name}": name for name in self.fields}
        return {column: role for role, column in reversed(roles.items()) if column is not None}

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> LogColumns:
        """Load the same names from a TOML or JSON file. Raises LogError with what is wrong in it."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except OSError as error:
            raise LogError(f"schema file {path}: {error.strerror}") from error
        except ValueError as error:  # not UTF-8, not TOML, not JSON
            raise LogError(f"schema file {path} is not valid: {error}") from error
        if not isinstance(values, dict):
            raise LogError(f"schema file {path} must hold names and values, not {values!r}")
        allowed = typing.get_type_hints(cls)
        if unknown := sorted(set(values) - set(allowed)):
            raise LogError(f"schema file {path} has unknown names {unknown}; known: {[*allowed]}")
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(value)
            if not _fits(values[name], allowed[name]):
                raise LogError(f"schema file {path}: {name} = {value!r} should be {allowed[name]}")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """The names as plain values, for JSON."""
        return dataclasses.asdict(self)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value from a file has the annotated type (the few that LogColumns uses)."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        return value in typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, k) for k in typing.get_args(kind))
    if origin is tuple:
        return isinstance(value, tuple) and all(isinstance(v, str) for v in value)
    return isinstance(value, kind) and not isinstance(value, bool)
