"""The catalogue of an engine: what training has seen, and rows in reserve for items that come later."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stjax.events import MISSING, Attributes, Catalogue, Field
from stjax.serving.codec import BadEvent, Codec, check_id
from stjax.serving.messages import Item


@dataclass(frozen=True)
class Prepared:
    """An item that may be added. values: what its fields keep, by name."""

    item: Item
    place: tuple[float, float]
    values: Mapping[str, Any]


class Items:
    """The catalogue as NumPy arrays, with `spare` rows after those that training has seen."""

    def __init__(self, catalogue: Catalogue, codec: Codec, spare: int) -> None:
        self._codec, self._words = codec, codec.vocabulary["item"]
        self.spare = spare
        self.catalogue = reserved(catalogue, spare) if spare else catalogue
        self._fields = {f.name: f for f in catalogue.schema.fields if f.role == "item"}
        self.added: list[Item] = []

    def prepared(self, item: Item) -> Prepared:
        """Check an item; changes nothing. Raises BadEvent where it cannot be used, or no row is left.

        What its fields say that training has not seen is counted, as for events.
        """
        name = check_id("item", item.id)
        if name in self._words:
            raise BadEvent(f"item {name!r} is in the catalogue already")
        if len(self.added) >= self.spare:
            raise BadEvent(
                f"there is room for {self.spare:,} new items and {name!r} is one more: start the engine with"
                " more `spare_items`"
            )
        if wrong := sorted(set(item.fields) - set(self._fields)):
            raise BadEvent(
                f"item {name!r} has no field {wrong[0]!r}; the catalogue has {sorted(self._fields)}"
            )
        values = {field: self._value(self._fields[field], value) for field, value in item.fields.items()}
        # What is not a number is unknown, in the snapshots' JSON, too.
        unknown = {n for n, v in values.items() if np.asarray(v).dtype.kind == "f" and np.isnan(v).any()}
        place = self._codec.place(item.place)
        kept = dataclasses.replace(
            item,
            place=None if math.isnan(place[0]) else item.place,
            fields={**item.fields, **dict.fromkeys(unknown)},
        )
        return Prepared(kept, place, values)

    def add(self, new: Prepared) -> None:
        """Use one more row for an item that was prepared just before."""
        row = self._words.add(str(new.item.id))
        self.catalogue.place[row] = new.place
        for field, value in new.values.items():
            column = getattr(self.catalogue.items, self._fields[field].kind)[field]
            column[row] = value
        self.added.append(new.item)
        self.catalogue = dataclasses.replace(self.catalogue, count=np.int32(len(self._words)))

    def _value(self, f: Field, value: Any) -> Any:
        if f.kind != "multi":
            return self._codec.value(f, value)
        texts = () if value is None else value
        good = isinstance(texts, (list, tuple, np.ndarray)) and len(texts) <= f.width
        if not good or not all(isinstance(text, (str, int)) for text in texts):
            raise BadEvent(f"item field {f.name}={value!r} must be a list of at most {f.width} texts")
        ids = [self._codec.known(f.name, str(text)) for text in texts]
        return np.asarray(ids + [MISSING] * (f.width - len(ids)), np.int32)


def reserved(catalogue: Catalogue, spare: int) -> Catalogue:
    """A copy with so many more rows of items, of which nothing is known."""

    def longer(x: np.ndarray, missing: float) -> np.ndarray:
        return np.concatenate([x, np.full((spare, *x.shape[1:]), missing, x.dtype)])

    def all_of(columns: Mapping[str, np.ndarray], missing: float) -> dict[str, np.ndarray]:
        return {name: longer(np.asarray(column), missing) for name, column in columns.items()}

    own = catalogue.items
    return dataclasses.replace(
        catalogue,
        place=longer(np.asarray(catalogue.place), math.nan),
        items=Attributes(
            categorical=all_of(own.categorical, MISSING),
            multi=all_of(own.multi, MISSING),
            numeric=all_of(own.numeric, math.nan),
            vector=all_of(own.vector, math.nan),
        ),
        count=np.int32(catalogue.schema.items),
    )
