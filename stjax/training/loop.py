"""The training loop: it owns input, output and the clock; the step itself is pure.

Everything that decides what comes next is in the checkpoint: parameters and moments, the position of
the input, validations, the best step and how long ago it was. So a killed run, started again by the same
command, ends with the same bits as one that was never killed. For the same reason a line of metrics is
written at every save: no checkpoint falls into the middle of an average.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from stjax.data.pipeline import stream
from stjax.data.protocols import VALID
from stjax.errors import CheckpointError, TrainingError
from stjax.training.checkpoint import Checkpoints
from stjax.training.logging import Clock, Narrator, Plan
from stjax.training.processes import is_leader
from stjax.training.report import measure
from stjax.training.setup import Setup
from stjax.training.state import Metrics, State

DONE = "all epochs done"  # what a Record's `stopped` says; and
STOPPED = "stopped by the caller"  # a Record's `stopped` after `on_validation` said so


@dataclasses.dataclass
class Record:
    """What a checkpoint holds besides the arrays; plain data.

    fingerprint: of the dataset. metric: by which the best step is chosen. data: state of the input.
    best_step, best_value: by that metric. waited: validations since then. stopped: why training ended.
    seconds: by phase.
    """

    fingerprint: str
    metric: str
    data: Any = None
    best_step: int | None = None
    best_value: float | None = None
    waited: int = 0
    stopped: str | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, step: int, value: float, patience: int, last: bool) -> None:
        """Take in the value of a validation and decide whether to stop; only higher is better."""
        self.waited += 1
        if self.best_value is None or value > self.best_value:
            self.best_step, self.best_value, self.waited = step, value, 0
        if last:
            self.stopped = DONE
        elif patience and self.waited >= patience:
            self.stopped = f"no improvement in {self.waited} validations"


class Window:
    """The steps since the last line. Metrics stay on the device until they are read."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, Metrics]] = []

    def add(self, step: int, metrics: Metrics) -> None:
        """One step that has been dispatched; `step` counts from 1."""
        self._steps.append((step, metrics))

    def read(self) -> dict[str, float]:
        """Means since the last reading, weighted by targets. Waits for the device.

        Raises TrainingError, naming the step, where a loss or gradient is not finite.
        """
        steps = [(step, jax.device_get(m)) for step, m in self._steps]
        self._steps.clear()
        for step, metrics in steps:
            if not metrics["finite"]:
                raise TrainingError(
                    f"at step {step} the loss is {metrics['loss']} and the gradient's norm"
                    f" {metrics['gradient_norm']}; lower optimizer.learning_rate or set"
                    " optimizer.clip_norm"
                )
        weighed = [(metrics, float(metrics["weight"])) for _, metrics in steps]
        total = sum(weight for _, weight in weighed)
        names = [name for name in steps[0][1] if name not in ("finite", "weight")]
        return {n: sum(float(m[n]) * w for m, w in weighed) / total for n in names}


def fit(
    setup: Setup,
    checkpoints: Checkpoints,
    folder: Path,
    clock: Clock,
    console: Console,
    on_validation: Callable[[int, float], bool] | None = None,
) -> Record:
    """Train to the end or the early stop, from the latest checkpoint or from the start.

    Where the validation part trains, too, nothing is validated and the last step is the best.
    on_validation: called with the epochs done and the selection metric after every validation; True ends
      the training there, saved as any other end.
    Raises TrainingError where the loss is no longer finite, CheckpointError where nothing can be saved.
    """
    experiment, per_epoch = setup.experiment, setup.batches.per_epoch
    settings, evaluation = experiment.training, experiment.evaluation
    record, start = load_record(checkpoints, setup), checkpoints.latest or 0
    if not start:
        clock.enter("compile")
    ready = _first_state(setup, checkpoints, start)
    iterator = iter(stream(setup.batches))  # meanwhile
    if start:
        iterator.set_state(record.data)
        clock.add(record.seconds)
        console.print(f"going on from step {start:,} of {setup.total_steps:,}", highlight=False)

    window, shapes = Window(), set()
    chooses = VALID in setup.dataset.split.parts  # else it trains: the last step counts
    plan = Plan(setup.total_steps, per_epoch, settings.epochs, evaluation.select)
    with Narrator(folder if is_leader() else None, console, clock, start, plan) as narrator:
        state = ready()
        for done in range(start + 1, setup.total_steps + 1):
            if record.stopped:
                break
            batch = next(iterator)
            first = batch.weight.shape not in shapes  # this call compiles, unless the start did
            shapes.add(batch.weight.shape)
            clock.enter("compile" if first else "train")
            state, metrics = setup.step(setup.key, state, setup.placed(batch), setup.catalogue)
            clock.enter("train")
            window.add(done, metrics)
            if not first:
                narrator.count(batch, setup.batches.process[1])

            last = done == setup.total_steps
            validate = chooses and (last or done % (per_epoch * settings.eval_every) == 0)
            save = last or validate or done % settings.checkpoint_every == 0
            if save or done % settings.log_every == 0:
                narrator.train(done, _read(window, checkpoints), record.best_value)
            if validate:
                clock.enter("validation")
                report = measure(setup.scorer(state), setup.dataset, VALID, evaluation)
                value = report.mean(evaluation.select)
                record.add(done, value, settings.patience, last)
                if on_validation is not None and on_validation(done // per_epoch, value):
                    record.stopped = STOPPED
                means = {name: report.mean(name) for name in report.summary()}
                narrator.validation(done, means, record.best_value)
            elif last:
                record.best_step, record.stopped = done, DONE
            if save:
                clock.enter("checkpoint")
                record.data, record.seconds = iterator.get_state(), clock.seconds()
                checkpoints.save(done, state, dataclasses.asdict(record), record.best_step)
            clock.enter("train")
    clock.enter("checkpoint")
    checkpoints.wait()
    return record


def _first_state(setup: Setup, checkpoints: Checkpoints, start: int) -> Callable[[], State]:
    """What gives the state to go on from; a run that begins compiles its first step until it is asked."""
    if not start:
        return setup.begin()
    state = setup.restored(checkpoints, start)
    return lambda: state


def load_record(checkpoints: Checkpoints, setup: Setup) -> Record:
    """The record of the latest checkpoint, or that of a run which begins.

    Raises CheckpointError where the data are no longer those that the run began with.
    """
    fingerprint = setup.dataset.fingerprint
    saved = checkpoints.record()
    if saved is None:
        return Record(fingerprint, setup.experiment.evaluation.select)
    if saved["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"the data have changed since the run in {checkpoints.folder.parent} began (fingerprint"
            f" {saved['fingerprint']} -> {fingerprint}); choose another --workdir"
        )
    return Record(**saved)


def _read(window: Window, checkpoints: Checkpoints) -> dict[str, float]:
    try:
        return window.read()
    except TrainingError as error:
        checkpoints.wait()
        raise TrainingError(f"{error}; {checkpoints.last_good()}") from error
