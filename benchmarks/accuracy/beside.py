"""Our runs beside other libraries' on the same test targets: paired differences, by bootstrap over users.

    python -m benchmarks.accuracy.beside configs/florence.py KEPT [--runs FOLDER] [--record] [OVERRIDES]

KEPT holds what `benchmarks/peers/recbole_run.py` or `benchmarks/peers/fm.py` wrote with --kept and --test.
The runs are those of `benchmarks.accuracy.seeds` (runs/NAME-seeds), by the same overrides. Seed is set
beside seed, for those settings of a peer that are the best on validation in results/peers/NAME.jsonl. Prints
a JSON line per peer and metric; --record keeps them as results/peers/NAME-differences.jsonl, for the tables.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.accuracy import peers
from stjax.data.protocols import TEST
from stjax.evaluation import InstanceReport, Report, paired_each, paired_instances
from stjax.evaluation.scored import Difference
from stjax.training import parse
from stjax.training.checkpoint import Checkpoints
from stjax.training.loop import load_record
from stjax.training.report import Measured, measure
from stjax.training.setup import Setup, use_compilation_cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--runs", type=Path, help="holds one run folder a seed; default runs/NAME-seeds")
    parser.add_argument("--record", action="store_true")
    args, overrides = parser.parse_known_args()
    use_compilation_cache()
    experiment = parse([str(args.config), *overrides], args.config).experiment
    runs = args.runs or Path("runs") / f"{experiment.name}-seeds"
    files = [json.loads(file.read_text()) for file in sorted(args.kept.glob(f"{experiment.name}-*.json"))]
    setup, ours, found = Setup.of(experiment), {}, []
    for peer in peers.load(experiment.name):
        own = {f["seed"]: f for f in files if (f["model"], f["settings"]) == (peer.model, peer.settings)}
        seeds = [s for s in peer.seeds if s in own and (runs / str(s) / "result.json").is_file()]
        for seed in set(seeds) - set(ours):
            ours[seed] = tested(setup, runs / str(seed))
        pairs = [(ours[seed], like(ours[seed], own[seed], peer.label)) for seed in seeds]
        found += rows(peer.label, seeds, [compared(*pair, experiment.evaluation.select) for pair in pairs])
    for one in found:
        print(json.dumps(one | {"mean over seeds": fmean(one["mean"])}))
    if args.record:
        peers.save_differences(experiment.name, found)


def tested(setup: Setup, folder: Path) -> Measured:
    """The test report of a finished run."""
    with Checkpoints(folder / "checkpoints") as checkpoints:
        record = load_record(checkpoints, setup)
        assert record.best_step is not None
        scorer = setup.scorer(setup.restored(checkpoints, record.best_step))
        return measure(scorer, setup.dataset, TEST, setup.experiment.evaluation)


def like(report: Measured, kept: dict[str, Any], label: str) -> Measured:
    """A peer's answers to the targets of a report. Raises SystemExit where they are of other targets."""
    if not np.array_equal(kept["row"], report.row):
        raise SystemExit(f"{label}, seed {kept['seed']}: its targets are not ours")
    if isinstance(report, InstanceReport):
        return replace(report, name=label, known=(), logit=np.asarray(kept["logit"], np.float64))
    return replace(report, name=label, known=(), rank=np.asarray(kept["rank"], np.int32))


def compared(ours: Measured, theirs: Measured, select: str) -> list[Difference]:
    """Of the selection metric first."""
    if isinstance(ours, InstanceReport) and isinstance(theirs, InstanceReport):
        return [paired_instances(ours, theirs, name) for name in (select, "logloss")]
    assert isinstance(ours, Report) and isinstance(theirs, Report)
    return paired_each(ours, theirs, list(dict.fromkeys((select, "Acc@1", "HR@10", "NDCG@10", "MRR"))))


def rows(to: str, seeds: list[int], by_seed: list[list[Difference]]) -> list[dict[str, Any]]:
    """A line a metric; lists are by seed."""
    return [
        {
            "to": to,
            "metric": each[0].metric,
            "seeds": seeds,
            "mean": [d.mean for d in each],
            "standard_error": [d.standard_error for d in each],
        }
        for each in zip(*by_seed, strict=True)
    ]


if __name__ == "__main__":
    main()
