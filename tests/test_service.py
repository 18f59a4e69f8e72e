"""The example service: what it accepts, refuses and counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from examples.service import app
from examples.service.bodies import Limits
from examples.service.guard import Guard
from examples.service.metrics import Metrics
from stjax.errors import UserError
from stjax.serving import Event
from stjax.serving.journal import JournalError
from tests.calls import T, event, served, until
from tests.counting import ITEMS, counting, counts, expected


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A warm service with small limits, for all tests that do not look at all of its state."""
    limits = Limits(body=20_000, events=7, requests=3, k=5, ids=4, concurrent=9)
    with served(counting(users=1000), limits=limits) as client:
        until(lambda: client.get("/health").status_code == 200)
        yield client


def items(client: TestClient, user: str, k: int = 5, **more: Any) -> list[str]:
    answer = client.post("/recommendations", json={"requests": [{"user": user, **more}], "k": k})
    assert answer.status_code == 200, answer.text
    return [each["item"] for each in answer.json()["answers"][0]["items"]]


def test_events_change_what_is_recommended(client: TestClient) -> None:
    own = [event("mine", f"i{k}", T + i) for i, k in enumerate([3, 5, 5, 3, 5, 8])]
    answer = client.post("/events", json={"events": own})
    assert (answer.status_code, answer.json()) == (200, {"accepted": 6, "repeated": 0, "refused": {}})
    assert items(client, "mine", 3) == ["i5", "i3", "i8"]
    assert items(client, "mine", 2, deny=["i5"]) == ["i3", "i8"]
    assert items(client, "mine", 5, allow=["i8", "i3"]) == ["i3", "i8"]
    assert items(client, "mine", 5, exclude_seen=True)[0] not in ("i3", "i5", "i8")
    assert items(client, "mine", 5, place=[40.7, -74.0], within_km=0.001) == []
    answer = client.post("/recommendations", json={"requests": [{"user": "mine"}, {"user": "new"}]})
    assert answer.json()["field"] == "k"  # the default of 10 is more than this service allows


def test_refused_events_are_told_by_position(client: TestClient) -> None:
    events = [event("late", time=T + 9), event("late", time=T), event("late", time=T + 10)]
    client.post("/events", json={"events": events[:1]})
    answer = client.post("/events", json={"events": events[1:]})
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
    assert re.match("time=1000000 is more than lateness=0", answer.json()["refused"]["0"])
    answer = client.post("/events", json={"events": [event("late", time=2.1e9), *events[:2]]})
    assert (answer.status_code, answer.json()["accepted"], answer.json()["field"]) == (422, 0, "events[0]")
    assert "ahead of the clock" in answer.json()["error"]
    assert sorted(answer.json()["refused"]) == ["0", "1", "2"]
    kept = client.get("/users/late").json()["events"]
    assert [each["time"] for each in kept] == [T + 9, T + 10]


def test_an_event_with_an_id_is_read_once(client: TestClient) -> None:
    own = [event("again", f"i{k}", T + k) | {"id": f"{k}"} for k in range(3)]
    for sent, accepted, repeated in ((own[:2], 2, 0), (own[:2], 0, 2), (own, 1, 2)):
        answer = client.post("/events", json={"events": sent})
        told = {"accepted": accepted, "repeated": repeated, "refused": {}}
        assert (answer.status_code, answer.json()) == (200, told)
    assert [each["item"] for each in client.get("/users/again").json()["events"]] == ["i0", "i1", "i2"]


BAD_EVENTS = [
    ({"id": 7}, "id", "text"),
    ({"id": "é" * 33}, "id", "66 bytes"),
    ({"user": 7}, "user", "text"),
    ({"user": ""}, "user", "not empty"),
    ({"user": None}, "user", "missing"),
    ({"user": "x" * 257}, "user", "257"),
    ({"user": "\ud800"}, "user", "half a character"),
    ({"item": ["i1"]}, "item", "a list"),
    ({"time": "2020-01-01"}, "time", "a number"),
    ({"time": True}, "time", "true"),
    ({"time": 1.7e12}, "time", "milliseconds"),
    ({"time": 10**400}, "time", "too large"),
    ({"utc_offset": 1.5}, "utc_offset", "whole"),
    ({"utc_offset": 90_000}, "utc_offset", "a day"),
    ({"place": "40.7,-74.0"}, "place", "latitude"),
    ({"place": [40.7]}, "place", "latitude"),
    ({"place": [-174, 40]}, "place", "globe"),
    ({"place": [40.7, None]}, "place[1]", "null"),
    ({"context": []}, "context", "object"),
    ({"context": {"mood": {"a": 1}}}, "context.mood", "number"),
    ({"context": {"mood": [1, "x"]}}, "context.mood[1]", "number"),
    ({"place_": [1, 2]}, "place_", "no such field"),
]


@pytest.mark.parametrize(("change", "field", "message"), BAD_EVENTS)
def test_a_bad_event_is_told_by_its_field(
    client: TestClient, change: dict[str, Any], field: str, message: str
) -> None:
    body = json.dumps({"events": [event("bad"), event("bad") | change]})
    answer = client.post("/events", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["field"]) == (422, f"events[1].{field}")
    assert answer.json()["error"].startswith(f"events[1].{field}: ")
    assert message in answer.json()["error"]
    assert client.get("/users/bad").json()["events"] == []  # the good one of the call is not accepted either


BAD_REQUESTS = [
    ({}, "user", "missing"),
    ({"user": "u1", "within_km": 0}, "within_km", "above 0"),
    ({"user": "u1", "within_km": -3}, "within_km", "above 0"),
    ({"user": "u1", "exclude_seen": 1}, "exclude_seen", "true or false"),
    ({"user": "u1", "allow": []}, "allow", "empty list"),
    ({"user": "u1", "allow": "i1"}, "allow", "a list"),
    ({"user": "u1", "deny": ["i1", 3]}, "deny[1]", "text"),
    ({"user": "u1", "where": {"kind": "a"}}, "where.kind", "a list"),
    ({"user": "u1", "where": ["kind"]}, "where", "object"),
    ({"user": "u1", "context": {"scene": 3}}, "context.scene", "text"),
    ({"user": "u1", "k": 3}, "k", "no such field"),
]


@pytest.mark.parametrize(("request_", "field", "message"), BAD_REQUESTS)
def test_a_bad_request_is_told_by_its_field(
    client: TestClient, request_: dict[str, Any], field: str, message: str
) -> None:
    answer = client.post("/recommendations", json={"requests": [{"user": "u1"}, request_], "k": 2})
    assert (answer.status_code, answer.json()["field"]) == (422, f"requests[1].{field}")
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"user": "u1", "within_km": 2}, "within_km"),  # nobody's place is known
        ({"user": "u1", "where": {"colour": ["red"]}}, "where"),
        ({"user": "u1", "context": {"mood": "good"}}, "context"),
        ({"user": "u1", "allow": ["nothing"]}, "allow"),
    ],
)
def test_what_only_the_engine_knows_is_told_too(
    client: TestClient, request_: dict[str, Any], field: str
) -> None:
    answer = client.post("/recommendations", json={"requests": [request_], "k": 2})
    assert (answer.status_code, answer.json()["field"]) == (422, field)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, None),
        (b"{", 400, None),
        (b"\xff{}", 400, None),
        (b'{"events": [{"user": "u", "item": "i", "time": NaN}]}', 400, None),
        (b"[" * 19_000, 400, None),
        (b"[]", 422, None),
        (b"{}", 422, "events"),
        (b'{"events": []}', 422, "events"),
        (b'{"events": {}}', 422, "events"),
        (b'{"events": [3]}', 422, "events[0]"),
        (b'{"events": [{}], "more": 1}', 422, "more"),
        (json.dumps({"events": [event()] * 8}).encode(), 413, "events"),
        (b" " * 20_001, 413, None),
    ],
)
def test_a_body_that_is_none(client: TestClient, body: bytes, status: int, field: str | None) -> None:
    answer = client.post("/events", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["field"]) == (status, field)
    assert answer.json()["error"]


def test_other_bad_calls(client: TestClient) -> None:
    assert client.post("/events", data={"events": "1"}).status_code == 415
    assert client.get("/events").status_code == 405
    assert client.get("/nothing").json() == {"error": "Not Found", "field": None}
    for k in (0, 6, 10**9, "3", 1.5):
        answer = client.post("/recommendations", json={"requests": [{"user": "u1"}], "k": k})
        assert (answer.status_code, answer.json()["field"]) == (422, "k")
    many = {"requests": [{"user": "u1"}] * 4, "k": 2}
    assert client.post("/recommendations", json=many).status_code == 413
    for limit in ("0", "1001", "-1", "x", "9" * 99):
        assert client.get("/users", params={"limit": limit}).status_code == 422


def test_the_page_has_what_it_shows(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
        assert client.get(path).status_code == 200
    assert "://" not in page.text  # nothing comes from elsewhere
    found = client.get("/items").json()
    assert found["id"] == [f"i{k}" for k in range(ITEMS)]
    assert [place is None for place in found["place"]] == [k == 3 for k in range(ITEMS)]
    assert (found["kind"][:4], found["kinds"]) == ([-1, 0, 1, -1], ["a", "b"])
    client.post("/events", json={"events": [event("p/1"), event("p/2", time=T + 0.5, place=[1, 2])]})
    assert client.get("/users", params={"prefix": "p/", "limit": 1}).json()["users"] == ["p/1"]
    assert client.get("/users/p/2").json()["events"] == [
        {"item": "i1", "time": T + 0.5, "utc_offset": None, "place": [1, 2]}
    ]
    nobody = client.get("/users/nobody")
    assert (nobody.status_code, nobody.json()) == (200, {"user": "nobody", "events": []})
    assert client.get("/model").json()["limits"] == {"events": 7, "requests": 3, "k": 5}


def test_metrics_count() -> None:
    with served(counting()) as client:
        until(lambda: client.get("/health").status_code == 200)
        before = metrics(client)
        for _ in range(3):
            client.post("/events", json={"events": [event(), event()]})
        client.post("/events", json={"events": []})
        client.post("/recommendations", json={"requests": [{"user": "u1"}], "k": 5})
        client.get('/users/with spaces and "quotes"')
        client.get("/" + "x" * 50)
        after = metrics(client)

    def more(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert more('stjax_requests_total{route="/events",method="POST",status="200"}') == 3
    assert more('stjax_requests_total{route="/events",method="POST",status="422"}') == 1
    assert more('stjax_requests_total{route="/recommendations",method="POST",status="200"}') == 1
    assert more('stjax_requests_total{route="/users/ID",method="GET",status="200"}') == 1
    assert more('stjax_requests_total{route="other",method="GET",status="404"}') == 1
    assert more('stjax_request_seconds_count{route="/events"}') == 4
    ends = [v for name, v in after.items() if name.startswith('stjax_request_seconds_bucket{route="/events"')]
    assert ends == sorted(ends)
    assert ends[-1] == 4
    assert 0 < more('stjax_request_seconds_sum{route="/events"}') < 60
    assert (more("stjax_events_total"), after["stjax_users"], after["stjax_ready"]) == (6, 1, 1)
    assert after["stjax_in_flight"] == 1  # the one that asks
    assert after['stjax_engine_total{cause="accepted"}'] == 6
    assert after['stjax_memory_bytes{part="device"}'] == 4 * after['stjax_memory_bytes{part="user"}']


def metrics(client: TestClient) -> dict[str, float]:
    """The exposition, checked line by line: every sample is declared before it comes, and comes once."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: dict[str, float] = {}
    declared: dict[str, str] = {}
    for line in answer.text.splitlines():
        if kind := re.fullmatch(r"# TYPE (\w+) (counter|gauge|histogram)", line):
            assert kind[1] not in declared
            declared[kind[1]] = kind[2]
        elif not line.startswith("# HELP "):
            label = r'\w+="(?:[^"\\\n]|\\["\\n])*"'
            sample = re.fullmatch(rf"((\w+)(?:\{{{label}(?:,{label})*\}})?) (\S+)", line)
            assert sample, line
            name = re.sub("_(bucket|sum|count)$", "", sample[2])
            assert sample[2] in declared or declared.get(name) == "histogram", line
            assert sample[1] not in found
            found[sample[1]] = float(sample[3])
    return found


@pytest.mark.parametrize(("fails", "status"), [(False, 499), (True, 500)])
def test_a_caller_who_has_left_is_no_failure(fails: bool, status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if fails:
            raise OSError("the disk")

    counted = Metrics()
    scope = {"type": "http", "path": "/", "method": "GET"}
    with pytest.raises(OSError, match="disk") if fails else contextlib.nullcontext():
        asyncio.run(Guard(app, counted)(scope, app, app))  # pyright: ignore[reportArgumentType]
    assert f'{{route="/",method="GET",status="{status}"}} 1' in "\n".join(counted._own(ready=True))


def test_nothing_is_answered_before_the_programs_are_compiled(caplog: pytest.LogCaptureFixture) -> None:
    """Meanwhile its log says what the states take."""
    caplog.set_level("INFO", "stjax.service")
    engine, go = counting(), threading.Event()
    warm_up = engine.warm_up

    def slow() -> float:
        go.wait(30)
        return warm_up()

    engine.warm_up = slow
    with served(engine) as client:
        answer = client.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "compiling")
        answer = client.post("/events", json={"events": [event()]})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert metrics(client)["stjax_ready"] == 0
        go.set()
        until(lambda: client.get("/health").json() == {"status": "ready"})
        assert client.post("/events", json={"events": [event()]}).status_code == 200
    size = engine.memory()["user"]
    assert f"a user's state: {size} bytes; capacity: 3 users on the device" in caplog.text
    assert re.search(r"all: 50 users, \d+\.\d MiB on the host at most", caplog.text)


def test_a_failing_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = counting()
    with served(engine) as client:
        until(lambda: client.get("/health").status_code == 200)
        observe = engine.observe

        def full(events: list[Event]) -> None:
            raise UserError("no space is left on the disk")

        engine.observe = full  # pyright: ignore[reportAttributeAccessIssue]
        answer = client.post("/events", json={"events": [event()]})
        assert (answer.status_code, answer.json()["error"]) == (503, "no space is left on the disk")
        assert client.get("/health").json()["error"] == "no space is left on the disk"
        engine.observe = observe
        assert client.post("/events", json={"events": [event()]}).status_code == 200
        assert client.get("/health").status_code == 200

        def refused(events: list[Event]) -> None:
            raise JournalError("cannot append")

        engine.observe = refused  # pyright: ignore[reportAttributeAccessIssue]
        assert client.post("/events", json={"events": [event()]}).status_code == 503
        assert client.get("/health").json()["error"] == "cannot append"
        monkeypatch.setattr(app, "RETRY", 0.0)  # later it is tried again, or no events would come any more
        assert client.get("/health").status_code == 200

        def wrong(events: list[Event]) -> None:
            raise RuntimeError("secret")

        engine.observe = wrong  # pyright: ignore[reportAttributeAccessIssue]
        answer = client.post("/events", json={"events": [event()]})
        assert answer.status_code == 500
        assert "secret" not in answer.text


def test_more_calls_than_the_limit_are_told_to_come_again() -> None:
    engine, go = counting(), threading.Event()
    with served(engine, limits=Limits(concurrent=2)) as client, ThreadPoolExecutor(8) as pool:
        until(lambda: client.get("/health").status_code == 200)
        observe = engine.observe

        def slow(events: list[Event]) -> Any:
            go.wait(30)
            return observe(events)

        engine.observe = slow  # pyright: ignore[reportAttributeAccessIssue]
        calls = [pool.submit(client.post, "/events", json={"events": [event(f"u{k}")]}) for k in range(5)]
        until(lambda: sum(call.done() for call in calls) == 3)
        assert client.get("/health").status_code == 200
        go.set()
        answers = [call.result() for call in calls]
        assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]
        assert {a.headers.get("retry-after") for a in answers if a.status_code == 503} == {"1"}
        assert engine.status()["events"] == 2


def test_calls_from_many_threads_lose_nothing() -> None:
    engine = counting()
    with served(engine) as client, ThreadPoolExecutor(8) as pool:
        until(lambda: client.get("/health").status_code == 200)

        def post(thread: int) -> None:
            for k in range(25):
                own = [event(f"u{thread}", f"i{(k + j) % ITEMS}", T + k) for j in range(3)]
                answer = client.post("/events", json={"events": own})
                assert answer.json() == {"accepted": 3, "repeated": 0, "refused": {}}
                items(client, f"u{(thread + k) % 8}")

        for done in [pool.submit(post, thread) for thread in range(8)]:
            done.result()
        for thread in range(8):
            own = [Event(f"u{thread}", f"i{(k + j) % ITEMS}", T + k) for k in range(25) for j in range(3)]
            assert counts(engine, f"u{thread}") == expected(own, f"u{thread}")
