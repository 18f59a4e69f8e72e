"""What targets may read: every kind of split against a plain loop, and TrajectoryLast's training history."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stjax.baselines import BPR, IALS, ItemKNN, UserLast, all_baselines
from stjax.data.dataset import Dataset
from stjax.data.history import History
from stjax.data.protocols import (
    HISTORY,
    TEST,
    TRAIN,
    VALID,
    LeaveOneOut,
    ProtocolError,
    Split,
    TrajectoryLast,
)
from stjax.evaluation import evaluate
from stjax.events import FIRST
from tests.histories import KINDS, Drawn, Kind, readable
from tests.stores import make_store
from tests.test_baselines import make_log, scores_of

KNOWN_ITEMS = list("abcde")


@pytest.fixture(params=KINDS)
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    store = make_store(tmp_path / "s", **make_log(7))
    return Dataset(store, Drawn(request.param)(store))


def test_every_row_reads_what_the_rule_says(dataset: Dataset) -> None:
    store, rows = dataset.store, np.random.default_rng(0).permutation(len(dataset.store))
    history = dataset.history(rows)
    expected = [readable(store, dataset.split, row) for row in rows.tolist()]
    parts = np.split(history.row, history.offsets[1:-1])
    assert [part.tolist() for part in parts] == expected
    assert history.count.tolist() == [len(part) for part in expected]
    assert history.last.tolist() == [part[-1] if part else -1 for part in expected]
    assert history.owner.tolist() == [b for b, part in enumerate(expected) for _ in part]
    assert history.position.tolist() == [k for part in expected for k in range(len(part))]
    assert history.age.tolist() == [k for part in expected for k in reversed(range(len(part)))]
    tail = history.tail(3)
    assert [p.tolist() for p in np.split(tail.row, tail.offsets[1:-1])] == [part[-3:] for part in expected]
    assert 0 in history.count or not dataset.split.ordered  # somebody has nothing to read


def test_a_history_without_any_row(dataset: Dataset) -> None:
    empty = History.of(np.zeros(0, int), np.zeros(0, int), 3)
    assert empty.last.tolist() == [-1] * 3 and len(empty.row) == 0
    events = dataset.read(empty, 5)
    assert events.item.shape == (3, 5) and not events.valid.any()


def with_other_items(dataset: Dataset, changed: np.ndarray) -> Dataset:
    """The same log, but with other known items at the rows where `changed` is True."""
    item = np.array(dataset.store.columns["item"])
    item[changed] = FIRST + (item[changed] + 3) % (dataset.store.schema.items - FIRST)
    store = dataclasses.replace(dataset.store, columns={**dataset.store.columns, "item": item})
    return Dataset(store, dataset.split)


BASELINES = (
    *all_baselines(),
    ItemKNN(),
    ItemKNN(3, half_life=2.0),
    IALS(factors=4, iterations=2),
    BPR(4, epochs=2),
)


@pytest.mark.parametrize("baseline", BASELINES, ids=repr)
def test_baselines_read_nothing_else(dataset: Dataset, baseline: Any) -> None:
    """Whatever was done elsewhere than in training and in what the target may read changes no score."""
    changes = 0
    for row in dataset.targets(TEST)[::9].tolist():
        allowed = np.zeros(len(dataset.store), bool)
        allowed[readable(dataset.store, dataset.split, row)] = True
        other = with_other_items(dataset, ~allowed & (dataset.split.label != TRAIN))
        here = np.asarray([row])
        assert np.array_equal(scores_of(baseline, dataset, here), scores_of(baseline, other, here))
        if (read := allowed & (dataset.split.label != TRAIN)).any() and isinstance(baseline, UserLast):
            changed = scores_of(baseline, with_other_items(dataset, read), here)
            assert not np.array_equal(scores_of(baseline, dataset, here), changed)
            changes += 1
    assert changes or not isinstance(baseline, UserLast) or not dataset.split.ordered


@pytest.mark.parametrize("filter_seen", [False, True])
def test_the_evaluator_shows_and_filters_what_may_be_read(dataset: Dataset, filter_seen: bool) -> None:
    items, size = dataset.items(slice(None)), dataset.schema.items

    @dataclasses.dataclass(frozen=True)
    class Spy:
        known: tuple[str, ...] = ()
        name: str = "spy"

        def __call__(self, history: Any, query: Any, rows: np.ndarray) -> np.ndarray:
            for b, row in enumerate(rows.tolist()):
                past = readable(dataset.store, dataset.split, row)[-4:]
                assert history.item[b][history.valid[b]].tolist() == items[past].tolist()
            return np.zeros((len(rows), size), np.float32)

    report = evaluate(Spy(), dataset, TEST, filter_seen=filter_seen, block=7, length=4)
    for k, row in enumerate(report.row.tolist()):
        past = readable(dataset.store, dataset.split, row)
        seen = set(items[past].tolist())
        removed = len({v for v in seen if v >= FIRST} - {int(items[row])}) if filter_seen else 0
        assert report.rank[k] == size - FIRST - removed
        assert report.facts["events"][k] == len(past)
        assert report.facts["new"][k] == (items[row] not in seen)


def trajectories(path: Path, history: Any) -> tuple[Dataset, Callable[[int], list[int]]]:
    """One user with two trajectories a part, another who only trains; and each row's readable ones."""
    log = [  # trajectory, split
        *[("t", "train")] * 3,
        *[("a", "val")] * 3,
        *[("b", "val")] * 2,
        *[("a", "test")] * 2,  # the name of a validation trajectory again
        *[("c", "test")] * 2,
        (None, "test"),
    ]
    words, parts = [t for t, _ in log] + ["t"] * 5, [s for _, s in log] + ["train"] * 5
    items = [KNOWN_ITEMS[k % 5] for k in range(len(log))] + KNOWN_ITEMS
    store = make_store(
        path,
        ["u"] * len(log) + ["v"] * 5,
        items,
        list(range(len(items))),
        meta={"trajectory": words, "split": parts},
    )
    dataset = Dataset(store, TrajectoryLast(history=history)(store))

    def reads(row: int) -> list[int]:
        return dataset.history(np.asarray([row])).row.tolist()

    return dataset, reads


def test_training_history_of_trajectories(tmp_path: Path) -> None:
    dataset, reads = trajectories(tmp_path / "s", "training")
    assert dataset.targets(VALID).tolist() == [5, 7]
    assert dataset.targets(TEST).tolist() == [9, 11]
    assert reads(5) == [0, 1, 2, 3, 4]
    assert reads(7) == [0, 1, 2, 6]  # not the other validation trajectory
    assert reads(9) == [0, 1, 2, 8]  # nor the validation part, even by the same name
    assert reads(11) == [0, 1, 2, 10]
    everything, reads_all = trajectories(tmp_path / "all", "all")
    assert reads_all(9) == list(range(9))
    assert everything.targets(TEST).tolist() == [9, 11]


def test_names_and_fingerprints_tell_the_histories_apart(tmp_path: Path) -> None:
    dataset, _ = trajectories(tmp_path / "s", "training")
    store = dataset.store
    assert dataset.split.name == "trajectory-last(trajectory, split, shortest=2, history=training)"
    assert TrajectoryLast().name == "trajectory-last(trajectory, split, shortest=2)"
    assert dataset.notes["history"] == "earlier events of the user, of training or the own session"
    report = evaluate(UserLast().fit(dataset), dataset, TEST)
    assert "history=training" in report.title
    same = Split(dataset.split.label, "name", {})
    splits = (
        same,
        dataclasses.replace(same, session=dataset.split.session),
        dataclasses.replace(same, ordered=False),
    )
    assert len({Dataset(store, split).fingerprint for split in splits}) == 3
    assert len({Dataset(store, split).notes["history"] for split in splits}) == 3


def test_session_that_trains_is_read_as_training_is(tmp_path: Path) -> None:
    """Sessions of TRAIN rows have no effect: they may be read by all later targets of the user."""
    store = make_store(tmp_path / "s", ["u"] * 6, list("ababab"), list(range(6)))
    label = np.asarray([TRAIN, HISTORY, TRAIN, HISTORY, VALID, TEST], np.int8)
    split = Split(label, "by hand", {}, session=np.asarray([0, 0, 1, 1, 0, -1]))
    rows = Dataset(store, split).history(np.arange(6))
    parts = [part.tolist() for part in np.split(rows.row, rows.offsets[1:-1])]
    assert parts == [[], [0], [0], [0, 2], [0, 1, 2], [0, 2]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_of_one_user_with_one_training_row(tmp_path: Path, kind: Kind) -> None:
    store = make_store(tmp_path / "s", ["u"] * 2, list("aa"), [1, 2])
    label = np.asarray([TRAIN, TEST], np.int8)
    session = np.zeros(2, int) if kind == "session" else None
    dataset = Dataset(store, Split(label, "by hand", {}, session, kind != "unordered"))
    assert dataset.history(np.asarray([1, 0])).row.tolist() == [0]
    assert dataset.targets(TEST).tolist() == [1]


def test_impossible_rules_are_refused(tmp_path: Path) -> None:
    label = np.zeros(3, np.int8)
    with pytest.raises(ProtocolError, match="odd: session must hold a number below 3 for each of the 3"):
        Split(label, "odd", {}, session=np.zeros(2, int))
    with pytest.raises(ProtocolError, match="below 3"):
        Split(label, "odd", {}, session=np.asarray([0, 3, 1]))
    with pytest.raises(ProtocolError, match="ordered=True"):
        Split(label, "odd", {}, session=label.astype(int), ordered=False)
    with pytest.raises(ProtocolError, match="history='own': choose 'all' or 'training'"):
        TrajectoryLast(history="own")  # pyright: ignore[reportArgumentType]
    assert LeaveOneOut()(make_store(tmp_path / "s", ["u"] * 3, list("abc"), [1, 2, 3])).session is None
