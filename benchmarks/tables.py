"""Steps on tables of items of growing size: time, and bytes that the compiled step moves and holds.

    python -m benchmarks.tables [--items 10000 100000 1000000 10000000] [--dense 1000000]
    python -m benchmarks.tables --items 1000000 --compression none hashed quotient     items that share rows
    python -m benchmarks.tables --items 10000 100000000 --features 8 --tables adagrad          16 GB of memory

The training step of a GRU on 32 sequences of 50 events with 256 sampled negatives, D=16 (--features), as
`train.py` makes it, by `optimizer.tables`: "adagrad" and "lazy" touch the rows that a batch reads, "adamw"
all of them (up to --dense items: it holds four tables). Every batch has other items, drawn uniformly; sizes
are measured in turn, so that what else the machine does falls on all of them. Prints JSON lines: the median
over rounds of milliseconds a step; touched_bytes, of the rows of tables and moments that a step reads and
writes back; temporary_bytes, as XLA counts them for the compiled step. XLA's own count of bytes
accessed is of no use here: it counts the whole table wherever some rows are written in place.
"""

from __future__ import annotations

import argparse
import gc
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

ROWS, LENGTH, USERS, BATCHES = 32, 50, 997, 8
TABLES = ("adagrad", "lazy", "adamw")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10**k for k in (4, 5, 6, 7)])
    parser.add_argument("--dense", type=int, default=10**6, help="largest table that adamw is measured on")
    parser.add_argument("--compression", nargs="+", default=["none"], help="of ItemEmbed, with its rows")
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES)
    parser.add_argument("--features", type=int, default=16, help="D, of items and all else")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    for tables in args.tables:
        sizes = [items for items in args.items if tables != "adamw" or items <= args.dense]
        cases = [Case(tables, items, kind, args.features) for items in sizes for kind in args.compression]
        times = [[case.seconds() for case in cases] for _ in range(args.rounds)]  # sizes in turn
        for case, own in zip(cases, np.median(times, axis=0), strict=True):
            print(json.dumps(case.line(float(own)) | {"rounds": args.rounds}), flush=True)
        del cases
        gc.collect()


class Case:
    """The compiled step on tables of a size, and what it trains."""

    def __init__(self, tables: Any, items: int, compression: Any, features: int) -> None:
        self.tables, self.items, self.compression, self.features = tables, items, compression, features
        self.model = Recommender(
            items=ItemEmbed(features, compression=compression),
            encoders={"time": TimeEmbed(features)},
            fusion=ConcatFusion(features),
            interest=GRU(),
            head=Retrieval(objective=SampledSoftmax(256)),
        )
        settings = Optimizer(tables=tables)
        self.schema = Schema(items + FIRST, USERS + FIRST, 345_600, place=False)
        nowhere = np.full((self.schema.items, 2), np.nan, np.float32)
        self.catalogue = jax.device_put(Catalogue(nowhere, self.schema))
        random, self.key = np.random.default_rng(0), jax.random.key(0)
        self.batches = [batch(random, items) for _ in range(BATCHES)]
        optimizer = make_optimizer(settings, 1000)
        self.state = make_initial(self.model, optimizer)(self.key, self.batches[0], self.catalogue)
        rows = None if tables == "adamw" else Rows
        step: Any = make_train_step(self.model, optimizer, learning_rate(settings, 1000), rows=rows)
        self.step = step.lower(self.key, self.state, self.batches[0], self.catalogue).compile()
        self.seconds()  # not counted

    def seconds(self) -> float:
        """Of one step, a mean over all batches, each waited for."""
        begin = time.perf_counter()
        for one in self.batches:
            self.state, metrics = self.step(self.key, self.state, one, self.catalogue)
            jax.block_until_ready((self.state, metrics))
        return (time.perf_counter() - begin) / BATCHES

    def line(self, seconds: float) -> dict[str, Any]:
        """For a line of results."""
        state_bytes = touched = sum(x.nbytes for x in jax.tree.leaves(self.state))
        if self.tables != "adamw":
            rows = Rows.of(self.model, self.key, self.batches[0], self.schema)
            touched = sum(x.nbytes for x in jax.tree.leaves(rows.take(self.state)))
        return {
            "benchmark": "tables",
            "tables": self.tables,
            "compression": self.compression,
            "items": self.items,
            "features": self.features,
            "milliseconds": round(1e3 * seconds, 3),
            "touched_bytes": 2 * touched,
            "temporary_bytes": self.step.memory_analysis().temp_size_in_bytes,
            "state_bytes": state_bytes,
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "cpus": os.cpu_count(),
            "jax": jax.__version__,
        }


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
