"""What users had, packed: exact against Python's sets, bounded, and the same after a restart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stjax.events import FIRST
from stjax.serving import Event, Item, Request
from stjax.serving.seen import Seen, flags, packed, words
from tests.counting import ITEMS, SCHEMA, counting
from tests.serving import START, parts, plain, start

ROWS = [1, 2, 31, 37, 67, 1_009, 20_011]


def assert_is(own: Seen, expected: set[int], random: np.random.Generator) -> None:
    rows = own.rows
    np.testing.assert_array_equal(own.ids(), np.asarray(sorted(expected), np.int32))
    assert own.ids().dtype == np.int32 and list(own) == sorted(expected) and len(own) == len(expected)
    for item in random.integers(-rows, 2 * rows, 67).tolist():  # those out of range among them
        assert (item in own) == (item in expected)
    before = packed(random.random(words(rows) * 32) < 0.7)
    after = before.copy()
    own.clear_in(after)
    left = set(np.flatnonzero(flags(before)).tolist()) - expected
    assert set(np.flatnonzero(flags(after)).tolist()) == left
    assert own.nbytes == min(4 * len(expected), 4 * words(rows)) <= rows / 8 + 4


@pytest.mark.parametrize("rows", ROWS)
def test_it_is_a_set_of_python(rows: int) -> None:
    """By random additions, often of what is there, through the change to bits and to all that there is."""
    random = np.random.default_rng(rows)
    own, expected = Seen(rows), set[int]()
    order = [*random.integers(rows, size=2 * words(rows) + 11).tolist(), *random.permutation(rows).tolist()]
    check = set(random.integers(len(order), size=13).tolist()) | {0, words(rows), len(order) - 1}
    for k, item in enumerate(order):
        own.add(item)
        expected.add(item)
        assert item in own
        if k in check:
            assert_is(own, expected, random)
            assert_is(Seen(rows, random.permutation([*expected, *expected])), expected, random)
    assert expected == set(range(rows))


def test_the_change_to_bits_is_where_they_are_smaller() -> None:
    own = Seen(1_009)  # 32 words
    for item in range(0, 64, 2):
        own.add(item)
    assert own._bits is None and own.nbytes == 128
    own.add(62)
    assert own._bits is None  # it was there
    own.add(1_008)
    assert own._bits is not None and own.nbytes == 128 and list(own) == [*range(0, 64, 2), 1_008]


def test_what_is_out_of_range_is_refused() -> None:
    for rows, many in ((37, [0, 1, 2]), (1_009, [5])):
        own = Seen(rows, many)
        for wrong in (-1, rows, 2**31):
            with pytest.raises(ValueError, match=f"0..{rows - 1}"):
                own.add(wrong)
            with pytest.raises(ValueError, match=f"0..{rows - 1}"):
                Seen(rows, [0, wrong])
        assert list(own) == many and "1" not in own and None not in own


def test_an_engine_keeps_no_more_than_a_bit_for_each_item(tmp_path: Path) -> None:
    """Some users have all items, often; one has a single one; a restart changes neither sum nor answers."""
    events = [
        Event(f"u{user}", f"i{(k * 7) % ITEMS}", 10**6 + k) for k in range(5 * ITEMS) for user in (0, 1)
    ]
    with counting(tmp_path) as engine:
        assert engine.memory()["seen"] == 0
        engine.observe([Event("u2", "i3", 10**6), Event("u3", "never seen", 10**6)])
        assert engine.memory()["seen"] == 4
        engine.observe(events)
        told = engine.memory()["seen"]
        assert told == 4 + 2 * 4 * words(SCHEMA.items) == engine.status()["memory"]["seen"]
        engine.save()
        engine.observe(events[-4:])
    with counting(tmp_path) as engine:
        assert engine.memory()["seen"] == told
        asked = [Request(f"u{k}", 2 * 10**6, exclude_seen=True) for k in range(4)]
        left = [len(found.items) for found in engine.recommend(asked, ITEMS)]
        assert left == [0, 0, ITEMS - 1, ITEMS]


def test_new_items_are_kept_too(tmp_path: Path) -> None:
    """Rows in reserve count as items; with more of them at a restart, nothing that was seen is lost."""
    made = parts(plain())
    last = len(made[3]["item"].texts) - 1
    seen = ["new", f"item{FIRST + last}", f"item{FIRST}"]
    with start(made, folder=tmp_path, spare_items=3) as engine:
        engine.add_items([Item("new")])
        engine.observe([Event("a", item, START + k) for k, item in enumerate(seen)])
        engine.save()
    with start(made, folder=tmp_path, spare_items=71) as engine:
        found = engine.recommend([Request("a", START + 99, exclude_seen=True)], 5)[0].items
        everything = engine.recommend([Request("a", START + 99, exclude_seen=True)], last + 1)[0].items
        assert not {*found, *everything} & set(seen) and len(everything) == last + 2 - len(seen)
