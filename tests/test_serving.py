"""The engine answers as the model's forward pass over the same events would, whatever way they came."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from stjax.nn import Ensemble
from stjax.serving import Shapes
from tests.library import ENCODERS, INTERESTS, WINDOW, Together
from tests.serving import ALL, assert_equal, build, delayed, parts, plain, request, start, stream

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


EACH = {"all of them": Together()} | INTERESTS
ALONE = [pytest.param(name, marks=pytest.mark.slow) for name in INTERESTS]


@pytest.mark.parametrize("name", ["all of them", *ALONE])
def test_answers_are_those_of_the_forward_pass(name: str, tmp_path: Path) -> None:
    """Of events that come late, with users who give way to others, before and after a restart; what attention
    keeps of a user has gone round its ring."""
    made, lateness = parts(plain(EACH[name], known=("time", "place", "scene"))), 50_000
    events = delayed(stream(83), lateness, seed=1)
    assert sorted(Counter(event.user for event in events).values())[2] > WINDOW
    calls, requests = in_calls(events, 1), [request(user, k) for k, user in enumerate(USERS)]
    settings = {"capacity": 3, "shapes": FEW, "lateness": lateness, "waiting": 20, "folder": tmp_path}
    for part in (calls[:9], calls[9:]):
        with start(made, **settings) as engine:
            for call in part:
                backwards = sorted(call, key=lambda event: -event.time)  # stable: ties keep their order
                done = engine.observe(backwards)
                assert done.accepted == len(call) and not done.refused
            if len(part) == 9:
                engine.save()  # the second part begins from it
            so_far = events[: engine.status()["events"]]
            assert engine.status()["evictions"] > 5
            assert_equal(engine, made, so_far, requests)
    assert len(so_far) == len(events)


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
