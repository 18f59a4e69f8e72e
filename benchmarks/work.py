"""How much work a program is, and how much of it this machine can do: the two sides of a roofline.

The roofline (Williams et al., CACM 2009) bounds the time of a program from below: its products at the
machine's fastest, or its traffic with memory at the machine's fastest, whichever takes longer.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

ROUNDS, AT_LEAST = 7, 0.02  # rounds, and seconds that each of them lasts
SIDE, COPIED = 2_048, 1 << 26  # of the square matrices and floats of the copy that measure a machine


@dataclass(frozen=True)
class Machine:
    """What this machine's device reaches: operations a second of large matrix products, bytes a second of a
    large copy, read and written."""

    flops: float
    bandwidth: float

    @classmethod
    def measured(cls, dtype: Any = jnp.float32) -> Machine:
        """dtype: of the factors of the products."""
        square = jax.random.normal(jax.random.key(0), (SIDE, SIDE), dtype)
        long = jax.random.normal(jax.random.key(1), (COPIED,))
        product = seconds(jax.jit(jnp.matmul), square, square)
        copy = seconds(jax.jit(lambda x: x * 1.5), long)
        return cls(2 * SIDE**3 / product, 2 * long.nbytes / copy)

    def facts(self) -> dict[str, float]:
        """For a line of results."""
        return {"peak_gflops": round(self.flops / 1e9, 1), "peak_gbytes": round(self.bandwidth / 1e9, 1)}

    def shares(self, taken: float, flops: float, moved: float) -> dict[str, float]:
        """Of the fastest products (MFU, beside what is reached here) and of the fastest copy."""
        return {
            "flops_share": round(flops / taken / self.flops, 3),
            "bandwidth_share": round(moved / taken / self.bandwidth, 3),
        }

    def share(self, taken: float, flops: float, moved: float) -> float:
        """Of the roofline: the least time for so many operations and bytes, of the time taken."""
        return round(max(flops / self.flops, moved / self.bandwidth) / taken, 3)


def seconds(function: Callable[..., Any], *args: Any) -> float:
    """Median over rounds of the mean of a round, after one that compiles and warms up.

    Calls of a round follow each other without waiting, so that an accelerator is never idle between them:
    what is timed is the device.
    """
    jax.block_until_ready(function(*args))
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    repeats = max(1, int(AT_LEAST / (time.perf_counter() - start + 1e-9)))
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        jax.block_until_ready([function(*args) for _ in range(repeats)])
        rounds.append((time.perf_counter() - start) / repeats)
    return statistics.median(rounds)


def needed_bytes(compiled: Any) -> int:
    """What a compiled program cannot but move: its arguments and results, once each."""
    memory = compiled.memory_analysis()
    return memory.argument_size_in_bytes + memory.output_size_in_bytes if memory else 0


def moved_bytes(compiled: Any) -> float:
    """What a compiled program reads and writes, as XLA counts it: the body of a loop once."""
    return (compiled.cost_analysis() or {}).get("bytes accessed", 0.0)


def matmul_flops(jaxpr: Any, platform: str | None = None) -> int:
    """Of all matrix products of a traced program: a scan's as often as it runs, of branches the largest, a
    kernel's as it estimates them, and what each device does for itself times their number.

    platform: that of the devices it will run on, such as "tpu", which decides between forms of an operation
    for several platforms; by default the one of JAX's own devices.
    """
    platform = platform or jax.default_backend()
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracting, _), _ = eqn.params["dimension_numbers"]
            lhs, out = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
            total += 2 * math.prod(out) * math.prod(lhs[k] for k in contracting)
            continue
        if eqn.primitive.name == "pallas_call":
            total += eqn.params["cost_estimate"].flops
            continue
        inner = [matmul_flops(sub, platform) for sub in _inside(eqn.params)]
        if eqn.primitive.name == "cond":
            forms = eqn.params.get("branches_platforms") or [None] * len(inner)  # None: for all others
            each = list(zip(forms, inner, strict=True))
            own = [n for names, n in each if names is not None and platform in names]
            total += max(own or [n for names, n in each if names is None])
        elif eqn.primitive.name == "shard_map":
            total += sum(inner) * eqn.params["mesh"].size
        else:
            total += sum(inner) * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
    return total


def _inside(value: Any) -> Iterator[Any]:
    """The programs among the parameters of an operation."""
    if hasattr(value, "eqns"):
        yield value
    elif hasattr(value, "jaxpr"):
        yield from _inside(value.jaxpr)
    elif isinstance(value, Mapping):
        yield from _inside(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _inside(each)
