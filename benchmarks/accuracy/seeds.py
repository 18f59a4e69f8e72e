"""One row of the accuracy table: a config trained with several seeds, mean ± standard error on test.

    python -m benchmarks.accuracy.seeds configs/nyc.py [--seeds 0 1 2 3 4] [--record] [OVERRIDES of train.py]

Each seed is a run folder of `train.py` in --folder (runs/NAME-seeds), so a killed command goes on, and a
finished one only prints. Out come a JSON line and a Markdown table: the model over its seeds, the baselines
on the same targets (their standard errors, having no seed, are over users). --record keeps the line as
results/NAME.json, from which `python -m benchmarks.accuracy.table` makes the tables of the READMEs; NAME is
the experiment's, so a row that overrides settings needs --name too.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.accuracy import recorded
from stjax.evaluation import markdown
from stjax.evaluation.report import Summary
from stjax.training import parse

TRAIN = Path(__file__).parents[2] / "train.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, help="holds one run folder a seed; default runs/NAME-seeds")
    parser.add_argument("--record", action="store_true", help="keep the row among the recorded results")
    args, overrides = parser.parse_known_args()
    experiment = parse([str(args.config), *overrides], args.config).experiment
    if experiment.training.refit == "test":
        parser.error("--training.refit test trains on every event: there is no figure to take a mean of")
    name = experiment.name
    folder = args.folder or Path("runs") / f"{name}-seeds"
    results = [_run(args.config, seed, folder / str(seed), overrides) for seed in args.seeds]
    command = ["python", "-m", "benchmarks.accuracy.seeds", str(args.config)]
    command += ["--seeds", *map(str, args.seeds), *overrides]
    made = row(results, args.seeds, shlex.join(command), _commit())
    print(json.dumps(made))
    baselines = [(baseline["label"], baseline["metrics"]) for baseline in made["baselines"]]
    print(markdown([*baselines, (f"{made['label']}, {len(results)} seeds", model(made))], made["title"]))
    if args.record:
        print(f"recorded as {recorded.save_row(made)}", file=sys.stderr)


def row(results: list[dict[str, Any]], seeds: list[int], command: str, commit: str | None) -> dict[str, Any]:
    """What a table needs of the results of all seeds; lists are by seed.

    novelty: by band its targets and their metrics. differences: to each baseline, one a metric that all seeds
    have, the selection metric first.
    """
    first = results[0]
    tests = [result["test"] for result in results]
    novelty = [test.get("segments", {}).get("novelty", {}) for test in tests]  # none of instances
    bands = {name: [bands[name] for bands in novelty] for name in novelty[0]}
    differences = [
        {(d["to"], d["metric"]): d for d in result.get("differences", [result["difference"]])}
        for result in results
    ]
    if any(result["data"]["fingerprint"] != first["data"]["fingerprint"] for result in results):
        sys.exit("the seeds were run on different data: remove the run folders, or give another --folder")
    return {
        "name": first["name"],
        "command": command,
        "title": first["title"],
        "label": first["test"]["label"],
        "query": first["query"]["known"],
        "protocol": first["protocol"],
        "fingerprint": first["data"]["fingerprint"],
        "seeds": seeds,
        "metrics": {name: [test["metrics"][name]["mean"] for test in tests] for name in tests[0]["metrics"]},
        "novelty": {
            name: {
                "targets": segments[0]["targets"],
                "metrics": {m: [s["metrics"][m]["mean"] for s in segments] for m in segments[0]["metrics"]},
            }
            for name, segments in bands.items()
        },
        "baselines": [{"label": b["label"], "metrics": b["metrics"]} for b in first["baselines"]],
        "differences": [
            {"to": to, "metric": metric}
            | {key: [d[to, metric][key] for d in differences] for key in ("mean", "standard_error")}
            for to, metric in differences[0]
            if all((to, metric) in d for d in differences)
        ],
        "validation": [(result.get("best") or {}).get("validation") for result in results],
        "train_seconds": [result["seconds"]["train"] for result in results],
        "total_seconds": [round(sum(result["seconds"].values()), 1) for result in results],
        "parameters": first["parameters"],
        "versions": first["versions"],
        "hardware": first["hardware"],
        "commit": commit,
    }


def model(made: dict[str, Any]) -> Summary:
    """Mean over seeds of each metric of a row, and its standard error; None for one seed."""
    over = {name: over_seeds(values) for name, values in made["metrics"].items()}
    return {name: {"mean": mean, "standard_error": error} for name, (mean, error) in over.items()}


def over_seeds(values: list[float]) -> tuple[float, float | None]:
    """Mean, and its standard error; None for one seed."""
    return fmean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def _run(config: Path, seed: int, folder: Path, overrides: list[str]) -> dict:
    options = ["--workdir", str(folder), "--training.seed", str(seed), *overrides]
    command = [sys.executable, str(TRAIN), str(config), *options]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return json.loads((folder / "result.json").read_text())


def _commit() -> str | None:
    """Of the checkout, with a `+` where files differ from it; None outside of one."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude", "*"]
    done = subprocess.run(command, cwd=TRAIN.parent, capture_output=True, text=True)
    return done.stdout.strip() or None


if __name__ == "__main__":
    main()
