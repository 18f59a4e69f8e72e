"""How many programs XLA has compiled or taken from the cache: a number that should not grow with a run."""

from __future__ import annotations

import functools
from typing import Any

import jax

EVENT = "/jax/core/compile/backend_compile_duration"


@functools.cache
def _counter() -> list[int]:
    """The count since the first call, kept by one listener: JAX has no way to take one away."""
    count = [0]

    def listen(event: str, duration_secs: float, **about: Any) -> None:
        if event == EVENT:
            count[0] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    return count


def compilations() -> int:
    """Programs since this was first called."""
    return _counter()[0]
