"""Input speed: sequences per second from an event store on disk, one JSON line per way of reading.

    python -m benchmarks.input [--events N] [--length L] [--batch B] [--batches K]

A random store of 6 fields per event (item, time, UTC offset, place, two categorical) is written to
a temporary folder and read in shuffled epochs. `gather` calls the source itself, `grain` goes
through the prefetching pipeline that training uses. One id of each vocabulary is unused, so that ids
are renumbered on the way. The figure is the median of five rounds, after one that does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from stjax.data.dataset import Dataset
from stjax.data.pipeline import Batches, stream
from stjax.data.protocols import LeaveOneOut
from stjax.data.store import EventStore, write_store
from stjax.events import FIRST, Field, Schema

ITEMS, DEVICES, SCENES = 50_000, 7, 31


def random_store(path: Path, events: int, mean_events: int) -> EventStore:
    """A store of users with geometrically many events, `mean_events` on average."""
    rng = np.random.default_rng(0)
    counts = rng.geometric(1 / mean_events, 2 * events // mean_events)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    offsets = np.append(offsets[offsets < events], events)
    users = len(offsets) - 1
    sizes = {"item": ITEMS, "device": DEVICES, "scene": SCENES}
    columns = {k: rng.integers(FIRST + 1, FIRST + n, events, np.int32) for k, n in sizes.items()}
    columns |= {
        "user": np.repeat(np.arange(users, dtype=np.int32) + FIRST, np.diff(offsets)),
        "time": np.arange(events, dtype=np.int32) * 20,
        "utc_offset": np.full(events, 3600, np.int32),
        "place": rng.uniform(-60, 60, (events, 2)).astype(np.float32),
    }
    fields = [Field(name, "categorical", "event", sizes[name] + FIRST) for name in ("device", "scene")]
    no_words = {name: pl.Series([], dtype=pl.String) for name in ("user", *sizes)}
    return write_store(
        path,
        schema=Schema(ITEMS + FIRST, users + FIRST, 345_600, True, tuple(fields)),
        offsets=offsets,
        columns=columns,
        items={"place": np.full((ITEMS + FIRST, 2), np.nan, np.float32)},
        vocabulary=no_words,
        quality={},
    )


def median_seconds(read: Callable[[], object], batches: int) -> float:
    """Median over five rounds of the mean time of a call, after a round that does not count."""
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        for _ in range(batches):
            read()
        seconds.append((time.perf_counter() - begin) / batches)
    return statistics.median(seconds[1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--batches", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = random_store(Path(folder) / "store", args.events, 4 * args.length)
        dataset = Dataset(store, LeaveOneOut()(store))
        for name, buckets in (("full", None), ("buckets", (args.length // 4, args.length // 2))):
            batches = Batches(dataset, length=args.length, batch_size=args.batch, seed=0, buckets=buckets)
            gathered, prefetched = map(batches.__getitem__, range(len(batches))), iter(stream(batches))
            for way, source in (("gather", gathered), ("grain", prefetched)):
                seconds = median_seconds(partial(next, source), args.batches)
                figures = {
                    "benchmark": f"input/{name}/{way}",
                    "events": args.events,
                    "shapes": batches.shapes,
                    "batches_per_second": round(1 / seconds, 1),
                    "sequences_per_second": round(args.batch / seconds),  # of full length
                    "cpus": os.cpu_count(),
                    "numpy": np.__version__,
                }
                print(json.dumps(figures), flush=True)
            prefetched.close()


if __name__ == "__main__":
    main()
