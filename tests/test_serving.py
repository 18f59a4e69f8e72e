"""The engine answers as the model's forward pass over the same events would, whatever way they came."""

from __future__ import annotations

import numpy as np
import pytest

from stjax.nn import Ensemble
from stjax.serving import Shapes
from tests.library import ENCODERS, INTERESTS
from tests.serving import ALL, assert_equal, build, parts, plain, request, start, stream

FEW = Shapes(batches=(3,), chunks=(4,), tops=(ALL,))  # compiling takes most of the time
USERS = [f"user{k}" for k in range(2, 10)]  # the last one never does anything


def in_calls(events: list, seed: int, most: int = 9) -> list[list]:
    """The events in calls of random sizes."""
    random, calls, at = np.random.default_rng(seed), [], 0
    while at < len(events):
        size = int(random.integers(1, most))
        calls.append(events[at : at + size])
        at += size
    return calls


@pytest.mark.parametrize("interest", INTERESTS)
def test_answers_are_those_of_the_forward_pass(interest: str) -> None:
    made = parts(plain(INTERESTS[interest], known=("time", "place", "scene")))
    events, engine = stream(83), start(made, capacity=3, shapes=FEW)
    for call in in_calls(events, 1):
        backwards = sorted(call, key=lambda event: -event.time)  # stable: ties in time keep their order
        done = engine.observe(backwards)
        assert done.accepted == len(call) and not done.refused
    assert engine.status()["evictions"] > 20
    assert_equal(engine, made, events, [request(user, k) for k, user in enumerate(USERS)])


def test_everything_at_once() -> None:
    looking_back = ("windows", "rhythm", "home", "profile", "user")
    encoders = {name: ENCODERS[name] for name in looking_back}
    made = parts(build(encoders, interest=INTERESTS["hstu-bias"]))
    events, engine = stream(61, users=5), start(made, capacity=3, shapes=FEW)
    for k, call in enumerate(in_calls(events, 2)):
        engine.observe(call)
        if k % 4 == 0:  # between the events, too
            so_far = events[: events.index(call[-1]) + 1]
            assert_equal(engine, made, so_far, [request(call[0].user, k)])
    assert_equal(engine, made, events, [request(user, k) for k, user in enumerate(USERS)])


def test_an_ensemble() -> None:
    made = parts(Ensemble(plain(), 2))
    events, engine = stream(29), start(made, capacity=3, shapes=FEW)
    engine.observe(events)
    assert_equal(engine, made, events, [request(user, k) for k, user in enumerate(USERS)])
