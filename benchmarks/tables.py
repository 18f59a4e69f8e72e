"""Steps on tables of items of growing size: time, and bytes that the compiled step moves and holds.

    python -m benchmarks.tables [--items 10000 100000 1000000 10000000] [--dense 1000000]
    python -m benchmarks.tables --items 1000000 --compression none hashed quotient     items that share rows

The training step of a GRU on 32 sequences of 50 events with 256 sampled negatives, D=16, as `train.py`
makes it, by `optimizer.tables`: "adagrad" and "lazy" touch the rows that a batch reads, "adamw" all of them
(up to --dense items: it holds four tables). Every batch has other items, drawn uniformly. Prints JSON
lines: the median of milliseconds a step; touched_bytes, of the rows of tables and moments that a step reads
and writes back; temporary_bytes, as XLA counts them for the compiled step. XLA's own count of bytes
accessed is of no use here: it counts the whole table wherever some rows are written in place.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import time
from typing import Any

import jax
import numpy as np

from stjax.events import FIRST, Batch, Catalogue, Events, Schema
from stjax.nn import GRU, ConcatFusion, ItemEmbed, Recommender, Retrieval, SampledSoftmax, TimeEmbed
from stjax.training import Optimizer
from stjax.training.optimizer import learning_rate, make_optimizer
from stjax.training.rows import Rows
from stjax.training.state import make_initial, make_train_step

ROWS, LENGTH, FEATURES, USERS = 32, 50, 16, 997


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10**k for k in (4, 5, 6, 7)])
    parser.add_argument("--dense", type=int, default=10**6, help="largest table that adamw is measured on")
    parser.add_argument("--compression", nargs="+", default=["none"], help="of ItemEmbed, with its rows")
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    for tables, compression in itertools.product(("adagrad", "lazy", "adamw"), args.compression):
        for items in args.items:
            if tables != "adamw" or items <= args.dense:
                measure(tables, items, args.steps, compression)
                gc.collect()


def measure(tables: Any, items: int, steps: int, compression: Any = "none") -> None:
    model = Recommender(
        items=ItemEmbed(FEATURES, compression=compression),
        encoders={"time": TimeEmbed(FEATURES)},
        fusion=ConcatFusion(FEATURES),
        interest=GRU(),
        head=Retrieval(objective=SampledSoftmax(256)),
    )
    settings = Optimizer(tables=tables)
    schema = Schema(items + FIRST, USERS + FIRST, 345_600, place=False)
    catalogue = jax.device_put(Catalogue(np.full((schema.items, 2), np.nan, np.float32), schema))
    random, key = np.random.default_rng(0), jax.random.key(0)
    batches = [batch(random, items) for _ in range(8)]
    optimizer = make_optimizer(settings, 1000)
    state = make_initial(model, optimizer)(key, batches[0], catalogue)
    jitted: Any = make_train_step(
        model, optimizer, learning_rate(settings, 1000), rows=None if tables == "adamw" else Rows
    )
    step = jitted.lower(key, state, batches[0], catalogue).compile()
    times = []
    rounds = steps if tables != "adamw" or items < 10**6 else min(steps, 10)
    for k in range(rounds + 3):
        begin = time.perf_counter()
        state, metrics = step(key, state, batches[k % len(batches)], catalogue)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - begin)
    memory, state_bytes = step.memory_analysis(), sum(x.nbytes for x in jax.tree.leaves(state))
    touched = 2 * state_bytes
    if tables != "adamw":
        rows = Rows.of(model, key, batches[0], schema)
        touched = 2 * sum(x.nbytes for x in jax.tree.leaves(rows.take(state)))
    line = {
        "benchmark": "tables",
        "tables": tables,
        "compression": compression,
        "items": items,
        "milliseconds": round(1e3 * float(np.median(times[3:])), 3),
        "touched_bytes": touched,
        "temporary_bytes": memory.temp_size_in_bytes,
        "state_bytes": state_bytes,
        "steps": rounds,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cpus": os.cpu_count(),
        "jax": jax.__version__,
    }
    print(json.dumps(line), flush=True)


def batch(random: np.random.Generator, items: int) -> Batch:
    shape = (ROWS, LENGTH + 1)
    events = Events(
        item=random.integers(FIRST, items + FIRST, shape).astype(np.int32),
        user=np.repeat(random.integers(FIRST, USERS + FIRST, (ROWS, 1)), LENGTH + 1, axis=1).astype(np.int32),
        time=np.cumsum(random.integers(60, 86_400, shape), axis=1).astype(np.int32),
        utc_offset=np.zeros(shape, np.int32),
        place=np.full((*shape, 2), np.nan, np.float32),
        valid=np.ones(shape, bool),
    )
    return Batch(events, np.ones((ROWS, LENGTH), np.float32))


if __name__ == "__main__":
    main()
