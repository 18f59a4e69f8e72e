"""A study: one table of experiments that differ in one thing, on the same targets, over several seeds.

    python -m benchmarks.accuracy.study NAME [--seeds 0 1 2] [--rows ROW ...] [--part valid] [--folder DIR]
        [--recorded {no,first,only}] [--record]

NAME is a file of `benchmarks/accuracy/studies`, whose `rows` are experiments by name; the others are compared
with the first. Training chooses its epoch on validation. Each row and seed is a folder of
runs/studies/NAME: a killed command goes on, and a finished one only prints. Out come a JSON line per row and
a Markdown table: mean ± standard error over seeds, and the difference from the first row, paired by seed.
Rows that are published stand in benchmarks/accuracy/results, as JSON lines: `--recorded only` prints their
table and trains nothing, `--recorded first` trains what is not among them for the same config, and --record
adds what was found to them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import jax
from rich.console import Console

from benchmarks.accuracy import recorded
from stjax.data.protocols import PARTS
from stjax.evaluation import Report
from stjax.training import Experiment
from stjax.training.checkpoint import Checkpoints
from stjax.training.config import differences, resolve
from stjax.training.logging import Clock
from stjax.training.loop import Record, fit
from stjax.training.report import measure
from stjax.training.run_folder import hardware, versions
from stjax.training.setup import Setup, use_compilation_cache
from stjax.training.state import State, count_parameters

STUDIES = Path(__file__).parent / "studies"
NEW, SEEN = "new to the user", "seen before"
CODES = {word: code for code, word in PARTS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("study", choices=sorted(p.stem for p in STUDIES.glob("[!_]*.py")))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", help="some of the rows; the first is always there")
    parser.add_argument("--part", choices=CODES, default="valid")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--recorded", choices=("no", "first", "only"), default="no")
    parser.add_argument("--record", action="store_true", help="add the results to the recorded ones")
    args = parser.parse_args()
    rows: Mapping[str, Experiment] = importlib.import_module(f"benchmarks.accuracy.studies.{args.study}").rows
    first = next(iter(rows))
    if unknown := set(args.rows or ()) - set(rows):
        parser.error(f"no row {sorted(unknown)} in the study; it has {sorted(rows)}")
    chosen = [name for name in rows if args.rows is None or name in args.rows or name == first]
    folder = args.folder or Path("runs") / "studies" / args.study
    use_compilation_cache()
    known = {} if args.recorded == "no" else recorded.load(args.study, args.part)
    results: dict[str, list[dict[str, Any]]] = {}
    for name in chosen:
        seeds = {seed: seeded(rows[name], seed) for seed in args.seeds}
        there = [
            known[name, s] for s, e in seeds.items() if recorded.holds(known, (name, s), recorded.settings(e))
        ]
        if args.recorded == "only" and len(there) < len(seeds):
            if name == first:
                sys.exit(f"{name!r}, with which all are compared, is not recorded: use --recorded first")
            print(f"{name}: not recorded, left out", file=sys.stderr)
            continue
        if args.recorded != "only":
            have, place = {r["seed"]: r for r in there}, folder / slug(name)
            there = [
                have.get(seed) or finished(e, args.part, place / str(seed)) | {"row": name}
                for seed, e in seeds.items()
            ]
        results[name] = there
        if args.record:
            recorded.save(
                args.study,
                args.part,
                [r | {"config": recorded.settings(seeds[r["seed"]])} for r in there],
            )
        print(json.dumps(line(name, there, results[first])), flush=True)
    print(table(results, rows[first].evaluation.select))


def seeded(experiment: Experiment, seed: int) -> Experiment:
    """The same experiment with another seed."""
    return replace(experiment, training=replace(experiment.training, seed=seed))


def finished(experiment: Experiment, part: str, folder: Path) -> dict[str, Any]:
    """The result of one row and seed: trained where it is not there yet."""
    file, config = folder / f"{part}.json", resolve(experiment)
    if file.is_file():
        result = json.loads(file.read_text())
        if changed := differences(result["config"], json.loads(json.dumps(config))):
            sys.exit(f"{folder} holds another experiment ({'; '.join(changed)}): remove it, or give --folder")
        return result
    setup = Setup.of(experiment)
    state, record, clock = trained(setup, folder)
    report = measure(setup.scorer(state), setup.dataset, CODES[part], experiment.evaluation)
    assert isinstance(report, Report)  # a ranking of the catalogue
    novelty = report.segments()["novelty"]
    result = {
        "seed": experiment.training.seed,
        "title": report.title,
        "known": list(report.known),
        "metrics": {name: value["mean"] for name, value in report.summary().items()},
        "novelty": {band: novelty[band]["metrics"]["MRR"]["mean"] for band in novelty},
        "epoch": (record.best_step or 0) / setup.batches.per_epoch,
        "seconds": clock.seconds(),
        "parameters": count_parameters(state.params),
        "versions": versions(),
        "hardware": hardware(),
        "config": config,
    }
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.rename(file)
    shutil.rmtree(folder / "checkpoints")
    jax.clear_caches()
    return result


def trained(setup: Setup, folder: Path) -> tuple[State, Record, Clock]:
    """The state that is best on validation; a killed training goes on."""
    clock, console = Clock(), Console(stderr=True, soft_wrap=True)
    console.print(f"{folder}", highlight=False)
    folder.mkdir(parents=True, exist_ok=True)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        record = fit(setup, checkpoints, folder, clock, console)
        assert record.best_step is not None
        return setup.restored(checkpoints, record.best_step), record, clock


def line(name: str, results: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    """A row as JSON."""
    metrics = [r["metrics"] | {f"MRR {band}": value for band, value in r["novelty"].items()} for r in results]
    bases = [r["metrics"] | {f"MRR {band}": value for band, value in r["novelty"].items()} for r in base]
    return {
        "row": name,
        "title": results[0]["title"],
        "known": results[0]["known"],
        "metrics": {m: spread([values[m] for values in metrics]) for m in metrics[0]},
        "difference": {
            m: spread([a[m] - b[m] for a, b in zip(metrics, bases, strict=True)]) for m in metrics[0]
        },
        "epochs": [r["epoch"] for r in results],
        "train_seconds": fmean(r["seconds"]["train"] for r in results),
        "parameters": results[0]["parameters"],
    }


def spread(values: list[float]) -> tuple[float, float | None]:
    """Mean, and its standard error where there are several."""
    return fmean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def table(results: Mapping[str, list[dict[str, Any]]], select: str) -> str:
    """All rows as Markdown, best first after the one they are compared with."""
    first = next(iter(results))
    lines = {name: line(name, result, results[first]) for name, result in results.items()}
    columns = [m for m in ("Acc@1", "HR@10", "NDCG@10", "MRR") if m in lines[first]["metrics"]]
    new = f"MRR {NEW}"
    if new in lines[first]["metrics"] and f"MRR {SEEN}" in lines[first]["metrics"]:
        columns.append(new)
    text = [
        f"{lines[first]['title']}",
        "",
        f"| | {' | '.join(columns)} | {select}: difference | seconds |",
        f"|---|{'---:|' * (len(columns) + 2)}",
    ]
    rest = sorted((n for n in lines if n != first), key=lambda n: -lines[n]["metrics"][select][0])
    for name in [first, *rest]:
        row = lines[name]
        cells = [cell(*row["metrics"][m]) for m in columns]
        difference = "" if name == first else cell(*row["difference"][select], sign="+")
        text.append(f"| {name} | {' | '.join(cells)} | {difference} | {row['train_seconds']:.0f} |")
    return "\n".join(text)


def cell(mean: float, error: float | None, sign: str = "") -> str:
    return f"{mean:{sign}.4f}" + ("" if error is None else f" ±{error:.4f}")


def slug(name: str) -> str:
    """A row's name as a folder's."""
    name = re.sub(r"^- ", "without ", re.sub(r"^\+ ", "with ", name.lower()))
    return re.sub(r"[^a-z0-9.]+", "-", name).strip("-")


if __name__ == "__main__":
    main()
