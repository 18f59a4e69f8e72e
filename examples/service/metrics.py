"""What the service counts, as text for Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # upper ends of buckets


class Metrics:
    """Calls by route and status, and how long they took. Only the event loop's thread may count."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._answers: Counter[tuple[str, str, int]] = Counter()
        self._buckets: dict[str, list[int]] = defaultdict(lambda: [0] * (len(SECONDS) + 1))
        self._seconds: dict[str, float] = defaultdict(float)

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """One answered call."""
        self._answers[route, method, status] += 1
        self._buckets[route][bisect.bisect_left(SECONDS, seconds)] += 1
        self._seconds[route] += seconds

    def text(self, engine: Mapping[str, Any], ready: bool) -> str:
        """All of it. engine: `Engine.status()`."""
        return "".join(f"{line}\n" for line in [*self._own(ready), *_engine(engine)])

    def _own(self, ready: bool) -> Iterator[str]:
        yield from _head("ready", "gauge", "Whether all programs are compiled and calls are answered.")
        yield _line("ready", {}, int(ready))
        yield from _head("in_flight", "gauge", "Calls that are worked on.")
        yield _line("in_flight", {}, self.in_flight)
        yield from _head("requests_total", "counter", "Answered calls.")
        for (route, method, status), count in sorted(self._answers.items()):
            yield _line("requests_total", {"route": route, "method": method, "status": status}, count)
        yield from _head("request_seconds", "histogram", "From the head of a call to the end of its answer.")
        for route, buckets in sorted(self._buckets.items()):
            below = 0
            for end, count in zip([*SECONDS, "+Inf"], buckets, strict=True):
                below += count
                yield _line("request_seconds_bucket", {"route": route, "le": end}, below)
            yield _line("request_seconds_sum", {"route": route}, self._seconds[route])
            yield _line("request_seconds_count", {"route": route}, below)


def _engine(status: Mapping[str, Any]) -> Iterator[str]:
    yield from _head("model_info", "gauge", "The parameters that answer.")
    yield _line("model_info", {"version": status["version"]}, 1)
    singles = {
        "events_total": ("counter", "Events that were ever accepted."),
        "evictions_total": ("counter", "States that gave way on the device since the start."),
        "users": ("gauge", "Users with events."),
        "waiting": ("gauge", "Events that wait for others which may still come before them."),
    }
    for name, (kind, text) in singles.items():
        yield from _head(name, kind, text)
        yield _line(name, {}, status[name.removesuffix("_total")])
    text = "State of one user; of all on the device; on the host at most; items that users had, now."
    yield from _head("memory_bytes", "gauge", text)
    for part, size in status["memory"].items():
        yield _line("memory_bytes", {"part": part}, size)
    yield from _head("engine_total", "counter", "What the engine counted since the start, by cause.")
    for cause, count in sorted(status["counts"].items()):
        yield _line("engine_total", {"cause": cause}, count)


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP stjax_{name} {text}"
    yield f"# TYPE stjax_{name} {kind}"


def _line(name: str, labels: Mapping[str, Any], value: float) -> str:
    if not labels:
        return f"stjax_{name} {value}"
    inner = ",".join(f'{key}="{_escaped(str(own))}"' for key, own in labels.items())
    return f"stjax_{name}{{{inner}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
