"""A dataset's events, vocabularies, questions and targets against the plain log."""

from __future__ import annotations

import math
import random

import jax
import numpy as np
import pytest

from stjax.data.dataset import Dataset
from stjax.data.protocols import (
    TEST,
    TRAIN,
    VALID,
    GlobalTemporal,
    LeaveOneOut,
    ProtocolError,
    Split,
)
from stjax.data.windows import take_runs
from stjax.errors import UserError
from stjax.events import FIRST, MISSING, PADDING, UNSEEN
from tests.histories import KINDS, Drawn, readable
from tests.stores import make_store

USERS, EVENTS = 11, 211


def city(path, seed=0):
    """A store with every kind of column, made from a random log."""
    rng = random.Random(seed)
    users = [f"u{rng.randrange(USERS)}" for _ in range(EVENTS)]
    items = [f"i{rng.randrange(67)}" for _ in range(EVENTS)]
    return make_store(
        path / "store",
        users,
        items,
        [rng.randrange(9973) for _ in range(EVENTS)],
        places=[
            (math.nan, math.nan) if rng.random() < 0.1 else (rng.random(), rng.random())
            for _ in range(EVENTS)
        ],
        utc_offsets=[3600 * rng.randrange(-3, 5) for _ in range(EVENTS)],
        event={
            "device": [rng.choice([None, *"abcdefg"]) for _ in range(EVENTS)],
            "load": [rng.random() for _ in range(EVENTS)],
            "sound": [(rng.random(), rng.random(), rng.random()) for _ in range(EVENTS)],
        },
        item={
            "kind": {f"i{k}": f"kind{k % 29}" for k in range(61)},
            "price": {f"i{k}": k / 2 for k in range(5, 67)},
            "look": {f"i{k}": (k / 2, k / 3) for k in range(67)},
        },
        meta={"note": [rng.choice("xy") for _ in range(EVENTS)]},
    )


@pytest.fixture(params=KINDS)
def dataset(request, tmp_path):
    store = city(tmp_path)
    return Dataset(store, Drawn(request.param)(store))


def words(dataset, name):
    """Text by train id."""
    texts = dataset.store.vocabulary(name).to_list()
    remap = dataset.remap[name]
    return {int(remap[k + FIRST]): text for k, text in enumerate(texts) if remap[k + FIRST] > 1}


@pytest.mark.parametrize("name", ["item", "user", "device"])
def test_vocabularies_hold_what_training_holds(dataset, name):
    column, trains = dataset.store.columns[name], dataset.split.label == TRAIN
    texts = dataset.store.vocabulary(name)
    expected = {texts[int(i) - FIRST] for i in column[trains] if i >= FIRST}
    found = words(dataset, name)
    assert set(found.values()) == expected
    assert sorted(found) == list(range(FIRST, FIRST + len(expected)))  # without gaps
    assert dataset.remap[name].dtype == np.int32
    assert dataset.remap[name][MISSING] == MISSING
    sizes = {"item": dataset.schema.items, "user": dataset.schema.users}
    assert sizes.get(name) or dataset.schema[name].size == len(expected) + FIRST
    assert sizes.get(name, len(expected) + FIRST) == len(expected) + FIRST
    if name == "item":
        assert len(expected) + FIRST < dataset.store.schema.items  # some are unseen here


def test_meta_fields_are_not_shown_to_models(dataset):
    names = [f.name for f in dataset.schema.fields]
    assert names == ["device", "load", "sound", "kind", "price", "look"]
    assert "note" in dataset.store.columns


def test_gather_agrees_with_the_store(dataset):
    store, rng = dataset.store, np.random.default_rng(5)
    rows = rng.integers(0, EVENTS, (7, 13))
    valid = rng.random((7, 13)) < 0.7
    events = dataset.gather(rows, valid)
    item_words, user_words = words(dataset, "item"), words(dataset, "user")
    seen = 0
    for b, l in np.ndindex(*rows.shape):  # noqa: E741 (B, L)
        row, event = rows[b, l], events[b, l]
        if not valid[b, l]:
            assert not event.valid
            zeros = (event.item, event.user, event.time, event.utc_offset)
            assert zeros == (PADDING, 0, 0, 0) and event.categorical["device"] == MISSING
            assert np.isnan([*event.place, event.numeric["load"], *event.vector["sound"]]).all()
            continue
        text = store.vocabulary("item")[int(store.columns["item"][row]) - FIRST]
        if text in item_words.values():
            assert item_words[int(event.item)] == text
            seen += 1
        else:
            assert event.item == UNSEEN
        user = store.vocabulary("user")[int(store.columns["user"][row]) - FIRST]
        assert user_words.get(int(event.user), user) == user
        assert event.time == store.columns["time"][row]
        assert event.utc_offset == store.columns["utc_offset"][row]
        np.testing.assert_array_equal(event.place, store.columns["place"][row])
        assert event.numeric["load"] == store.columns["load"][row]
        np.testing.assert_array_equal(event.vector["sound"], store.columns["sound"][row])
    assert 0 < seen < valid.sum()
    floats = (events.place, events.numeric["load"], events.vector["sound"])
    assert all(x.dtype == np.float32 for x in floats)
    ints = (events.item, events.user, events.time, events.utc_offset, events.categorical["device"])
    assert all(x.dtype == np.int32 for x in ints)


def test_runs_agree_with_gathered_rows(dataset):
    start = np.array([0, 17, EVENTS - 5, 100, EVENTS - 1, 0])
    count = np.array([11, 3, 5, 1, 1, 0])
    rows = start[:, None] + np.arange(11)
    valid = np.arange(11) < count[:, None]
    runs, gathered = dataset.gather_runs(start, count, 11), dataset.gather(rows, valid)
    jax.tree.map(np.testing.assert_array_equal, runs, gathered)


@pytest.mark.parametrize("shape", [(31,), (31, 2), (31, 2, 3)])
@pytest.mark.parametrize("starts", [[0, 3, 17], [20, 0], [21, 30, 4], []])
def test_runs_of_a_column(shape, starts):
    column = np.random.default_rng(0).random(shape)
    runs = take_runs(column, np.asarray(starts, np.int64), 11)
    assert runs.shape == (len(starts), 11, *shape[1:])
    for run, start in zip(runs, starts, strict=True):
        inside = column[start : start + 11]
        np.testing.assert_array_equal(run[: len(inside)], inside)


def test_without_place_and_offset(tmp_path):
    store = make_store(tmp_path / "s", ["u"] * 5, list("abcab"), [1, 2, 3, 4, 5])
    dataset = Dataset(store, LeaveOneOut()(store))
    events = dataset.gather(np.array([[0, 1]]), np.ones((1, 2), bool))
    assert np.isnan(events.place).all() and events.place.shape == (1, 2, 2)
    assert (events.utc_offset == 0).all() and events.utc_offset.shape == (1, 2)
    assert np.isnan(dataset.catalogue.place).all()
    assert dataset.catalogue.place.shape == (dataset.schema.items, 2)


def test_catalogue_by_train_id(dataset):
    store, catalogue = dataset.store, dataset.catalogue
    item_words, kind_words = words(dataset, "item"), words(dataset, "kind")
    assert catalogue.place.shape == (dataset.schema.items, 2)
    assert np.isnan(catalogue.place[:FIRST]).all()
    assert np.isnan(catalogue.items.numeric["price"][:FIRST]).all()
    assert np.isnan(catalogue.items.vector["look"][:FIRST]).all()
    assert (catalogue.items.categorical["kind"][:FIRST] == MISSING).all()
    for k, text in item_words.items():
        number = int(text[1:])
        old = store.vocabulary("item").to_list().index(text) + FIRST
        np.testing.assert_array_equal(catalogue.place[k], store.items["place"][old])
        price = catalogue.items.numeric["price"][k]
        assert price == number / 2 if number >= 5 else np.isnan(price)
        np.testing.assert_allclose(catalogue.items.vector["look"][k], (number / 2, number / 3), 1e-6)
        kind = int(catalogue.items.categorical["kind"][k])
        assert kind == MISSING if number >= 61 else kind_words[kind] == f"kind{number % 29}"
    assert set(kind_words) == set(catalogue.items.categorical["kind"].tolist()) - {MISSING}
    assert dataset.schema["kind"].size == max(kind_words) + 1
    assert catalogue.schema == dataset.schema


def test_targets_are_rankable_and_the_rest_counted(dataset):
    store, label = dataset.store, dataset.split.label
    trained = set(store.columns["item"][label == TRAIN].tolist())
    for part, word in ((VALID, "valid"), (TEST, "test")):
        kept, unseen, first = [], 0, 0
        for row in np.flatnonzero(label == part).tolist():
            if not readable(store, dataset.split, row):
                first += 1
            elif store.columns["item"][row] in trained:
                kept.append(row)
            else:
                unseen += 1
        assert dataset.targets(part).tolist() == kept
        assert (dataset.items(dataset.targets(part)) >= FIRST).all()
        assert dataset.notes[f"{word}_targets"] == len(kept)
        assert dataset.notes[f"{word}_dropped_unseen_item"] == unseen
        assert dataset.notes[f"{word}_dropped_without_history"] == first
    assert dataset.notes["valid_dropped_unseen_item"] > 0


@pytest.mark.parametrize("buckets", [None, (2, 5)])
def test_questions_read_what_they_may_and_nothing_else(dataset, buckets):
    length, block, asked = 7, 5, []
    widths = set()
    for question in dataset.questions(VALID, length, block, buckets=buckets):
        events, target = question.history, question.target
        assert question.row.shape == question.real.shape == target.item.shape == (block,)
        width = events.item.shape[1]
        widths.add(width)
        for b, row in enumerate(question.row.tolist()):
            past = readable(dataset.store, dataset.split, row)[-length:]
            assert 1 <= len(past) <= width
            assert width == min(w for w in (*(buckets or ()), length) if w >= len(past))
            assert events.valid[b].tolist() == [True] * len(past) + [False] * (width - len(past))
            one = np.ones((1, 1), bool)
            for l, r in enumerate(past):  # noqa: E741 (B, L)
                expected = dataset.gather(np.array([[r]]), one)[0, 0]
                jax.tree.map(np.testing.assert_array_equal, events[b, l], expected)
            expected = dataset.gather(np.array([[row]]), one)[0, 0]
            jax.tree.map(np.testing.assert_array_equal, target[b], expected)
            if dataset.split.ordered:
                assert (events.time[b][: len(past)] <= target.time[b]).all()
        asked += question.row[question.real].tolist()
    assert sorted(asked) == dataset.targets(VALID).tolist()
    if buckets is None:
        assert asked == dataset.targets(VALID).tolist()  # in the store's order
    assert widths <= {length, *(buckets or ())} and len(widths) > (buckets is not None)


def test_limited_questions_are_spread_over_the_part(dataset):
    rows = dataset.targets(TEST).tolist()
    limited = [row for q in dataset.questions(TEST, 3, 4, limit=7) for row in q.row[q.real].tolist()]
    assert len(limited) == len(set(limited)) == 7
    assert limited[0] == rows[0] and limited[-1] == rows[-1]
    everything = sum(int(q.real.sum()) for q in dataset.questions(TEST, 3, 4, limit=10**6))
    assert everything == len(rows)


def test_seen_lists_all_readable_items(dataset):
    rows = dataset.targets(TEST)
    offsets, items = dataset.seen(rows)
    assert len(items) == offsets[-1]
    for k, row in enumerate(rows.tolist()):
        old = [int(dataset.store.columns["item"][r]) for r in readable(dataset.store, dataset.split, row)]
        expected = [int(dataset.remap["item"][i]) for i in old]
        assert items[offsets[k] : offsets[k + 1]].tolist() == expected


def test_fingerprint_depends_on_log_and_protocol(tmp_path):
    store, other = city(tmp_path / "a"), city(tmp_path / "b", seed=1)
    prints = [
        Dataset(s, protocol(s)).fingerprint
        for s in (store, other)
        for protocol in (LeaveOneOut(), GlobalTemporal(), GlobalTemporal(test=0.2))
    ]
    assert len(set(prints)) == 6 and all(len(p) == 16 for p in prints)
    assert Dataset(store, LeaveOneOut()(store)).fingerprint == prints[0]


def test_no_training_events_is_an_error(tmp_path):
    store = make_store(tmp_path / "s", ["u"] * 3, list("abc"), [5, 5, 5])
    with pytest.raises(ProtocolError, match=r"no training events of the 3.*choose"):
        Dataset(store, GlobalTemporal()(store))  # all times equal: all at the boundary


def test_no_targets_is_an_error_with_the_counts(tmp_path):
    store = make_store(tmp_path / "s", ["u", "u", "v"], list("abc"), [1, 2, 3])
    label = np.array([TRAIN, TEST, TRAIN], np.int8)
    dataset = Dataset(store, Split(label, "by-hand", {}))
    with pytest.raises(ProtocolError, match="by-hand gives no valid targets"):
        dataset.targets(VALID)
    with pytest.raises(ProtocolError, match="'test_dropped_unseen_item': 1"):
        next(dataset.questions(TEST, 2, 2))
    with pytest.raises(ValueError, match="part=0"):
        dataset.targets(TRAIN)


def test_split_of_another_store_is_an_error(tmp_path):
    store = make_store(tmp_path / "s", ["u"] * 3, list("abc"), [1, 2, 3])
    with pytest.raises(ProtocolError, match="2 rows does not fit the 3"):
        Dataset(store, Split(np.zeros(2, np.int8), "short", {}))


@pytest.mark.parametrize("buckets", [(0, 3), (9,)])
def test_impossible_buckets(dataset, buckets):
    with pytest.raises(UserError, match="from 1 to length=7"):
        next(dataset.questions(VALID, 7, 3, buckets=buckets))
