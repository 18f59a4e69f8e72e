"""The engine under load: latencies beside a bare search, throughput by users and items, and a soak.

    python -m benchmarks.serving one [--peer PYTHON]        one event and one top 10 among 100,000 items
    python -m benchmarks.serving cache                      an event with cached keys and values, or all again
    python -m benchmarks.serving many [--peer PYTHON]       events and answers a second
    python -m benchmarks.serving soak [--seconds 600]       a mixed load from several threads, then a replay
        [--interest gru]

PYTHON is that of an environment with NumPy, PyTorch and faiss-cpu. `--graphs FOLDER` keeps HNSW graphs for a
later run; those of more than 100,000 items take many minutes and are built with it only (ahead of time by
`PYTHON benchmarks/peers/search.py 1000000 64 0 2 graph FOLDER`). Random parameters, 64 features; a call
blocks until its result is there. Prints JSON lines: milliseconds as [median, p99]. The peers' calls alternate
with those of blocks of ours, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stjax.events import FIRST, Batch, Catalogue, Events, Schema
from stjax.nn import (
    GRU,
    HSTU,
    LSTM,
    ConcatFusion,
    Interest,
    ItemEmbed,
    Recommender,
    Retrieval,
    SelfAttention,
    StateSpace,
    TimeEmbed,
)
from stjax.serving import Engine, Event, Request, Settings, Shapes
from stjax.serving.vocabulary import Vocabulary

USERS, SIZE = 2048, 64
PEER = Path(__file__).parent / "peers" / "search.py"
INTERESTS: dict[str, Interest] = {"gru": GRU(), "lstm": LSTM(), "state space": StateSpace()}
CACHED: dict[str, Interest] = {"attention": SelfAttention(window=512), "hstu": HSTU(window=512)}
# Their rings go round in a soak: its users get some 200 events each.
SOAKED = INTERESTS | {"attention": SelfAttention(window=64), "hstu": HSTU(window=64)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("one", "cache", "many", "soak"))
    parser.add_argument("--peer", help="Python with NumPy, PyTorch and faiss")
    parser.add_argument("--graphs", help="folder of the peer's HNSW graphs")
    parser.add_argument("--interest", choices=SOAKED, default="gru", help="of the soak")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=600)
    args = parser.parse_args()
    {"one": one, "cache": cache, "many": many, "soak": soak}[args.what](args)


def one(args: argparse.Namespace) -> None:
    """One user's event and answer, after histories of several lengths."""
    items, lengths = 100_000, (32, 512, 4096)
    peers = [] if args.peer is None else [_peer(args.peer, items, args.calls)]
    for name, interest in INTERESTS.items():
        engine = _engine(interest, items, Shapes((1,), (1, 64), (10,)))
        for k, length in enumerate(lengths):
            engine.observe([Event(f"u{k}", f"i{n % items}", 60 * n, 0) for n in range(length)])
        clock = 60 * max(lengths)
        times: dict[int, list[float]] = {length: [] for length in lengths}
        for _ in range(args.calls):  # in turns: all see the same machine
            clock += 60
            for k, length in enumerate(lengths):
                begin = time.perf_counter()
                engine.observe([Event(f"u{k}", f"i{clock % items}", clock, 0)])
                engine.recommend([Request(f"u{k}", clock + 30)], 10)
                times[length].append(time.perf_counter() - begin)
        each = {f"after {length}": _spread(own) for length, own in times.items()}
        _say("one event, one answer", interest=name, items=items, calls=args.calls, **each)
    if args.peer is not None:
        peers.append(_peer(args.peer, items, args.calls))
    for found in peers:
        _say("bare search, by the peers", **found)


def cache(args: argparse.Namespace) -> None:
    """One more event on a history of 512: by the state, and by encoding all of it again."""
    length, items = 512, 10_000
    for name, interest in CACHED.items():
        model, params, catalogue, _ = _parts(interest, items)
        weights = {"params": params}
        table = jax.jit(partial(model.apply, method="item_table"))(weights, catalogue)
        hour = 3600 * jnp.arange(length, dtype=jnp.int32)[None]
        events = _events(jnp.arange(length, dtype=jnp.int32)[None] % items + FIRST, hour)
        read = jax.jit(partial(model.apply, method="read"))
        step = jax.jit(partial(model.apply, method="step"), donate_argnums=1)
        whole = jax.jit(partial(model.apply, method="_encode"), static_argnums=4)
        state = read(weights, model.init_state(1), events, catalogue, table)
        times: dict[str, list[float]] = {"step": [], "again": []}
        for k in range(args.calls + 5):
            event = _events(jnp.asarray([k % items + FIRST]), hour[:, -1] + k)
            begin = time.perf_counter()
            state = jax.block_until_ready(step(weights, state, event, catalogue, table))
            times["step"].append(time.perf_counter() - begin)
            if k % 20 == 0:
                begin = time.perf_counter()
                jax.block_until_ready(whole(weights, events, table, catalogue, False))
                times["again"].append(time.perf_counter() - begin)
        own = {key: _spread(values[1:]) for key, values in times.items()}
        _say("cached", interest=name, history=length, ratio=round(own["again"][0] / own["step"][0], 1), **own)


def many(args: argparse.Namespace) -> None:
    """Events a second by users at once, answers a second by items."""
    engine = _engine(GRU(), 10_000, Shapes((1, 32, 1024), (1,), (10,)))
    for users in (1, 32, 1024):
        clock = [0]

        def observe(users: int = users, clock: list[int] = clock) -> None:
            clock[0] += 60
            engine.observe([Event(f"u{k}", f"i{k}", clock[0], 0) for k in range(users)])

        calls = max(20, min(args.calls, 40_000 // users))
        times = _timed(observe, calls)
        rate = round(1e3 * users / times[0])
        _say("events", interest="gru", users=users, calls=calls, milliseconds=times, per_second=rate)
    for items in args.items:
        engine = _engine(GRU(), items, Shapes((1, 64), (1,), (10,)))
        engine.observe([Event(f"u{k}", f"i{k}", 60, 0) for k in range(64)])
        calls = max(20, min(args.calls, 200_000_000 // items))
        for users in (1, 64):
            requests = [Request(f"u{k}", 100) for k in range(users)]
            times = _timed(lambda r=requests, e=engine: e.recommend(r, 10), max(20, calls // users))
            rate = round(1e3 * users / times[0])
            _say("answers", items=items, users=users, milliseconds=times, per_second=rate)
        if args.peer is not None:
            graph = args.graphs is not None or items <= 100_000
            found = _peer(args.peer, items, calls, graph, args.graphs)
            _say("bare search, by the peers", **found)
        floor = 1e3 * 4 * SIZE * items / _bandwidth()
        _say("floor", items=items, milliseconds=round(floor, 3), note="the table read once from memory")


def soak(args: argparse.Namespace) -> None:
    """Threads that observe and ask; memory and compilations meanwhile, states against a replay at the end."""
    compiled: list[float] = []

    def listen(event: str, duration_secs: float, **about: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    shapes = Shapes((1, 8, 64), (1, 8), (10, 100))
    settings = Settings(256, USERS, lateness=120, shapes=shapes, snapshot_every=20_000)
    with tempfile.TemporaryDirectory() as folder:
        made = _parts(SOAKED[args.interest], 20_000)
        engine = Engine(*made, settings=settings, folder=folder)
        _say("warm up", seconds=round(engine.warm_up(), 1), memory=engine.memory())
        before, begin = len(compiled), time.monotonic()
        stop = begin + args.seconds
        # All that the benchmark keeps of a call: what was told is drawn again for the replay.
        taken = [{"observe": array("d"), "recommend": array("d")} for _ in range(4)]
        refused: list[set[tuple[int, int]]] = [set() for _ in range(4)]  # call, and event of it

        def work(t: int) -> None:
            told = _stream(t)
            while time.monotonic() < stop:
                clock, events = next(told)
                users = [event.user for event in events]
                start = time.perf_counter()
                done = engine.observe(events)
                taken[t]["observe"].append(time.perf_counter() - start)
                refused[t].update((len(taken[t]["observe"]) - 1, k) for k in done.refused)
                start = time.perf_counter()
                engine.recommend([Request(u, clock + 300, exclude_seen=bool(clock % 7)) for u in users], 10)
                taken[t]["recommend"].append(time.perf_counter() - start)

        threads = [threading.Thread(target=work, args=(t,)) for t in range(4)]
        minutes, memory = array("d"), array("q")
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(min(10.0, args.seconds / 20))
            minutes.append((time.monotonic() - begin) / 60)
            memory.append(_resident())
        parts = [memory[min(len(memory) - 1, len(memory) * q // 4)] for q in (1, 2, 3, 4)]
        late = slice(len(memory) // 4, None)
        growth = np.polyfit(np.asarray(minutes[late]), np.asarray(memory[late]) / 1e6, 1)[0]
        times = {kind: np.concatenate([own[kind] for own in taken]) for kind in taken[0]}
        _say(
            "soak",
            interest=args.interest,
            seconds=args.seconds,
            calls=sum(map(len, times.values())),
            events=engine.status()["events"],
            refused={c: n for c, n in engine.status()["counts"].items() if c.startswith("refused")},
            evictions=engine.status()["evictions"],
            compiled_after_warm_up=len(compiled) - before,
            resident_megabytes=[round(m / 1e6, 1) for m in (*parts, max(memory))],
            megabytes_a_minute=round(float(growth), 2),
            of_them={
                "seen": round(engine.memory()["seen"] / 1e6, 2),
                "latencies": round(sum(own.nbytes for own in times.values()) / 1e6, 2),
            },
            **{kind: _spread(own) for kind, own in times.items()},
        )
        replay = Engine(*made, settings=Settings(users=USERS, capacity=USERS, shapes=shapes))
        for t in range(4):  # all of a thread's users at once: no event is late
            calls = itertools.islice(_stream(t), len(taken[t]["observe"]))
            told = ((event, (n, k)) for n, (_, events) in enumerate(calls) for k, event in enumerate(events))
            replay.observe([event for event, where in told if where not in refused[t]])
        requests = [Request(f"u{k}", 10**8) for k in range(0, USERS, 7)]
        worst = 0.0
        for a, b in zip(engine.recommend(requests, 100), replay.recommend(requests, 100), strict=True):
            worst = max(worst, float(np.abs(np.sort(a.scores) - np.sort(b.scores)).max()))
        events = replay.status()["events"]
        _say("replay", users=len(requests), events=events, largest_difference=worst)
        engine.close()


def _stream(thread: int) -> Iterator[tuple[int, list[Event]]]:
    """A clock and a call's events, of one thread's users, without end: the same at every time."""
    random, clock = np.random.default_rng(thread), 0
    while True:
        clock += 60
        size = int(random.integers(1, 6))
        who = 4 * random.integers(USERS // 4, size=size) + thread
        what = random.integers(20_000, size=size)
        when = clock + 200 - random.integers(0, 100, size)
        told = zip(who.tolist(), what.tolist(), when.tolist(), strict=True)
        yield clock, [Event(f"u{user}", f"i{item}", time, 0) for user, item, time in told]


def _parts(interest: Interest, items: int) -> tuple[Recommender, Any, Catalogue, dict[str, Vocabulary]]:
    schema = Schema(items + FIRST, USERS + FIRST, 345_600, place=False)
    catalogue = Catalogue(np.full((schema.items, 2), np.nan, np.float32), schema)
    fusion, head = ConcatFusion(SIZE), Retrieval(known=("time",))
    model = Recommender(ItemEmbed(SIZE), {"time": TimeEmbed()}, fusion, interest, head)
    ids = jnp.zeros((1, 3), jnp.int32)
    batch = Batch(_events(ids, ids), jnp.ones((1, 2)))
    params = jax.jit(partial(model.init, method="loss"))(jax.random.key(0), batch, catalogue)["params"]
    words = {"item": [f"i{k}" for k in range(items)], "user": [f"u{k}" for k in range(USERS)]}
    return model, params, catalogue, {name: Vocabulary(texts) for name, texts in words.items()}


def _engine(interest: Interest, items: int, shapes: Shapes) -> Engine:
    settings = Settings(capacity=1024, users=USERS, shapes=shapes)
    engine = Engine(*_parts(interest, items), settings=settings)
    engine.warm_up()
    return engine


def _events(item: jax.Array, time: jax.Array) -> Events:
    zero = jnp.zeros_like(item)
    place = jnp.full((*item.shape, 2), jnp.nan)
    return Events(item, zero + FIRST, time.astype(jnp.int32), zero, place, jnp.ones(item.shape, bool))


def _timed(work: Callable[[], Any], calls: int) -> list[float]:
    work()
    times = []
    for _ in range(calls):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return _spread(times)


def _spread(seconds: list[float] | np.ndarray) -> list[float]:
    """Median and p99, in milliseconds."""
    return [round(1e3 * float(v), 3) for v in (np.median(seconds), np.percentile(seconds, 99))]


def _peer(
    python: str, items: int, calls: int, graph: bool = False, folder: str | None = None
) -> dict[str, Any]:
    threads = str(os.cpu_count())
    arguments = [str(items), str(SIZE), str(calls), threads, "graph" if graph else "flat"]
    arguments += [] if folder is None else [folder]
    command = [python, str(PEER), *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _bandwidth() -> float:
    """Bytes a second that this machine reads in a sum over an array that no cache holds."""
    x = np.ones(1 << 26, np.float32)
    best = min(_timed(x.sum, 5)[0] for _ in range(3))
    return x.nbytes / (best / 1e3)


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _say(benchmark: str, **facts: Any) -> None:
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    machine = {"device": device, "cpus": os.cpu_count(), "jax": jax.__version__}
    print(json.dumps({"benchmark": benchmark, **facts, **machine}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
