"""Items that training has not seen are answered by their content, at once and after a restart."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from stjax.events import FIRST, UNSEEN
from stjax.serving import Event, Item
from stjax.serving.codec import BadEvent
from stjax.serving.journal import JournalError
from tests.serving import ALL, START, parts, plain, request, start, stream
from tests.test_serving_threads import compilations


def described(made, name: str, new: str) -> Item:
    """A new item with the content of a known one."""
    _, _, catalogue, vocabulary = made
    row, own = vocabulary["item"].id(name), catalogue.items

    def text(field: str, number: int) -> str:
        return "" if number < FIRST else vocabulary[field].text(number)

    place = catalogue.place[row]
    return Item(
        new,
        None if np.isnan(place).any() else tuple(place.tolist()),
        {
            "category": text("category", int(own.categorical["category"][row])),
            "genres": [text("genres", k) for k in own.multi["genres"][row].tolist() if k >= FIRST],
            "price": float(own.numeric["price"][row]),
            "text": own.vector["text"][row].tolist(),
        },
    )


@pytest.fixture
def made():
    """The table's rows of item5 and item7 are those of an unseen item, and so is their popularity."""
    made = parts(plain(known=("time", "place")))
    rows = [made[3]["item"].id(name) for name in ("item5", "item7")]
    own = made[2].items  # of which training has seen all values:
    own.categorical["category"][rows], own.multi["genres"][rows] = [2, 4], [[3, 5, 0], [4, 0, 0]]
    items, bias = made[1]["items"], made[1]["head"]["bias"]
    items["table"] = items["table"].at[np.asarray(rows)].set(items["table"][UNSEEN])
    others = np.delete(np.asarray(bias["bias"])[FIRST:], [row - FIRST for row in rows]).mean()
    bias["bias"] = bias["bias"].at[np.asarray(rows)].set(others)
    return made


def scores(engine, asked, k: int) -> dict[str, float]:
    found = engine.recommend([asked], k)[0]
    return dict(zip(found.items, found.scores.tolist(), strict=True))


def test_a_new_item_scores_as_one_of_the_same_content(made, tmp_path: Path) -> None:
    with start(made, capacity=2, spare_items=3, folder=tmp_path) as engine:
        last = check(engine, made)
    with start(made, capacity=2, spare_items=3, folder=tmp_path) as engine:
        assert scores(engine, request("b", 3), ALL) == pytest.approx(last, abs=1e-5)
        with pytest.raises(BadEvent, match="room for 3 new items and 'more' is one more"):
            engine.add_items([Item("more")])


def check(engine, made) -> dict[str, float]:
    """Two new items at once, one more after a snapshot. Returns the last answer to user b."""
    engine.observe(stream(40))
    asked = request("user3", 3)
    plain_scores = scores(start(made, capacity=2), request("nobody", 3), ALL)
    before = scores(engine, request("nobody", 3), ALL)
    assert before == pytest.approx(plain_scores, abs=1e-5)  # rows in reserve change nothing
    engine.warm_up()
    with compilations() as compiled:
        engine.add_items([described(made, "item5", "new5"), described(made, "item7", "new7")])
        after = scores(engine, asked, ALL)
    assert compiled == []
    assert len(after) == ALL
    for old, new in (("item5", "new5"), ("item7", "new7")):
        both = scores(engine, request("user3", 3, allow=[old, new]), 2)
        assert both[new] == pytest.approx(both[old], abs=1e-4)
    assert "new5" in scores(
        engine, request("user3", 3, where={"category": list(made[3]["category"].texts)}), ALL
    )
    # Its events are read as those of the known one are.
    for name, user in (("item5", "a"), ("new5", "b")):
        engine.observe([Event(user, name, START), Event(user, "item9", START + 50)])
    one, two = (scores(engine, request(user, 3), 5) for user in "ab")
    assert one == pytest.approx(two, abs=1e-4)
    engine.save()
    engine.add_items([described(made, "item7", "late7")])  # in the journal alone
    engine.observe([Event("b", "late7", START + 99)])
    return scores(engine, request("b", 3), ALL)


def test_a_full_disk_adds_nothing(made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with start(made, capacity=2, spare_items=2, folder=tmp_path) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(JournalError):
                engine.add_items([Item("new")])
        assert "new" not in scores(engine, request("user3", 3), ALL)
        engine.add_items([Item("new")])
        assert "new" in scores(engine, request("user3", 3, allow=["new"]), 1)


def test_what_cannot_be_added_is_told(made) -> None:
    engine = start(made, capacity=2, spare_items=2)
    for item, words in (
        (Item(""), "item='' must be an id"),
        (Item("item3"), "item 'item3' is in the catalogue already"),
        (Item("a", fields={"colour": "red"}), "no field 'colour'; .*'category'"),
        (Item("a", fields={"genres": "genres3"}), "genres='genres3' must be a list of at most 3"),
        (Item("a", fields={"text": [1.0]}), "text has 1 numbers, the model reads 4"),
    ):
        with pytest.raises(BadEvent, match=words):
            engine.add_items([item])
    assert len(scores(engine, request("user3", 3), ALL)) == ALL
    engine.add_items([Item("a", fields={"category": "never seen"})])
    assert engine.status()["counts"]["category: unseen"] == 1
