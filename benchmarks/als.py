"""iALS beside `implicit` at the same settings on MovieLens-100K: seconds and validation metrics, in one run.

    python -m benchmarks.als [--peer PYTHON] [--factors K] [--rounds N]

PYTHON is that of an environment with `pip install implicit`; without it stjax runs alone. Prints JSON lines:
seconds are medians of whole fits (data in memory, ours after one compilation), one after the other. The
peer's item factors are scored by the same fold-in and the same evaluator.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stjax.baselines import IALS
from stjax.baselines.counts import training_counts
from stjax.data.dataset import Dataset
from stjax.data.protocols import VALID
from stjax.evaluation import evaluate
from stjax.training import load_config

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", type=Path, help="python of an environment with implicit")
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    experiment = load_config(ROOT / "configs" / "movielens_ials.py")
    store = experiment.source.open()
    dataset = Dataset(store, experiment.protocol(store))
    model = dataclasses.replace(experiment.model, factors=args.factors)
    pairs = training_counts(dataset)
    counts = pairs.coordinates
    shape = store.users, pairs.width

    _, items = model.factorise(*counts, shape)  # compiles
    seconds = []
    for _ in range(args.rounds):
        start = time.perf_counter()
        jax.block_until_ready(model.factorise(*counts, shape))
        seconds.append(time.perf_counter() - start)
    ours = statistics.median(seconds)
    common = {"factors": model.factors, "iterations": model.iterations, "jax": jax.__version__}
    report(model, dataset, np.asarray(items), {"library": "stjax", "seconds": ours, **common})
    if args.peer is None:
        return
    settings = dataclasses.asdict(model) | {"rounds": args.rounds}
    line, found = peer(args.peer, "implicit_als.py", counts, shape, settings)
    for variant in ("exact", "conjugate gradients"):
        about = {"library": f"implicit {line['implicit']}, {variant}", "seconds": line[variant]}
        about["times_as_slow"] = round(line[variant] / ours, 2)
        report(model, dataset, found[variant], about)


def peer(
    python: Path,
    script: str,
    counts: tuple[np.ndarray, np.ndarray, np.ndarray],
    shape: tuple[int, int],
    settings: dict[str, object],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a script of benchmarks/peers prints as JSON, and the arrays that it leaves, by name.

    counts: a matrix in coordinates, (user, item, count).
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "counts.npz"
        np.savez(file, user=counts[0], item=counts[1], count=counts[2], shape=shape)
        asked = json.dumps(settings | {"threads": os.cpu_count()})
        command = [python, Path(__file__).parent / "peers" / script, file, asked]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # as implicit asks for
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
        left = {f.stem: np.load(f) for f in file.parent.glob("*.npy")}
    return json.loads(out.splitlines()[-1]), left


def report(model: IALS, dataset: Dataset, items: np.ndarray, about: dict[str, object]) -> None:
    """Print seconds and metrics of item factors (V, K)."""
    found = evaluate(model.scorer(dataset, items), dataset, VALID, filter_seen=True, length=1)
    metrics = {name: round(found.mean(name), 4) for name in ("HR@10", "NDCG@10", "MRR")}
    print(json.dumps({"benchmark": "als", **about, "part": "valid", **metrics}), flush=True)


if __name__ == "__main__":
    main()
