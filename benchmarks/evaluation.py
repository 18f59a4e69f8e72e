"""Full-ranking evaluation of a config: seconds after compilation, and where they go.

    python -m benchmarks.evaluation [CONFIG.py] [overrides of train.py]     default: configs/movielens.py

The validation part, by a model that is not trained, which costs the same: every target ranked among the whole
catalogue, with segments and standard errors, as `train.py` does after each epoch. Prints one JSON line:
the first evaluation, which compiles; medians over rounds of the next, of the scores alone (blocks that are
already on the device) and of the questions alone (no model).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import jax

from benchmarks.train_step import median_seconds
from stjax.data.protocols import VALID
from stjax.events import Query, Question
from stjax.training import parse
from stjax.training.report import measure
from stjax.training.setup import Setup

DEFAULT = Path(__file__).parents[1] / "configs" / "movielens.py"


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
    command = parse(sys.argv[1:], default=DEFAULT)
    setup, evaluation = Setup.of(command.experiment), command.experiment.evaluation
    scorer = setup.scorer(setup.initial())

    def whole() -> None:
        measure(scorer, setup.dataset, VALID, evaluation)

    start = time.perf_counter()
    whole()
    first = time.perf_counter() - start

    def ask() -> list[Question]:
        buckets = evaluation.buckets or None
        return list(setup.dataset.questions(VALID, evaluation.length, evaluation.block, None, buckets))

    questions = ask()

    def score() -> None:
        jax.block_until_ready([scorer(q.history, Query.of(q.target, scorer.known), q.row) for q in questions])

    line = {
        "benchmark": "evaluation",
        "config": command.experiment.name,
        "targets": int(sum(q.real.sum() for q in questions)),
        "candidates": setup.dataset.schema.items,
        "first_seconds": round(first, 2),
        "seconds": round(median_seconds(whole), 3),
        "scores_seconds": round(median_seconds(score), 3),
        "questions_seconds": round(median_seconds(ask), 3),
        "blocks": len(questions),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cpus": os.cpu_count(),
        "jax": jax.__version__,
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
