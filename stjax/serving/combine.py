"""Calls from many threads as few: whoever gets the lock does the work of all that wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any


class Call:
    """One caller's work, and what came of it."""

    __slots__ = ("argument", "done", "error", "kind", "result")

    def __init__(self, kind: str, argument: Any) -> None:
        self.kind, self.argument = kind, argument
        self.done, self.result, self.error = False, None, None

    def finish(self, result: Any) -> None:
        """Set the result."""
        self.result, self.done = result, True

    def fail(self, error: BaseException) -> None:
        """Set the error, which the caller's thread raises."""
        self.error, self.done = error, True


class Combiner:
    """Runs `work(calls)` for all calls that wait, in the thread of one of their callers.

    No thread of its own: a lone caller pays one lock. `work` must finish or fail each call; what it raises
    itself is the error of those that it left.
    Source: flat combining (Hendler et al., SPAA 2010), with a lock in place of a publication list.
    """

    def __init__(self, work: Callable[[Sequence[Call]], None]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._waiting: deque[Call] = deque()

    def __call__(self, kind: str, argument: Any) -> Any:
        """Have the work done; returns or raises what came of it."""
        call = Call(kind, argument)
        self._waiting.append(call)  # a deque's append and popleft are atomic
        with self._lock:
            if not call.done:
                self._run()
        if call.error is not None:
            raise call.error
        return call.result

    def exclusively(self, work: Callable[[], Any]) -> Any:
        """Do something while no call is worked on."""
        with self._lock:
            return work()

    def _run(self) -> None:
        calls = []
        while self._waiting:
            calls.append(self._waiting.popleft())
        try:
            self._work(calls)
        except BaseException as error:
            for call in calls:
                if not call.done:
                    call.fail(error)
            if not isinstance(error, Exception):
                raise
        for call in calls:
            if not call.done:
                call.fail(RuntimeError("the work was left undone"))
