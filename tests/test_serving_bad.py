"""Bad input: a clear cause for each event that is refused, a count for each value that is repaired."""

from __future__ import annotations

import math
import re

import pytest

from stjax.errors import ConfigError
from stjax.serving import Event, Request, Settings, Shapes
from stjax.serving.codec import BadEvent
from stjax.serving.core import Core
from tests.configs.tiny import TinyModel
from tests.counting import counting, counts
from tests.serving import START, assert_equal, parts, plain, request, start

GOOD = Event("user2", "item3", START)


def event(**changes) -> Event:
    return Event(**{"user": "user2", "item": "item3", "time": START} | changes)


BAD = {
    "no user": (event(user=""), "user='' must be an id"),
    "a user that is no text": (event(user=None), "user=None must be an id"),
    "an endless user": (event(user="x" * 10_000), "user='xxxxxxxxxxxxxxxxxxxx'... has 10,000 characters"),
    "no item": (event(item=""), "item='' must be an id"),
    "no time": (event(time=None), "time=None must be Unix seconds"),
    "no number": (event(time=math.nan), "time=nan must be Unix seconds"),
    "a number beyond all floats": (event(time=10**400), "time=10000000000000000000 must be Unix seconds"),
    "a rating beyond all floats": (event(context={"rating": 10**400}), "rating=1000.* must be numbers"),
    "a place beyond all floats": (event(place=(10**400, 0)), "place=.* must be"),
    "milliseconds": (event(time=1_700_000_000_000), "give Unix seconds, not milliseconds"),
    "the future": (event(time=2e9 + 301), "more than future=300 seconds ahead of the clock"),
    "an id that is no text": (event(id=5), "id is of type int; it must be text"),
    "an id that is empty": (event(id=""), "id='' has 0 bytes; 1 to 64"),
    "an endless id": (event(id="é" * 33), "id='é+' has 66 bytes; 1 to 64"),
    "an offset in minutes": (event(utc_offset=-90_000), "utc_offset=-90000 is a day or more"),
    "half an offset": (event(utc_offset=0.5), "utc_offset=0.5 must be whole seconds"),
    "a place in words": (event(place="here"), "place='here' must be"),
    "no context": (event(context=None), "context is of type NoneType"),
    "an unknown field": (event(context={"weather": "rain"}), "no context field 'weather'; .*'scene'"),
    "a scene that is a list": (event(context={"scene": ["a"]}), "scene=.* must be text"),
    "a rating in words": (event(context={"rating": "good"}), "rating='good' must be numbers"),
    "a vector too short": (event(context={"mood": [1.0]}), "mood has 1 numbers, the model reads 3"),
}


@pytest.fixture(scope="module")
def made():
    return parts(plain(known=("scene",)))


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_is_refused_and_the_rest_is_read(made, kind: str) -> None:
    bad, words = BAD[kind]
    engine = start(made, capacity=2)
    done = engine.observe([GOOD, bad, event(time=START + 5)])
    assert done.accepted == 2
    assert list(done.refused) == [1]
    assert re.search(words, done.refused[1])
    assert sum(n for cause, n in engine.status()["counts"].items() if cause.startswith("refused")) == 1


def test_what_can_be_repaired_is_counted(made) -> None:
    engine = start(made, capacity=2)
    events = [
        event(place=(math.nan, 3.0)),
        event(place=(91.0, 3.0)),
        event(item="never seen"),
        event(context={"scene": "never seen"}),
        event(context={"rating": math.inf, "mood": [1.0, math.nan, 2.0]}),
        event(context={"rating": 1e300}),
    ]
    assert engine.observe(events).accepted == 6
    found = {cause: n for cause, n in engine.status()["counts"].items() if cause != "accepted"}
    assert found == {
        "place is not on the globe: unknown": 2,
        "item: unseen": 1,
        "scene: unseen": 1,
        "rating: not a number": 2,
        "mood: not a number": 1,
    }
    assert_equal(engine, made, events, [request("user2")])


def test_a_bad_request_is_told_and_spoils_no_other(made) -> None:
    engine = start(made, capacity=2)
    for bad, words in (
        (Request(""), "user=''"),
        (Request("a", time=math.inf), "time=inf"),
        (Request("a", utc_offset=100_000), "utc_offset=100000"),
        (Request("a", context={"weather": "rain"}), "no context field 'weather'"),
        (Request("a", context={"scene": 3.5}), "scene=3.5 must be text"),
        (Request("a", context=5), "context is of type int"),
        (Request("a", allow=5), "allow=5 must be ids"),
        (Request("a", deny=5), "deny=5 must be a list"),
        (Request("a", where={"category": 5}), "where: category=5"),
        (Request("a", where={"category": [[5]]}), "where: category: .5. must be text"),
        ({"user": "a"}, "number 1 of the call is of type dict: give stjax.serving.Request"),
    ):
        with pytest.raises(BadEvent, match=words):
            engine.recommend([request("user2"), bad])
    with pytest.raises(BadEvent, match=r"k=2.5 must be"):
        engine.recommend([request("user2")], 2.5)
    assert len(engine.recommend([request("user2")])[0].items) == 10


def test_there_is_room_for_so_many_users() -> None:
    engine = counting(users=3, capacity=2)
    done = engine.observe([Event(f"u{k}", "i1", 9) for k in range(5)])
    assert done.accepted == 3 and list(done.refused) == [3, 4]
    assert "there is room for 3 users; raise `users`" in done.refused[3]
    assert engine.observe([Event("u2", "i2", 9), Event("u4", "i2", 9)]).accepted == 1
    assert counts(engine, "u2") == {"i1": 1, "i2": 1} and counts(engine, "u4") == {}


def test_a_broken_state_stops_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = counting()
    engine.observe([Event("u1", "i1", 9)])

    def broken(*arguments) -> None:
        raise MemoryError("device")

    with monkeypatch.context() as patch:
        patch.setattr(Core, "apply", broken)
        with pytest.raises(MemoryError):
            engine.observe([Event("u1", "i2", 9)])
    with pytest.raises(ValueError, match="stopped after MemoryError: device; start it anew"):
        engine.recommend([Request("u1")])


def test_settings_are_checked() -> None:
    for settings, words in (
        ({"capacity": 0}, "capacity=0"),
        ({"users": 0}, "users=0"),
        ({"lateness": -1}, "lateness=-1"),
        ({"shapes": ((8, 1), (1,), (5,))}, r"batches=\(8, 1\)"),
    ):
        with pytest.raises(ConfigError, match=words):
            shapes = settings.pop("shapes", None)
            Settings(**settings, **({} if shapes is None else {"shapes": Shapes(*shapes)}))


def test_a_model_without_steps_is_refused(made) -> None:
    with pytest.raises(ConfigError, match="TinyModel has no 'init_state'"):
        start((TinyModel(), *made[1:]))


def test_memory_is_told(made) -> None:
    memory = start(made, capacity=4, users=20).memory()
    assert memory["device"] == 5 * memory["user"] and memory["host"] == 20 * memory["user"]
    assert memory["user"] > 0
