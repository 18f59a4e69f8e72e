"""Tables of items and of users that stand beside a log: one row an id, with its attributes."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from stjax.data.fields import checked_fields, raw_fields, take_fields
from stjax.data.log import LogColumns, LogError
from stjax.data.multi import numbered
from stjax.data.read import readable, scan_file, select
from stjax.events import FIRST, MISSING

TableFile = pl.LazyFrame | pl.DataFrame | str | os.PathLike[str]


@dataclass(frozen=True)
class SideTable:
    """A parsed table of R rows. Raises LogError where it cannot be used.

    name: as in messages. ids: text (R,), null where missing. fields, texts, repaired: as in `Table`.
    """

    name: str
    ids: pl.Series
    fields: dict[str, np.ndarray]
    texts: dict[str, pl.Series]
    repaired: dict[str, np.ndarray]

    @classmethod
    def read(cls, table: TableFile, columns: LogColumns, role: str) -> SideTable:
        """Read the fields of a role (`item` or `user`) that the table has a column for."""
        if isinstance(table, pl.LazyFrame | pl.DataFrame):
            name, frame = f"the table of {role}s", table.lazy()
        else:
            name, frame = str(table), scan_file(Path(table))
        wanted = columns.item_fields if role == "item" else columns.user_fields
        key = columns.item if role == "item" else columns.user
        with readable(name):
            there = frame.collect_schema().names()
            fields = [field for field in wanted if field in there]
            if not fields:
                raise LogError(f"{name} has none of the {role} fields {list(wanted)}; it has {there}")
            columns = columns.only(fields)
            needed = {key: f"{role} ids"} | {field: f"field {field}" for field in fields}
            frame = select(frame, needed, name)
            schema = frame.collect_schema()
            if schema[key].is_nested():
                raise LogError(f"{name}: column {key!r} is {schema[key]}; ids must be plain values")
            ids = pl.col(key).fill_nan(None) if schema[key].is_float() else pl.col(key)
            parsed = frame.select(ids.cast(pl.String).alias("id"), **raw_fields(schema, columns))
            parsed = parsed.select("id", **checked_fields(columns)).collect(engine="streaming")
        if not len(parsed):
            raise LogError(f"{name} is empty: it has a header at most, and no rows")
        ids = parsed.drop_in_place("id")
        gone = ids.is_in(["", *columns.missing])
        ids = pl.select(pl.when(gone).then(None).otherwise(ids)).to_series()
        return cls(name, ids, *take_fields(parsed, columns, schema))

    def matched(self, vocabulary: pl.Series) -> np.ndarray:
        """The store's id of each row, int32, MISSING for ids without events.

        Raises LogError where no row has an id of the log.
        """
        found = numbered(vocabulary, FIRST, self.ids)
        if not (found != MISSING).any():
            raise LogError(
                f"{self.name}: none of its {len(found)} ids, such as {self.ids.drop_nulls()[:3].to_list()}, "
                f"is in the log, which has {vocabulary[:3].to_list()}: ids must be written alike"
            )
        return found

    def rows(self, which: np.ndarray) -> SideTable:
        """Some of the rows."""
        return dataclasses.replace(
            self,
            ids=self.ids.filter(pl.Series(which)),
            fields={name: column[which] for name, column in self.fields.items()},
            repaired={cause: hit[which] for cause, hit in self.repaired.items()},
        )

    @property
    def problems(self) -> dict[str, np.ndarray]:
        """What strict preparation refuses: bool (R,) by cause."""
        return {"rows without an id": self.ids.is_null().to_numpy()} | self.repaired
