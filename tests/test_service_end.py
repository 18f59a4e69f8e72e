"""The example service ended while it is called, and gone on with: nothing accepted is lost."""

from __future__ import annotations

import http.client
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stjax.serving import Event
from tests.calls import T, call, event, served, start, until
from tests.counting import ITEMS, counting, counts, expected


def test_no_event_that_was_accepted_is_lost_at_the_end(tmp_path: Path) -> None:
    """Ended while four callers post, gone on with by another process, ended again."""
    accepted: list[Event] = []
    unknown: list[Event] = []  # sent, not answered: they may be there or not
    for first, ending in ((T, signal.SIGTERM), (2 * T, signal.SIGINT)):
        process, port = start(tmp_path)
        try:
            until(lambda port=port: call(port, "/health")[0] == 200)
            before = len(accepted)

            def post(user: int, port: int = port, first: int = first) -> None:
                for k in range(10_000):
                    own = [Event(f"u{user}", f"i{(user + k + j) % ITEMS}", first + k) for j in range(2)]
                    body = {"events": [event(each.user, each.item, each.time) for each in own]}
                    try:
                        status, answer = call(port, "/events", body)
                    except (OSError, http.client.HTTPException):
                        unknown.extend(own)
                        return
                    assert (status, answer["accepted"]) == (200, 2)
                    accepted.extend(own)

            with ThreadPoolExecutor(4) as pool:
                posts = [pool.submit(post, user) for user in range(4)]
                until(lambda before=before: len(accepted) > before + 60)
                process.send_signal(ending)
                for done in posts:
                    done.result()
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.communicate()
    with counting(tmp_path) as engine:
        found = {f"u{k}": counts(engine, f"u{k}") for k in range(4)}
        assert len(accepted) <= engine.status()["events"] <= len(accepted) + len(unknown)
    for user, own in found.items():
        assert all(own[item] >= count for item, count in expected(accepted, user).items())
    with served(counting(tmp_path), state=tmp_path) as client:  # the page goes on too
        kept = client.get("/users/u1").json()["events"]
        assert len(kept) == min(50, sum(found["u1"].values()))
