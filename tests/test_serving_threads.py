"""Many threads at once: nothing is lost or mixed up, and after `warm_up` nothing is compiled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np

from stjax.serving import Event, Request
from stjax.serving.combine import Combiner
from tests.counting import ITEMS, counting, counts
from tests.serving import parts, plain, request, start, stream

COMPILED = "/jax/core/compile/backend_compile_duration"


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The programs that are compiled within."""
    found: list[str] = []

    def listen(name: str, seconds: float, **about: object) -> None:
        if name == COMPILED:
            found.append(f"{about} {seconds:.2f} s")

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_no_call_compiles_after_warm_up() -> None:
    made = parts(plain(known=("time", "place", "scene")))
    engine = start(made, capacity=4, lateness=5000, waiting=2)
    with compilations() as found:
        engine.warm_up()
    assert found  # so the listener hears
    events = stream(150)
    with compilations() as found:
        for at in range(0, 150, 7):
            engine.observe(events[at : at + 7])
            engine.recommend([request(event.user, at) for event in events[at : at + 4]], 3)
            engine.recommend([request("user3", at, exclude_seen=True), request("new", at, within_km=9.0)], 21)
        engine.recommend([request(f"user{k}", k) for k in range(2, 10)], 21)
    assert found == []
    assert engine.status()["evictions"] > 5 and engine.status()["waiting"] > 0


def test_threads_lose_nothing() -> None:
    engine, threads, each = counting(capacity=3, users=50), 8, 40
    errors: list[BaseException] = []
    start_all = threading.Barrier(threads)

    def work(t: int) -> None:
        random = np.random.default_rng(t)
        try:
            start_all.wait()
            for k in range(each):
                item = f"i{(t + k) % ITEMS}"
                done = engine.observe([Event(f"own{t}", item, k), Event("shared", item, 7)])
                assert done.accepted == 2
                found = engine.recommend([Request(f"own{t}"), Request("nobody")], int(random.integers(1, 4)))
                assert found[0].user == f"own{t}"
                assert sum(counts(engine, f"own{t}").values()) == k + 1
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(t,)) for t in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    assert engine.status()["events"] == 2 * threads * each
    assert sum(counts(engine, "shared").values()) == threads * each
    for t in range(threads):
        own = [f"i{(t + k) % ITEMS}" for k in range(each)]
        assert counts(engine, f"own{t}") == {item: own.count(item) for item in set(own)}


def test_calls_that_wait_are_worked_on_together() -> None:
    sizes, first_in, go_on = [], threading.Event(), threading.Event()

    def work(calls) -> None:
        sizes.append(len(calls))
        first_in.set()
        go_on.wait(10)
        for call in calls:
            call.finish(-call.argument)

    combined = Combiner(work)
    answers: dict[int, int] = {}
    threads = [
        threading.Thread(target=lambda k=k: answers.update({k: combined("do", k)})) for k in range(1, 10)
    ]
    threads[0].start()
    first_in.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(combined._waiting) < 8:
        pass
    go_on.set()
    for thread in threads:
        thread.join()
    assert answers == {k: -k for k in range(1, 10)}
    assert sizes == [1, 8]


def test_an_error_is_that_of_its_caller() -> None:
    def work(calls) -> None:
        for call in calls:
            if call.argument < 0:
                call.fail(ValueError(call.argument))
            elif call.argument:
                call.finish(call.argument)

    combined = Combiner(work)
    assert combined("do", 3) == 3
    for argument, kind in ((-1, ValueError), (0, RuntimeError)):
        try:
            combined("do", argument)
            raise AssertionError("no error")
        except kind:
            pass
