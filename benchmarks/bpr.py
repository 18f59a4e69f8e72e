"""BPR beside `implicit` at the same settings on MovieLens-100K: validation metrics over seeds, in one run.

    python -m benchmarks.bpr [--peer PYTHON] [--seeds 0 1 2 3 4] [--learning-rate 0.02]

PYTHON is that of an environment with `pip install implicit`; without it stjax runs alone. `implicit` draws
each negative once, as likely as its number of users, so ours are compared with popularity=1 and draws=1, at a
learning rate that suits it; the config is a line of its own. Prints JSON lines: mean and standard deviation
of a metric over seeds, and the median of the seconds of whole fits (ours after one compilation).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.als import peer
from stjax.baselines import BPR
from stjax.baselines.bpr import Factors
from stjax.baselines.counts import training_counts
from stjax.data.dataset import Dataset
from stjax.data.protocols import VALID
from stjax.evaluation import evaluate
from stjax.training import load_config

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", type=Path, help="python of an environment with implicit")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--learning-rate", type=float, default=0.02)
    args = parser.parse_args()

    experiment = load_config(ROOT / "configs" / "movielens_bpr.py")
    store = experiment.source.open()
    dataset = Dataset(store, experiment.protocol(store))
    user, item, count = training_counts(dataset).coordinates
    shape = store.users, dataset.schema.items
    same = dataclasses.replace(experiment.model, popularity=1.0, draws=1, learning_rate=args.learning_rate)
    for model in (experiment.model, same):
        dataclasses.replace(model, epochs=1).factorise(user, item, shape)  # compiles
        seconds, factors = [], []
        for seed in args.seeds:
            start = time.perf_counter()
            factors.append(dataclasses.replace(model, seed=seed).factorise(user, item, shape))
            seconds.append(time.perf_counter() - start)
        about = {"library": "stjax", "jax": jax.__version__, "seconds": statistics.median(seconds)}
        report(model, dataset, factors, about)
    if args.peer is None:
        return
    settings = dataclasses.asdict(same) | {"seeds": args.seeds}
    line, found = peer(args.peer, "implicit_bpr.py", (user, item, count), shape, settings)
    factors = []
    for seed in args.seeds:
        users, items = found[f"user-{seed}"], found[f"item-{seed}"]
        assert (users[:, -1][users.any(axis=1)] == 1).all()  # the last column of items is their bias
        factors.append(Factors(users[:, :-1], items[:, :-1], items[:, -1]))
    report(same, dataset, factors, {"library": f"implicit {line['implicit']}", "seconds": line["seconds"]})


def report(model: BPR, dataset: Dataset, factors: list[Factors], about: dict[str, object]) -> None:
    """Print settings, seconds and metrics over the factors of several seeds."""
    reports = [
        evaluate(model.scorer(dataset, f), dataset, VALID, filter_seen=True, length=1) for f in factors
    ]
    metrics = {}
    for name in ("HR@10", "NDCG@10", "MRR"):
        values = [found.mean(name) for found in reports]
        spread = round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else None  # NaN is no JSON
        metrics[name] = [round(float(np.mean(values)), 4), spread]
    settings = {name: value for name, value in dataclasses.asdict(model).items() if name != "seed"}
    print(json.dumps({"benchmark": "bpr", **about, "part": "valid", **settings, **metrics}), flush=True)


if __name__ == "__main__":
    main()
