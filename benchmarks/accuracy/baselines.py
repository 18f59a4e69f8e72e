"""Accuracy of the baselines, one JSON line each, by full ranking over the catalogue.

    python -m benchmarks.accuracy.baselines nyc [--part test] [--known time]

Data: `quickstart` downloads itself; `nyc` and `movielens` are read from $STJAX_DATA (see the README).
On 2 cores: about a second per data set once its store is prepared.
"""

from __future__ import annotations

import argparse
import json
import time

from rich.console import Console

from stjax.baselines import all_baselines
from stjax.data.dataset import Dataset
from stjax.data.protocols import PARTS, LeaveOneOut, TrajectoryLast
from stjax.data.sources import FoursquareNYC, MovieLens100K, Quickstart
from stjax.evaluation import evaluate, render

# name: where the events come from, the protocol, whether the user's earlier items are taken out
TASKS = {
    "nyc": (FoursquareNYC(), TrajectoryLast(), False),
    "movielens": (MovieLens100K(), LeaveOneOut(), True),
    "quickstart": (Quickstart(), LeaveOneOut(), False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--part", choices=PARTS.values(), default="valid")
    parser.add_argument("--known", choices=["time"], nargs="*", default=[])
    args = parser.parse_args()

    source, protocol, filter_seen = TASKS[args.task]
    store = source.open()
    dataset = Dataset(store, protocol(store))
    part = {word: code for code, word in PARTS.items()}[args.part]
    reports = []
    for baseline in all_baselines(tuple(args.known)):
        start = time.perf_counter()
        report = evaluate(baseline.fit(dataset), dataset, part, filter_seen=filter_seen, length=1)
        seconds = round(time.perf_counter() - start, 3)
        print(json.dumps({"task": args.task, **report.as_dict(), "seconds": seconds}), flush=True)
        reports.append(report)
    rows = [(report.label, report.summary()) for report in reports]
    Console(stderr=True).print(render(rows, reports[0].title))


if __name__ == "__main__":
    main()
