"""Prepares a generated CSV log and prints one JSON line: rows/s and peak memory.

    python -m benchmarks.prepare                # 10 million rows, about 900 MB of CSV
    python -m benchmarks.prepare --rows 100000

The log has 200,000 users, 50,000 items, ISO times in order, places and a category, one row in a hundred
of them with a fault. The preparation is the command that users run, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

USERS, ITEMS, CATEGORIES = 200_000, 50_000, 300
PART = 1_000_000  # rows generated at a time


def write_log(path: Path, rows: int, seed: int = 0) -> None:
    """Write the log, part after part."""
    random = np.random.default_rng(seed)
    place = random.uniform([40, -74], [41, -73], (ITEMS, 2)).round(6)
    with path.open("wb") as file:
        for start in range(0, rows, PART):
            count = min(PART, rows - start)
            user = random.integers(0, USERS, count)
            item = (random.random(count) ** 3 * ITEMS).astype(np.int64)  # a few items are popular
            second = 1_500_000_000 + 10 * (start + np.arange(count))
            fault = random.integers(0, 500, count)
            numbers = {"user": user, "item": item, "time": second, "category": item % CATEGORIES}
            part = pl.DataFrame(numbers | {"lat": place[item, 0], "lon": place[item, 1], "fault": fault})
            part.select(
                user=pl.when(pl.col("fault") != 0).then(pl.format("user-{}", "user")),
                item=pl.format("venue{}", pl.col("item").cast(pl.String).str.zfill(12)),
                time=pl.when(pl.col("fault") != 1)
                .then(pl.from_epoch("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
                .otherwise(pl.lit("yesterday")),
                lat=pl.when(pl.col("fault") != 2).then("lat").otherwise(999.0),
                lon=pl.when(pl.col("fault") != 3).then("lon"),
                category=pl.when(pl.col("fault") != 4).then(pl.format("category {}", "category")),
            ).write_csv(file, include_header=start == 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        log, out = Path(folder, "log.csv"), Path(folder, "store")
        write_log(log, rows)
        names = ["--latitude", "lat", "--longitude", "lon", "--categorical", "category"]
        command = [sys.executable, "-m", "stjax.data", "prepare", str(log), "--out", str(out), *names]
        load = os.getloadavg()[0]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        quality = json.loads((out / "quality.json").read_text())
        result = {
            "benchmark": "prepare",
            "rows": rows,
            "csv_bytes": log.stat().st_size,
            "seconds": round(seconds, 2),
            "rows_per_second": round(rows / seconds),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
            "rows_kept": quality["rows"]["kept"],
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "polars": pl.__version__,
            "load_before": round(load, 2),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
