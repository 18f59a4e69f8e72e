"""One row of the accuracy table: a config trained with several seeds, mean ± standard error on test.

    python -m benchmarks.accuracy.seeds configs/nyc.py [--seeds 0 1 2] [--folder DIR] [OVERRIDES of train.py]

Each seed is a run folder of `train.py`, so a killed command goes on, and a finished one only prints. Out
come a JSON line and a Markdown table: the model over its seeds, the baselines on the same targets (their
standard errors, having no seed, are over users).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

from stjax.evaluation import markdown
from stjax.evaluation.report import Summary

TRAIN = Path(__file__).parents[2] / "train.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="holds one run folder a seed; default runs/NAME-seeds")
    args, overrides = parser.parse_known_args()
    folder = args.folder or Path("runs") / f"{args.config.stem}-seeds"
    results = [_run(args.config, seed, folder / str(seed), overrides) for seed in args.seeds]
    first = results[0]
    model = over_seeds([result["test"]["metrics"] for result in results])
    line = {
        "name": first["name"],
        "title": first["title"],
        "query": first["query"]["known"],
        "fingerprint": first["data"]["fingerprint"],
        "seeds": args.seeds,
        "metrics": model,
        "difference": [result["difference"] for result in results],
        "train_seconds": [result["seconds"]["train"] for result in results],
        "total_seconds": [sum(result["seconds"].values()) for result in results],
        "parameters": first["parameters"],
        "versions": first["versions"],
        "hardware": first["hardware"],
    }
    print(json.dumps(line))
    rows = [(baseline["label"], baseline["metrics"]) for baseline in first["baselines"]]
    label = f"{first['test']['label']}, {len(results)} seeds"
    print(markdown([*rows, (label, model)], first["title"]))


def over_seeds(summaries: list[Summary]) -> Summary:
    """Mean over seeds of each metric, and its standard error; None for one seed."""
    merged = {}
    for name in summaries[0]:
        means = [mean for summary in summaries if (mean := summary[name]["mean"]) is not None]
        error = stdev(means) / len(means) ** 0.5 if len(means) > 1 else None
        merged[name] = {"mean": fmean(means), "standard_error": error}
    return merged


def _run(config: Path, seed: int, folder: Path, overrides: list[str]) -> dict:
    options = ["--workdir", str(folder), "--training.seed", str(seed), *overrides]
    command = [sys.executable, str(TRAIN), str(config), *options]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return json.loads((folder / "result.json").read_text())


if __name__ == "__main__":
    main()
