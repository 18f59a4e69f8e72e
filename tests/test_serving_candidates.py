"""Candidates of a baseline, ranked by the model."""

from __future__ import annotations

import numpy as np
import pytest

from stjax.baselines import IALS, ItemKNN
from stjax.data.dataset import Dataset
from stjax.data.protocols import TEST, LeaveOneOut
from stjax.events import FIRST, Query
from stjax.serving import Engine, Request, Settings, Shapes
from stjax.serving.candidates import Factors, Neighbours, best
from stjax.serving.codec import BadEvent
from tests.configs.tiny import TinyLog
from tests.serving import ALL, parts, plain, request, stream, whole
from tests.serving import start as plain_start


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    store = TinyLog(tmp_path_factory.mktemp("candidates")).open()
    return Dataset(store, LeaveOneOut()(store))


@pytest.mark.parametrize(
    ("source", "baseline"),
    [(Neighbours, ItemKNN(neighbours=7, shrinkage=1.0)), (Factors, IALS(factors=5, iterations=3, alpha=2.0))],
)
def test_scores_are_those_of_the_baseline(source, baseline, dataset: Dataset) -> None:
    """For users who had each of their items once; the baselines weigh repetitions."""
    rows = dataset.targets(TEST)
    expected, compared = baseline.fit(dataset)(None, Query(), rows), 0
    ours = source(dataset, baseline)
    offsets, items = dataset.seen(rows)
    for own, start, stop in zip(expected, offsets, offsets[1:], strict=False):
        seen = items[start:stop]
        if len(set(seen.tolist())) == len(seen):
            np.testing.assert_allclose(ours(set(seen.tolist()))[FIRST:], own[FIRST:], rtol=1e-3, atol=1e-4)
            compared += 1
    assert compared > 5


def test_the_best_of_what_is_allowed() -> None:
    scores = np.asarray([9, 9, 1, 5, 3, 4, 2], np.float32)
    assert sorted(best(scores, None, 2).tolist()) == [3, 5]
    assert sorted(best(scores, np.asarray([1, 1, 1, 0, 1, 0, 1, 0], bool), 2).tolist()) == [4, 6]
    assert best(scores, np.zeros(7, bool), 2).tolist() == []


def test_only_candidates_are_ranked() -> None:
    made, events = parts(plain(known=("time",))), stream(50)
    liking = np.random.default_rng(0).normal(size=ALL + FIRST).astype(np.float32)
    asked: list[set[int]] = []

    def source(seen) -> np.ndarray:
        asked.append(set(seen))
        return liking

    engine = Engine(
        *made,
        settings=Settings(users=50, capacity=4, shapes=Shapes((1, 3), (1, 4), (5,))),
        candidates=source,
        clock=lambda: 2e9,
    )
    engine.observe(events)
    for more in ({}, {"exclude_seen": True}, {"deny": ["item9"]}):
        one = request("user3", 3, candidates=6, **more)
        everything = whole(made, events, one)
        had = {event.item for event in events if event.user == "user3"}
        gone = had if more.get("exclude_seen") else set(more.get("deny", ()))
        ids = [k for k in np.argsort(-liking) if k >= FIRST and made[3]["item"].text(k) not in gone][:6]
        names = sorted((made[3]["item"].text(k) for k in ids), key=lambda name: -everything[name])
        assert engine.recommend([one], 5)[0].items == names[:5]
    assert asked[0] == {made[3]["item"].id(item) for item in had} - {1}
    with pytest.raises(BadEvent, match="candidates=0 must be"):
        engine.recommend([Request("user3", 1e9, candidates=0)], 5)
    with pytest.raises(BadEvent, match="the engine has no source of candidates"):
        plain_start(made).recommend([Request("user3", 1e9, candidates=3)], 5)
