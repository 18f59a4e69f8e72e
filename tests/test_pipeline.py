"""Windows and batches: every transition once an epoch, exact resumption, equal under any sharding."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.data.dataset import Dataset
from stjax.data.pipeline import Batches, stream
from stjax.data.protocols import HISTORY, TEST, TRAIN, GlobalTemporal, Split
from stjax.data.windows import cut, ranges
from stjax.errors import UserError
from stjax.events import MISSING
from tests.stores import make_store


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 41), max_size=7),
    length=st.integers(1, 13),
    data=st.data(),
)
def test_windows_predict_every_transition_once(lengths, length, data):
    overlap = data.draw(st.integers(0, length - 1))
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    windows = cut(bounds, length, overlap)
    predicted, windows_of = [], Counter()
    for first, size, context in zip(*(x.tolist() for x in windows), strict=True):
        user = int(np.searchsorted(bounds, first, side="right")) - 1
        assert first + size <= bounds[user + 1]  # one user's
        assert 2 <= size <= length + 1
        assert 0 <= context < size - 1  # something is left to predict
        assert (context == 0) == (first == bounds[user]) or context >= overlap
        assert size == min(length + 1, lengths[user])  # short only where the user is
        if windows_of[user]:
            assert context >= overlap
        else:
            assert first == bounds[user] and context == 0
        windows_of[user] += 1
        predicted += [first + l + 1 for l in range(context, size - 1)]  # noqa: E741 (B, L)
    expected = [
        entry for begin, end in itertools.pairwise(bounds.tolist()) for entry in range(begin + 1, end)
    ]
    assert sorted(predicted) == expected
    for user, n in enumerate(lengths):  # as few windows as the overlap allows
        least = 0 if n < 2 else 1 + -(-max(n - 1 - length, 0) // (length - overlap))
        assert windows_of[user] == least


@pytest.mark.parametrize("overlap", [-1, 5, 6])
def test_impossible_overlap(overlap):
    with pytest.raises(UserError, match=f"overlap={overlap} .*length=5"):
        cut(np.array([0, 9]), 5, overlap)


def test_ranges():
    owner, integer = ranges(np.array([5, 2, 9, 4]), np.array([8, 2, 11, 3]))
    assert list(zip(owner, integer, strict=True)) == [(0, 5), (0, 6), (0, 7), (2, 9), (2, 10)]


LENGTHS = [1, 2, 3, 4] * 5 + [5, 6, 7, 9] * 3 + [12, 13, 17, 41, 97]
EVENTS, ITEMS = sum(LENGTHS), 71


@pytest.fixture(scope="module", params=["consecutive", "scattered"])
def dataset(request, tmp_path_factory):
    """Users of very different lengths; training rows consecutive, or with other rows between them."""
    rng = np.random.default_rng(2)
    users = rng.permutation(np.repeat(np.arange(len(LENGTHS)), LENGTHS))
    store = make_store(
        tmp_path_factory.mktemp("data") / "store",
        users.tolist(),
        rng.integers(0, ITEMS, EVENTS).tolist(),
        list(range(EVENTS)),  # a time is an event's identity
        places=rng.random((EVENTS, 2)).tolist(),
        event={"device": rng.choice(["a", "b", None], EVENTS).tolist()},
    )
    if request.param == "consecutive":
        return Dataset(store, GlobalTemporal()(store))
    label = rng.choice([TRAIN, TEST, HISTORY], EVENTS, p=[0.7, 0.2, 0.1]).astype(np.int8)
    return Dataset(store, Split(label, "scattered", {}))


def make(dataset, **changes):
    given = {"length": 11, "overlap": 3, "batch_size": 6, "seed": 5, "buckets": (2, 5)}
    return Batches(dataset, **{**given, **changes})


def epoch(batches, number=0):
    return [batches[number * batches.per_epoch + k] for k in range(batches.per_epoch)]


def transitions(batch):
    """(time of the last event read, time of the event predicted) where the weight is 1."""
    time = batch.events.time
    return [
        (int(time[b, l]), int(time[b, l + 1]))
        for b, l in np.argwhere(batch.weight > 0)  # noqa: E741 (B, L)
    ]


def expected_transitions(dataset, within=None):
    store, result = dataset.store, []
    value = [None] * EVENTS if within is None else store.columns[within].tolist()
    for begin, end in itertools.pairwise(store.offsets.tolist()):
        rows = [r for r in range(begin, end) if dataset.split.label[r] == TRAIN]
        result += [
            (int(store.columns["time"][a]), int(store.columns["time"][b]))
            for a, b in itertools.pairwise(rows)
            if value[a] == value[b] != MISSING
        ]
    return result


@pytest.mark.parametrize("buckets", [None, (2, 5)])
@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("within", [None, "device"])
def test_every_training_transition_is_a_target_once_an_epoch(dataset, buckets, number, within):
    batches = epoch(make(dataset, buckets=buckets, within=within), number)
    found = [pair for batch in batches for pair in transitions(batch)]
    assert sorted(found) == sorted(expected_transitions(dataset, within))
    assert all(batch.weight.any() for batch in batches)


def test_a_field_that_no_event_shares_with_the_one_before(dataset):
    with pytest.raises(UserError, match=r"no categorical column 'trip', only \['device'.*batching\.within"):
        make(dataset, within="trip")
    alone = dataset.store.columns["device"].copy()
    alone[:] = MISSING
    store = dataclasses.replace(dataset.store, columns={**dataset.store.columns, "device": alone})
    with pytest.raises(UserError, match="has the same 'device' as the one before"):
        make(Dataset(store, dataset.split), within="device")


def test_batches_hold_the_store_s_training_events(dataset):
    store = dataset.store
    consecutive = dataset.split.name != "scattered"
    assert consecutive == all(
        (np.diff(dataset.train_rows[begin:end]) == 1).all()
        for begin, end in itertools.pairwise(dataset.train_bounds)
    )  # both ways of gathering are met
    row_of = {int(t): r for r, t in enumerate(store.columns["time"])}
    for batch in epoch(make(dataset)):
        events = batch.events
        rows = np.vectorize(row_of.__getitem__)(events.time)
        assert (dataset.split.label[rows[events.valid]] == TRAIN).all()
        jax.tree.map(np.testing.assert_array_equal, events, dataset.gather(rows, events.valid))
        users = store.columns["user"][rows]
        assert all(len(set(u[v].tolist())) <= 1 for u, v in zip(users, events.valid, strict=True))


def test_bucket_invariants(dataset):
    batches = make(dataset)
    assert batches.shapes == [(33, 2), (13, 5), (6, 11)]  # 6 * 11 // L rows
    seen = set()
    for batch in epoch(batches):
        shape = batch.weight.shape
        assert shape in batches.shapes and batch.weight.dtype == np.float32
        assert batch.events.item.shape == (shape[0], shape[1] + 1)
        seen.add(shape)
        size = batch.events.valid.sum(1)
        shorter = max(length for length in (0, 2, 5, 11) if length < shape[1])
        assert ((size == 0) | (size - 1 > shorter)).all()  # in the smallest that holds it
        empty = size == 0
        assert (batch.weight[empty] == 0).all()
        assert (batch.events.item[empty] == 0).all() and (batch.events.user[empty] == 0).all()
        assert np.isnan(batch.events.place[empty]).all()
        assert (batch.weight <= batch.events.valid[:, 1:]).all()
    assert seen == set(batches.shapes)


def test_sizes_are_multiples_for_devices(dataset):
    batches = make(dataset, batch_size=8, multiple=4)
    assert [rows for rows, _ in batches.shapes] == [44, 20, 8]


def test_filling_up_for_devices_changes_no_batch(dataset):
    plain, filled = make(dataset, batch_size=7), make(dataset, batch_size=7, multiple=5)
    assert plain.per_epoch == filled.per_epoch
    for number in range(2 * plain.per_epoch):
        one, other = plain[number], filled[number]
        rows = len(one.weight)
        assert len(other.weight) == -(-rows // 5) * 5
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x, n=rows: x[:n], other), one)
        assert not other.events.valid[rows:].any() and not other.weight[rows:].any()


def test_epochs_are_shuffled_by_seed_and_epoch(dataset):
    batches, again, other = make(dataset), make(dataset), make(dataset, seed=6)

    def order(batches, number):
        return [transitions(batch) for batch in epoch(batches, number)]

    assert order(batches, 1) == order(again, 1)
    assert order(batches, 0) != order(batches, 1)
    assert order(batches, 0) != order(other, 0)


def test_processes_share_each_batch(dataset):
    settings = {"batch_size": 7, "buckets": None, "multiple": 3}
    whole = make(dataset, **settings)
    parts = [make(dataset, **settings, process_index=k, process_count=3) for k in range(3)]
    assert all(part.per_epoch == whole.per_epoch for part in parts)
    for number in (0, 1, whole.per_epoch + 1):
        joined = jax.tree.map(lambda *x: np.concatenate(x), *(part[number] for part in parts))
        jax.tree.map(np.testing.assert_array_equal, joined, whole[number])


def test_resumption_through_grain_under_another_process_count(dataset):
    settings = {"length": 11, "batch_size": 6, "seed": 5, "buckets": (2, 5), "multiple": 2}
    iterator = iter(stream(Batches(dataset, **settings)))
    for _ in range(4):
        next(iterator)
    state = iterator.get_state()
    following = [next(iterator) for _ in range(9)]

    resumed = iter(stream(Batches(dataset, **settings)))
    resumed.set_state(state)
    for batch in following:
        jax.tree.map(np.testing.assert_array_equal, next(resumed), batch)

    halves = [iter(stream(Batches(dataset, **settings, process_index=k, process_count=2))) for k in range(2)]
    for half in halves:
        half.set_state(state)
    for batch in following:
        joined = jax.tree.map(lambda *x: np.concatenate(x), *(next(half) for half in halves))
        jax.tree.map(np.testing.assert_array_equal, joined, batch)


def test_the_stream_passes_epochs_without_end(dataset):
    batches = make(dataset)
    iterator = iter(stream(batches))
    for k in range(2 * batches.per_epoch + 1):
        jax.tree.map(np.testing.assert_array_equal, next(iterator), batches[k])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process_count": 5}, "multiple=1 is not a multiple of 5 processes"),
        ({"process_index": 2, "process_count": 2}, "process_index=2"),
        ({"multiple": 3, "process_count": 2}, "multiple=3 is not a multiple of 2"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"buckets": (2, 12)}, "from 1 to length=11"),
        ({"overlap": 11}, "overlap=11"),
    ],
)
def test_settings_that_do_not_fit(dataset, changes, message):
    with pytest.raises(UserError, match=message):
        make(dataset, **changes)


def test_no_transitions_is_an_error(tmp_path):
    store = make_store(tmp_path / "s", list("uvw"), list("abc"), [1, 2, 3])
    dataset = Dataset(store, Split(np.zeros(3, np.int8), "all-train", {}))
    with pytest.raises(UserError, match=r"all-train leaves no user .* two training events"):
        make(dataset)
