"""The training step of a config: targets per second, compilation, memory; and the input that feeds it.

    python -m benchmarks.train_step [CONFIG.py] [overrides of train.py]     default: configs/movielens.py

Prints one JSON line for the step and one for the input pipeline, for the longest of the config's shapes.
Targets are positions whose prediction counts (weight 1), not padding. Medians over rounds, blocking on
results; the ratio of input to step is taken within the one run. (Batches of a config's other shapes hold as
many positions, so the input may give any of them.) `flops_share` and `bandwidth_share` are of the fastest
product and copy of the same run; on accelerators `mfu` and `hbm_share` are of the published peaks, by the
device's own time.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks.device_time import facts as device_facts
from benchmarks.device_time import traced_seconds
from benchmarks.work import Machine, matmul_flops, moved_bytes
from stjax.data.pipeline import stream
from stjax.nn.precision import DTYPES
from stjax.training import parse
from stjax.training.setup import Setup
from stjax.training.state import count_parameters

DEFAULT = Path(__file__).parents[1] / "configs" / "movielens.py"
BATCHES, ROUNDS = 20, 5


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
    command = parse(sys.argv[1:], default=DEFAULT)
    setup = Setup.of(command.experiment)
    length = max(length for _, length in setup.batches.shapes)
    numbers = (k for k in itertools.count() if setup.batches[k].weight.shape[1] == length)
    batches = [jax.device_put(setup.batches[next(numbers)]) for _ in range(BATCHES)]
    targets = sum(float(batch.weight.sum()) for batch in batches)
    state = setup.initial()
    start = time.perf_counter()
    traced = setup.step.trace(setup.key, state, batches[0], setup.catalogue)  # pyright: ignore
    compiled = traced.lower().compile()
    compile_seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()

    def steps() -> None:
        nonlocal state
        for batch in batches:
            state, _ = compiled(setup.key, state, batch, setup.catalogue)
        jax.block_until_ready(state)

    step_seconds = median_seconds(steps)
    rows, positions = batches[0].weight.shape
    facts = {"config": command.experiment.name, "batch": rows, "length": positions, "jax": jax.__version__}
    facts |= {"device": jax.devices()[0].device_kind, "devices": jax.device_count()}
    step = {
        "benchmark": "train_step",
        "targets_per_second": round(targets / step_seconds),
        "sequences_per_second": round(rows * BATCHES / step_seconds),
        "milliseconds": round(1e3 * step_seconds / BATCHES, 2),
        "compile_seconds": round(compile_seconds, 2),
        "temporary_bytes": memory.temp_size_in_bytes if memory else None,
        "parameters": count_parameters(state.params),
    }
    precision = getattr(command.experiment.model, "precision", "float32")
    machine = Machine.measured(DTYPES[precision])
    flops, seconds = matmul_flops(traced.jaxpr.jaxpr), step_seconds / BATCHES
    step |= {"matmul_flops": flops, **machine.facts()}
    step |= machine.shares(seconds * jax.device_count(), flops, moved_bytes(compiled) * jax.device_count())
    busy, per_device = traced_seconds(steps), flops / jax.device_count()
    own = busy and busy / BATCHES
    step |= device_facts(own, per_device, moved_bytes(compiled), facts["device"], precision)
    print(json.dumps(facts | step), flush=True)

    pipeline = iter(stream(setup.batches))

    def feed() -> None:
        for _ in range(BATCHES):
            next(pipeline)

    seconds = median_seconds(feed)
    feeding = {
        "benchmark": "input",
        "batches_per_second": round(BATCHES / seconds),
        "times_as_fast_as_the_step": round(step_seconds / seconds, 1),
    }
    print(json.dumps(facts | feeding), flush=True)


def median_seconds(work: Callable[[], Any]) -> float:
    """Median over rounds, after one to warm up."""
    work()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
