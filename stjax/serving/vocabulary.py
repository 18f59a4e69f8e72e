"""The ids of the model and the texts of its log, in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stjax.data.dataset import Dataset
from stjax.events import FIRST, MISSING, UNSEEN


class Vocabulary:
    """Text to id and back; what it does not know is UNSEEN, and None or "" is MISSING.

    texts: of the ids FIRST, FIRST + 1, ...
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self._ids = {text: FIRST + k for k, text in enumerate(self.texts)}

    def __len__(self) -> int:
        """Number of ids, MISSING and UNSEEN counted."""
        return FIRST + len(self.texts)

    def __contains__(self, text: str) -> bool:
        return text in self._ids

    def id(self, text: str | None) -> int:
        """The id of a text."""
        if text is None or text == "":
            return MISSING
        return self._ids.get(text, UNSEEN)

    def text(self, number: int) -> str:
        """The text of an id from FIRST on."""
        return self.texts[number - FIRST]

    def add(self, text: str) -> int:
        """A new text as the next id. Raises ValueError for one that is there."""
        if text in self._ids:
            raise ValueError(f"{text!r} is known already")
        self._ids[text] = number = len(self)
        self.texts.append(text)
        return number


def vocabularies(dataset: Dataset) -> Mapping[str, Vocabulary]:
    """Of items, users and all fields with ids: the values that training has seen, by train id."""
    found = {}
    for name, ids in dataset.remap.items():
        texts = dataset.store.vocabulary(name).to_list()
        # Train ids keep the store's order.
        found[name] = Vocabulary([t for t, k in zip(texts, ids[FIRST:].tolist(), strict=True) if k >= FIRST])
    return found
