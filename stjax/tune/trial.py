"""One trial: an experiment trained with every seed and measured on validation. The test part is not read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import jax
from rich.console import Console

from stjax.data.protocols import VALID
from stjax.errors import UserError
from stjax.training import Experiment
from stjax.training.checkpoint import Checkpoints
from stjax.training.experiment import is_baseline
from stjax.training.logging import Clock
from stjax.training.loop import STOPPED, fit
from stjax.training.report import measure
from stjax.training.setup import Setup, open_dataset

Report = Callable[[int, float], bool]


class Pruned(UserError):
    """A trial that is not worth going on with."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """(experiment, folder, report) -> the best value of the selection metric on validation, by seed.

    report(step, value) takes the mean over the seeds so far after every validation; where it returns True,
    Pruned is raised. Step k × `stride` + e is epoch e of the k-th seed. folder: of the trial; a killed trial
    goes on from the checkpoints in it. A baseline is fitted once.
    """

    seeds: Sequence[int]
    stride: int
    console: Console

    def __call__(self, experiment: Experiment, folder: Path, report: Report) -> list[float]:
        settings = experiment.evaluation
        if is_baseline(experiment.model):
            dataset = open_dataset(experiment)
            return [measure(experiment.model.fit(dataset), dataset, VALID, settings).mean(settings.select)]
        values: list[float] = []
        for k, seed in enumerate(self.seeds):

            def look(epoch: int, value: float, k: int = k) -> bool:
                return report(k * self.stride + epoch, fmean([*values, value]))

            training = dataclasses.replace(experiment.training, seed=seed)
            setup = Setup.of(dataclasses.replace(experiment, training=training))
            run = folder / str(seed)
            run.mkdir(parents=True, exist_ok=True)
            with Checkpoints(run / "checkpoints") as checkpoints:
                record = fit(setup, checkpoints, run, Clock(), self.console, look)
            if record.stopped == STOPPED:
                raise Pruned("pruned")
            assert record.best_value is not None  # the last epoch is always validated
            values.append(record.best_value)
        jax.clear_caches()  # the next trial has other programs
        return values
