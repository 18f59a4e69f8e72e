"""`python -m tests.searching FOLDER TRIALS`: a process that searches an objective with a known optimum.

`ready` in FOLDER says that it has a trial; it goes on when there is a file `go`.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stjax.training import Experiment
from stjax.tune import Choice, Integers, Log, Uniform
from stjax.tune.search import Search
from tests.configs.tiny import experiment

BEST = {"optimizer.learning_rate": 0.01, "model.dropout": 0.3, "model.layer.width": 13, "batching.overlap": 2}
SPACE = {
    "optimizer.learning_rate": Log(1e-4, 1.0),
    "model.dropout": Uniform(0.0, 1.0),
    "model.layer.width": Integers(3, 17),
    "batching.overlap": Choice(0, 1, 2),
}


def planted(experiment: Experiment, folder: Path, report: Callable[[int, float], bool]) -> list[float]:
    """1 at BEST, less elsewhere."""
    model: Any = experiment.model
    far = (math.log10(experiment.optimizer.learning_rate) + 2) ** 2
    far += (4 * (model.dropout - 0.3)) ** 2 + ((model.layer.width - 13) / 5) ** 2
    return [1 - far / 10 - abs(experiment.batching.overlap - 2) / 10]


def search(folder: Path, **settings: Any) -> Search:
    return Search(folder, experiment, SPACE, {"seeds": [0]}, **settings)


def main(folder: Path, trials: int) -> None:
    def slow(*arguments: Any) -> list[float]:
        (folder / f"ready-{os.getpid()}").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
        time.sleep(0.05)
        return planted(*arguments)

    with search(folder) as mine:
        mine.work(trials, slow, lambda trial: print(trial.number, flush=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
