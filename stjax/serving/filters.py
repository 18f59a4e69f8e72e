"""What may be answered, as bits of items: seen, allowed and denied items, and values of item fields."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from stjax.events import FIRST, UNSEEN, Catalogue
from stjax.serving.candidates import best
from stjax.serving.codec import BadEvent
from stjax.serving.messages import Request
from stjax.serving.seen import WORD, Seen, flags, packed, words
from stjax.serving.vocabulary import Vocabulary


class ItemBits:
    """Sets of items as bits, uint32 (ceil(rows / 32),): bit v % 32 of word v // 32 says of item v.

    rows: of the catalogue, places reserved for new items counted. Raises BadEvent for what a request asks
    wrongly. catalogue: as NumPy arrays.
    """

    def __init__(self, catalogue: Catalogue, vocabulary: Mapping[str, Vocabulary]) -> None:
        self._catalogue, self._vocabulary = catalogue, vocabulary
        self.rows = len(catalogue.place)
        self._fields: dict[tuple[str, str], np.ndarray] = {}

    def of(self, request: Request, seen: Seen, unknown: dict[str, int]) -> np.ndarray | None:
        """The items that may be answered; None for all of them.

        seen: the user's items. unknown: counts ids of lists that the model does not know.
        """
        if not (request.exclude_seen or request.deny or request.where) and request.allow is None:
            return None
        bits = self._all() if request.allow is None else self._allowed(request.allow, unknown)
        if not isinstance(request.where, Mapping):
            raise BadEvent(f"where={request.where!r} must be lists of values by field")
        for name, values in request.where.items():
            bits &= self._having(name, values)
        if request.exclude_seen:
            seen.clear_in(bits)
        if gone := self._ids(request.deny, "deny", unknown):
            bits &= ~self._set(gone)
        return bits

    def among(self, bits: np.ndarray | None, scores: np.ndarray, count: int) -> np.ndarray:
        """The `count` best of what may be answered, by scores (V,) of the items that training has seen."""
        allowed = None if bits is None else flags(bits)
        return self._set(best(scores, allowed, count).tolist())

    def _all(self) -> np.ndarray:
        return np.full(words(self.rows), 0xFFFFFFFF, np.uint32)

    def _set(self, ids: Iterable[int]) -> np.ndarray:
        own = np.zeros(words(self.rows) * WORD, bool)
        own[list(ids)] = True
        return packed(own)

    def _allowed(self, texts: Collection[str], unknown: dict[str, int]) -> np.ndarray:
        if isinstance(texts, str) or not isinstance(texts, Collection) or not len(texts):
            raise BadEvent(f"allow={texts!r} must be ids of items, at least one; None allows all")
        ids = self._ids(texts, "allow", unknown)
        if not ids:
            raise BadEvent(f"allow: none of the {len(texts)} items is known, such as {next(iter(texts))!r}")
        return self._set(ids)

    def _ids(self, texts: Collection[str], name: str, unknown: dict[str, int]) -> list[int]:
        vocabulary = self._vocabulary["item"]
        ids = [vocabulary.id(text) for text in _texts(texts, name)]
        known = [k for k in ids if k >= FIRST]
        if len(known) < len(ids):
            unknown[f"{name}: unknown item"] = unknown.get(f"{name}: unknown item", 0) + len(ids) - len(known)
        return known

    def _having(self, name: str, values: Collection[str]) -> np.ndarray:
        items = self._catalogue.items
        if name not in items.categorical and name not in items.multi:
            have = sorted({*items.categorical, *items.multi})
            raise BadEvent(f"where: no item field {name!r} with categories; the catalogue has {have}")
        if not (texts := _texts(values, f"where: {name}")):
            raise BadEvent(f"where: {name}={values!r} must be a list of values, at least one")
        bits = np.zeros_like(self._all())
        for value in texts:
            key = name, value
            if key not in self._fields:
                number = self._vocabulary[name].id(value)
                if number == UNSEEN:
                    raise BadEvent(f"where: {name}={value!r} is no value of the catalogue")
                column = items.categorical.get(name)
                having = (items.multi[name] == number).any(axis=1) if column is None else column == number
                self._fields[key] = self._set(np.flatnonzero(having).tolist())
            bits |= self._fields[key]
        return bits


def _texts(values: Any, name: str) -> list[str]:
    """A list of ids or values. Raises BadEvent for what is none."""
    if isinstance(values, str) or not isinstance(values, Collection):
        raise BadEvent(f"{name}={values!r} must be a list of texts, not one {type(values).__name__}")
    for value in values:
        if not isinstance(value, (str, int)):
            raise BadEvent(f"{name}: {value!r} must be text")
    return [str(value) for value in values]
