"""Online learning: what it gains when habits change, what it refuses, and that it can be undone."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from stjax.errors import ConfigError
from stjax.events import FIRST
from stjax.serving import Event
from stjax.serving.codec import Codec
from stjax.serving.tuning import LENGTH, Recent
from tests.serving import START, parts, plain, request, start, stream


def walks(step: int, users: int, length: int, begin: int, seed: int) -> list[Event]:
    """Users who walk in circles over the items, `step` ahead each time."""
    random, events = np.random.default_rng(seed), []
    for user in range(users):
        place = int(random.integers(21))
        for k in range(length):
            events.append(Event(f"w{seed}-{user}", f"item{FIRST + place}", begin + 3600 * k + user))
            place = (place + step) % 21
    return events


def first_right(engine, events: list[Event]) -> float:
    """The share of last events that the engine foretells from those before."""
    last: dict[str, Event] = {event.user: event for event in events}
    engine.observe([event for event in events if event is not last[event.user]])
    asked = [request(user) for user in last]
    found = engine.recommend(asked, 1)
    return float(np.mean([one.items[0] == last[one.user].item for one in found]))


def test_it_follows_habits_that_change(tmp_path: Path) -> None:
    """A model of walks one way meets walks the other way; a frozen one keeps foretelling the old."""
    made = parts(plain())
    engine = start(made, folder=tmp_path, users=200, capacity=40)
    everything = ("items", "fusion", "interest", "head")
    settings = {"groups": everything, "epochs": 18, "learning_rate": 0.02}
    learnt = engine.fine_tune(walks(1, 40, 20, START, 1), **settings)
    assert learnt.swapped and learnt.after > 0.6 > learnt.before
    assert first_right(engine, walks(1, 30, 9, START, 2)) > 0.7
    frozen = first_right(engine, walks(-1, 30, 9, START, 3))
    changed = engine.fine_tune(walks(-1, 40, 20, START, 4), **settings)
    assert changed.swapped and changed.version == engine.version != learnt.version
    assert first_right(engine, walks(-1, 30, 9, START, 5)) > 0.7 > 0.3 > frozen
    engine.close()
    with start(made, folder=tmp_path, users=200, capacity=40) as engine:  # what was learnt is kept
        assert engine.version == changed.version
        assert first_right(engine, walks(-1, 30, 9, START, 6)) > 0.7


def test_what_makes_it_worse_is_refused_and_a_swap_can_be_undone() -> None:
    engine = start(parts(plain()), users=200, capacity=40)
    engine.fine_tune(walks(1, 40, 20, START, 1), groups=("items", "fusion", "interest", "head"), epochs=12,
                     learning_rate=0.02)  # fmt: skip
    first, answer = engine.version, engine.recommend([request("nobody")], 5)[0]
    wild = engine.fine_tune(walks(1, 40, 20, START, 2), epochs=1, learning_rate=30.0)
    assert not wild.swapped and wild.after < wild.before and wild.version == engine.version == first
    lost = engine.fine_tune(walks(1, 40, 20, START, 2), epochs=1, learning_rate=1e38)  # all is NaN
    assert not lost.swapped and 0 < lost.after < lost.before
    again = engine.recommend([request("nobody")], 5)[0]
    np.testing.assert_array_equal(answer.scores, again.scores)
    other = engine.fine_tune(walks(1, 40, 20, START, 3), groups=("head",), learning_rate=1e-4)
    assert other.swapped and engine.version != first
    assert engine.rollback() == first
    again = engine.recommend([request("nobody")], 5)[0]
    assert again.version == first
    np.testing.assert_array_equal(answer.scores, again.scores)


def test_only_the_chosen_parameters_change() -> None:
    made = parts(plain())
    engine = start(made, users=200)
    before = jax.tree.map(np.array, engine._core.weights.params)
    done = engine.fine_tune(walks(1, 9, 20, START, 1), groups=("head/output", "fusion"), learning_rate=1e-5)
    assert done.swapped
    after = engine._core.weights.params
    changed = {
        "/".join(k.key for k in path[:2])
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
        )
        if not np.array_equal(a, b)
    }
    assert changed and all(name.startswith(("head/output", "fusion")) for name in changed)


def test_an_event_without_an_offset_has_that_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = start(parts(plain()))
    engine.observe([Event("a", "item3", START, utc_offset=3600)])
    learnt = {}

    def of(by_user, *others):
        learnt.update({user: [int(row["utc_offset"]) for row in rows] for user, rows in by_user.items()})
        raise ConfigError("enough")

    monkeypatch.setattr(Recent, "of", of)
    told = ((9, None), (1, None), (5, 7200))  # in any order
    with pytest.raises(ConfigError, match="enough"):
        engine.fine_tune([Event(user, "item4", START + at, offset) for user in "ab" for at, offset in told])
    assert learnt == {"a": [3600, 7200, 7200], "b": [0, 7200, 7200]}


def test_every_target_is_asked_once_the_last_are_held_out() -> None:
    made = parts(plain())
    codec = Codec(made[2].schema, made[3])
    events = [event for event in stream(400, users=2) if event.item != "item23"]
    by_user: dict[str, list[np.ndarray]] = {}
    for event in events:
        by_user.setdefault(event.user, []).append(codec.event(event, 0))
    since = int(np.median([record["time"] for own in by_user.values() for record in own]))
    recent = Recent.of(by_user, codec, since, 0.25)
    target = recent.events.time[:, 1:]
    learnt = target[recent.weight > 0].tolist()
    held = recent.events.time[recent.row, recent.position + 1].tolist()
    asked = [
        r["time"] for own in by_user.values() for r in own[1:] if r["time"] >= since and r["item"] >= FIRST
    ]
    assert sorted(learnt + held) == sorted(asked)
    assert max(learnt) <= min(held) and len(held) == pytest.approx(0.25 * len(asked), abs=1)
    assert max(map(len, by_user.values())) > 2 * LENGTH
    context = recent.position[np.asarray(held) > np.median(held)]
    assert (
        context >= LENGTH // 2
    ).all()  # in the middle of a history each target reads at least half a length


def test_what_cannot_be_learnt_from_is_told() -> None:
    engine = start(parts(plain()))
    events = walks(1, 3, 5, START, 1)
    for settings, words in (
        ({"groups": ("nothing",)}, "no parameter lies under 'nothing'; the model has .*'head'"),
        ({"groups": "head"}, "groups='head' must be a list"),
        ({"groups": ()}, r"groups=\(\) must be a list"),
        ({"held_out": 1.0}, "held_out=1.0"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"epochs": 1.5}, r"epochs=1\.5 must be at least 1, a whole number"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"learning_rate": 0.0}, r"learning_rate=0\.0 must be above 0"),
        ({"since": START + 10**7}, "0 of the events .* an earlier `since`"),
    ):
        with pytest.raises(ConfigError, match=words):
            engine.fine_tune(events, **settings)
    with pytest.raises(ConfigError, match="nothing was swapped"):
        engine.rollback()
