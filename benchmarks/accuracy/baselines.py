"""Accuracy of the baselines, one JSON line each, by full ranking over the catalogue.

    python -m benchmarks.accuracy.baselines nyc [--part test] [--known time] [--ties log hash]

Data, protocol and further baselines are those of the config of that name. `quickstart` downloads itself, the
others are read from $STJAX_DATA (see the README). --ties: the rules for events of a user at one time, side by
side, for nyc and movielens. On 2 cores: seconds a data set once its store is prepared.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import get_args

from rich.console import Console

from stjax.baselines import all_baselines, reading
from stjax.data.dataset import Dataset
from stjax.data.log import Ties
from stjax.data.protocols import PARTS
from stjax.evaluation import evaluate, render
from stjax.training import Experiment, load_config

CONFIGS = Path(__file__).parents[2] / "configs"
TASKS = ("nyc", "movielens", "quickstart", "florence")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--part", choices=PARTS.values(), default="valid")
    parser.add_argument("--known", choices=["time"], nargs="*", default=[])
    parser.add_argument("--ties", choices=get_args(Ties), nargs="+", default=["log"])
    args = parser.parse_args()

    experiment = load_config(CONFIGS / f"{args.task}.py")
    for ties in args.ties:
        source = experiment.source
        if ties != "log":
            if not hasattr(source, "ties"):
                parser.error(f"--ties {ties}: {type(source).__name__} has one order alone")
            source = dataclasses.replace(source, ties=ties)
        _measure(args, ties, dataclasses.replace(experiment, source=source))


def _measure(args: argparse.Namespace, ties: str, experiment: Experiment) -> None:
    store = experiment.source.open()
    dataset = Dataset(store, experiment.protocol(store))
    part = {word: code for code, word in PARTS.items()}[args.part]
    reports = []
    known = tuple(args.known)
    for baseline in (*all_baselines(known), *(reading(b, known) for b in experiment.baselines)):
        start = time.perf_counter()
        scorer, filter_seen = baseline.fit(dataset), experiment.evaluation.filter_seen
        report = evaluate(scorer, dataset, part, filter_seen=filter_seen, length=1)
        seconds = round(time.perf_counter() - start, 3)
        line = {"task": args.task, "ties": ties, **report.as_dict(), "seconds": seconds}
        print(json.dumps(line), flush=True)
        reports.append(report)
    rows = [(report.label, report.summary()) for report in reports]
    Console(stderr=True).print(render(rows, f"{reports[0].title}, ties by {ties}"))


if __name__ == "__main__":
    main()
