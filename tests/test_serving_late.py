"""Events that come late: within the tolerated lateness they take their place, beyond it they are refused."""

from __future__ import annotations

import numpy as np
import pytest

from stjax.serving import Event
from tests.counting import counting, counts, last
from tests.serving import assert_equal, delayed, parts, plain, request, start, stream


@pytest.mark.parametrize("waiting", [3, 50])
def test_late_events_take_their_place(waiting: int) -> None:
    """Ties come in the order of arrival, so that the forward pass is over the arrived order, sorted."""
    made, lateness = parts(plain(known=("time", "scene"))), 50_000
    events = delayed(stream(83, users=3), lateness, seed=1)
    engine = start(made, capacity=2, lateness=lateness, waiting=waiting)
    accepted, at, random = [], 0, np.random.default_rng(2)
    while at < len(events):
        call = events[at : at + int(random.integers(1, 6))]
        done = engine.observe(call)
        accepted += [event for k, event in enumerate(call) if k not in done.refused]
        at += len(call)
        assert all("lateness" in cause for cause in done.refused.values())
        if at % 3 == 0:
            assert_equal(engine, made, accepted, [request(call[0].user, at)])
    refused = engine.status()["counts"].get("refused: late", 0)
    assert refused == len(events) - len(accepted)
    # With room for all that wait nothing is late; with less, an event may come before one already read.
    assert refused == 0 if waiting == 50 else 0 < refused < 40
    assert_equal(engine, made, accepted, [request(f"user{k}", k) for k in range(2, 6)])


def test_the_bounds_are_exact() -> None:
    engine = counting(lateness=100)
    times = [1000, 900, 1001, 900, 901, 1101]
    done = [engine.observe([Event("u", f"i{k}", time)]) for k, time in enumerate(times)]
    assert [each.accepted for each in done] == [1, 1, 1, 0, 1, 1]
    assert done[3].refused == {
        0: "time=900 is more than lateness=100 seconds behind the newest event of the user"
    }
    assert counts(engine, "u") == {"i0": 1, "i1": 1, "i2": 1, "i4": 1, "i5": 1}
    assert last(engine, "u") == "i5"
    assert engine.status()["waiting"] == 1  # the others are at least 100 seconds old


def test_without_tolerance_only_order_counts() -> None:
    engine = counting()
    assert engine.observe([Event("u", "i3", 50), Event("u", "i1", 30), Event("v", "i2", 1)]).accepted == 3
    assert last(engine, "u") == "i3"  # within a call events may come in any order
    assert engine.observe([Event("u", "i4", 49), Event("u", "i5", 50)]).refused.keys() == {0}
    assert last(engine, "u") == "i5"
    assert engine.status()["counts"]["refused: late"] == 1
