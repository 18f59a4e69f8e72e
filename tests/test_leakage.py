"""What a sceptic asks first: no score knows anything of what comes after its request.

Logs go the whole way, from a table of events through `prepare`, a protocol and the questions of a part to
the scores of a model and of every baseline.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from stjax.data.dataset import Dataset
from stjax.data.pipeline import Batches
from stjax.data.protocols import TEST, TRAIN, VALID, LeaveOneOut
from stjax.data.told import told_by_place
from stjax.events import FIRST, Query
from tests.leaks import (
    BLOCK,
    PROTOCOLS,
    WINDOW,
    Peeking,
    altered,
    every_scorer,
    log_rows,
    make_log,
    opened,
    scores,
)
from tests.stores import make_store

Pair = tuple[Dataset, Dataset, list[int]]


def assert_same(scorer: Any, before: Dataset, after: Dataset, part: int, rows: list[int]) -> None:
    one, two = (scores(scorer.fit(dataset), dataset, part) for dataset in (before, after))
    asked = [row for row in rows if row in one]
    assert len(asked) > 5
    for row in asked:  # those whose new item is unknown are no longer asked for
        if row in two:
            np.testing.assert_array_equal(one[row], two[row])
    assert sum(row in two for row in asked) > 5


@pytest.fixture(scope="module", params=PROTOCOLS.items(), ids=lambda item: item[0])
def later(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A log, the same with all held-out rows altered after a validation target of each user, the targets."""
    name, protocol = request.param
    folder, log = tmp_path_factory.mktemp("later"), make_log(1)
    before, rows = opened(log, folder / "before", protocol), log_rows(log)
    part, user = before.split.label, before.store.user_of(np.arange(len(log)))
    targets = before.targets(VALID)
    _, first = np.unique(user[targets], return_index=True)
    targets = targets[first]
    after = np.full(before.store.users, len(log))
    after[user[targets]] = targets
    which = np.flatnonzero((np.arange(len(log)) > after[user]) & (part != TRAIN))
    assert len(which) > len(targets) - 1 > 5
    wild = name == "temporal"  # else an item's first place in the log may be of a held-out row
    changed = opened(altered(log, rows[which], wild=wild), folder / "after", protocol)
    np.testing.assert_array_equal(changed.split.label, part)
    return before, changed, targets.tolist()


@every_scorer
def test_what_comes_after_the_target_changes_no_score(scorer: Any, later: Pair) -> None:
    before, after, targets = later
    assert_same(scorer, before, after, VALID, targets)


def test_one_that_looks_ahead_is_found(later: Pair, target_itself: Pair) -> None:
    for before, after, targets in (later, target_itself):
        with pytest.raises(AssertionError, match="not equal"):
            assert_same(Peeking(), before, after, VALID if (before, after) == later[:2] else TEST, targets)


def last_targets(dataset: Dataset) -> np.ndarray:
    """The test targets that are the last rows of their users: no other target reads them."""
    return dataset.targets(TEST)[np.isin(dataset.targets(TEST), dataset.store.offsets[1:] - 1)]


def with_other_targets(folder: Path, time: bool) -> Pair:
    log = make_log(2)
    before, rows = opened(log, folder / "before", PROTOCOLS["temporal"]), log_rows(log)
    which = last_targets(before)
    changed = opened(altered(log, rows[which], time=time), folder / "after", PROTOCOLS["temporal"])
    np.testing.assert_array_equal(changed.split.label, before.split.label)
    return before, changed, which.tolist()


@pytest.fixture(scope="module")
def target_itself(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A log, the same with all of some targets altered, these."""
    return with_other_targets(tmp_path_factory.mktemp("target"), time=True)


@pytest.fixture(scope="module")
def but_for_its_time(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A log, the same with some targets altered in all but user and time, these."""
    return with_other_targets(tmp_path_factory.mktemp("but-time"), time=False)


@every_scorer
def test_nothing_of_the_target_is_read_but_what_is_declared(
    scorer: Any, target_itself: Pair, but_for_its_time: Pair
) -> None:
    reads_time = "time" in getattr(scorer, "known", ())
    before, after, targets = but_for_its_time if reads_time else target_itself
    assert_same(scorer, before, after, TEST, targets)
    if reads_time:  # declared, and so it is read
        with pytest.raises(AssertionError, match="not equal"):
            assert_same(scorer, *target_itself[:2], TEST, targets)


@pytest.fixture(scope="module", params=PROTOCOLS.items(), ids=lambda item: item[0])
def held_out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A log, the same with every row altered that does not train, the rows that train."""
    name, protocol = request.param
    folder, log = tmp_path_factory.mktemp("held-out"), make_log(3)
    before = opened(log, folder / "before", protocol)
    which = log_rows(log)[before.split.label != TRAIN]
    after = opened(altered(log, which, wild=name == "temporal"), folder / "after", protocol)
    np.testing.assert_array_equal(after.split.label, before.split.label)
    return before, after, before.train_rows.tolist()


def texts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """The ids of all texts that training has seen, by vocabulary."""
    words = {name: dataset.store.vocabulary(name).to_list() for name in dataset.remap}
    return {
        name: {text: int(k) for text, k in zip(words[name], ids[FIRST:], strict=True) if k >= FIRST}
        for name, ids in dataset.remap.items()
    }


def test_vocabularies_catalogue_and_batches_come_from_training_alone(held_out: Pair) -> None:
    before, after, _ = held_out
    assert before.store.fingerprint != after.store.fingerprint
    assert "new19" in after.store.vocabulary("item").to_list()  # and not in training:
    assert after.schema == before.schema
    assert texts(after) == texts(before)
    assert set(texts(before)) == {"item", "user", "scene", "category"}
    jax.tree.map(np.testing.assert_array_equal, after.catalogue, before.catalogue)
    ours, theirs = (Batches(d, length=WINDOW, batch_size=3, overlap=2, seed=5) for d in (before, after))
    assert ours.per_epoch == theirs.per_epoch > 5
    for k in range(2 * ours.per_epoch):
        jax.tree.map(np.testing.assert_array_equal, ours[k], theirs[k])


@every_scorer
def test_what_is_counted_comes_from_training_alone(scorer: Any, held_out: Pair) -> None:
    """Asked at the rows of training, whose histories are the same."""
    before, after, rows = held_out
    rows = np.asarray([row for row in rows if row not in before.store.offsets][:BLOCK])
    found = []
    for dataset in (before, after):
        target = dataset.gather(rows[:, None], np.ones((len(rows), 1), bool))[:, 0]
        history = dataset.read(dataset.history(rows), WINDOW)
        fitted = scorer.fit(dataset)
        found.append(np.asarray(fitted(history, Query.of(target, fitted.known), rows)))
    np.testing.assert_array_equal(*found)
    assert len(np.unique(found[0][:, FIRST:])) > 3


def test_targets_that_the_catalogue_tells_by_their_place_are_counted(tmp_path: Path) -> None:
    """Each of three users has each item once; the first in the log is the first user."""
    users, items = [0, 0, 0, 1, 1, 1, 2, 2, 2], list("xyzyzxzxy")
    moving = [(40.0 + k, 9.0) for k in range(9)]
    still = [(40.0 + "xyz".index(item), 9.0) for item in items]
    for name, places, told in (("moving", moving, [1, 1]), ("still", still, [0, 0])):
        store = make_store(tmp_path / name, users, items, [*range(9)], places=places)
        dataset = Dataset(store, LeaveOneOut()(store))
        # y is where the first user's validation target was, z where the test target was, x where training was
        assert [told_by_place(dataset, part) for part in (VALID, TEST)] == told
