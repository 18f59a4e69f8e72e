"""One command from start to end: run folder, training, the single test evaluation, the result."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from stjax.baselines.progress import LOGGER
from stjax.data.dataset import Dataset
from stjax.data.protocols import TEST, VALID
from stjax.errors import CheckpointError, ConfigError
from stjax.training.checkpoint import Checkpoints
from stjax.training.compilations import compilations
from stjax.training.config import Command, resolve
from stjax.training.curves import draw_curves
from stjax.training.experiment import Experiment, is_baseline
from stjax.training.logging import Clock, read_lines
from stjax.training.loop import fit, load_record
from stjax.training.processes import is_leader, join, leave, meet
from stjax.training.report import describe, measure, measure_baselines, print_result, summarise
from stjax.training.run_folder import RunFolder, hardware, versions
from stjax.training.setup import Setup, open_dataset, use_compilation_cache
from stjax.training.sharding import Layout
from stjax.training.state import count_parameters


def run(command: Command, console: Console) -> dict[str, Any]:
    """Do what the command says, from where its run folder stands; print and return the result.

    Where the command names other processes they are met first.
    Raises UserError for all that a user can mend.
    """
    together = join(command.coordinator, command.processes, command.process, command.detect)
    result = _run(command, console)
    if together:
        leave()
    return result


def _run(command: Command, console: Console) -> dict[str, Any]:
    if command.eval_only and not (command.folder / "config.json").is_file():
        raise CheckpointError(
            f"{command.folder} holds no run to evaluate; train it first, or name it by --workdir"
        )
    if command.eval_only and command.experiment.training.refit == "test":
        raise ConfigError(
            "training.refit 'test' trains on every event, so that nothing is left to evaluate: leave out"
            " --eval-only"
        )
    leader, before = is_leader(), compilations()
    if not leader:
        console = Console(quiet=True)
    use_compilation_cache()
    # Orbax logs every failed thread of a save with its traceback, and then raises the failure.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    with RunFolder(command.folder, leader) as folder, _room_for(command.folder), _shown(console):
        # A run may go on upon other devices. Another evaluation of the same parameters is allowed, other
        # parameters are not.
        ignore = ("sharding", "evaluation") if command.eval_only else ("sharding",)
        for remark in folder.claim(resolve(command.experiment), command.config, ignore):
            console.print(f"note: {remark}", highlight=False)
        meet("the run folder is there")
        result = None if command.eval_only else folder.result
        if result is None:
            result = _make(command, folder, console, before)
        else:
            console.print(f"{folder.path} is finished; this is its result", highlight=False)
        print_result(result, console)
        console.print(f"run folder: {folder.path}", highlight=False)
        return result


def _make(command: Command, folder: RunFolder, console: Console, before: int) -> dict[str, Any]:
    """Fit or train what the command names, or evaluate it, and write its result."""
    clock = Clock()
    clock.enter("data")
    if is_baseline(command.experiment.model):
        result = _fit_baseline(command.experiment, clock)
    else:
        result = _train(command, folder, console, clock)
    result |= {"hardware": hardware(), "versions": versions(), "seconds": clock.seconds()}
    result["compilations"] = compilations() - before
    console.print(
        f"{result['compilations']} programs were compiled, or taken from the cache", highlight=False
    )
    folder.write("evaluation.json" if command.eval_only else "result.json", result)
    return result


def _fit_baseline(experiment: Experiment, clock: Clock) -> dict[str, Any]:
    """What is fitted in one go needs no checkpoint: a killed run begins again."""
    dataset = open_dataset(experiment)
    clock.enter("train")
    scorer = experiment.model.fit(dataset)
    clock.enter("validation")
    chosen = {}
    if VALID in dataset.split.parts:
        chosen["validation"] = measure(scorer, dataset, VALID, experiment.evaluation).as_dict()
    result, _ = _measured(experiment, dataset, scorer, clock)
    return result | chosen | {"parameters": None, "seed": getattr(experiment.model, "seed", None)}


def _train(command: Command, folder: RunFolder, console: Console, clock: Clock) -> dict[str, Any]:
    """Train a model to the end, unless it is only to be evaluated; its best checkpoint is what counts."""
    experiment, setup = command.experiment, Setup.of(command.experiment)
    with Checkpoints(folder.path / "checkpoints") as checkpoints:
        if command.eval_only:
            record = load_record(checkpoints, setup)
        else:
            console.print(_headline(setup), highlight=False)
            record = fit(setup, checkpoints, folder.path, clock, console)
        if record.best_step is None:
            raise CheckpointError(
                f"{checkpoints.folder} holds no validated checkpoint yet; train on by the same command"
                " without --eval-only"
            )
        state = setup.restored(checkpoints, record.best_step)
        result, valid = _measured(experiment, setup.dataset, setup.scorer(state), clock)
        result |= {
            "best": {
                "step": record.best_step,
                "epoch": round(record.best_step / setup.batches.per_epoch, 4),
                "metric": record.metric,
                "validation": record.best_value,
            },
            "steps": checkpoints.latest,
            "stopped": record.stopped,
            "parameters": count_parameters(state.params),
            "seed": experiment.training.seed,
        }
    if folder.leader and not command.eval_only:
        clock.enter("curves")
        draw_curves(
            folder.path / "curves.png",
            read_lines(folder.path / "metrics.jsonl"),
            metric=experiment.evaluation.select,
            baselines=valid,
            title=f"{result['name']}: {result['data']['source']}, {result['protocol']['name']}",
        )
    return result


def _measured(
    experiment: Experiment, dataset: Dataset, scorer: Any, clock: Clock
) -> tuple[dict[str, Any], dict[str, float]]:
    """What a scorer reaches on the test part beside the baselines, and their validation metric."""
    if TEST not in dataset.split.parts:
        return describe(experiment, dataset), {}
    clock.enter("test")
    report = measure(scorer, dataset, TEST, experiment.evaluation)
    clock.enter("baselines")
    baselines, valid = measure_baselines(experiment, dataset)
    return summarise(experiment, dataset, report, baselines), valid


@contextlib.contextmanager
def _shown(console: Console) -> Iterator[None]:
    """Print what baselines say of long fits."""
    handler = logging.Handler()
    handler.emit = lambda record: console.print(record.getMessage(), highlight=False)
    level, upwards = LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False  # some package has given the root logger a handler, which would say it again
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        LOGGER.propagate = upwards


@contextlib.contextmanager
def _room_for(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CheckpointError(
            f"no space left for the run folder {folder}; free some, and the same command goes on from"
            " the last checkpoint"
        ) from error


def _headline(setup: Setup) -> str:
    store, per_epoch = setup.dataset.store, setup.batches.per_epoch
    rows = store.quality.get("rows", {})
    dropped = f" ({rows['dropped']:,} of {rows['read']:,} dropped)" if rows.get("dropped") else ""
    return (
        f"{setup.experiment.name}: {len(store):,} events{dropped} of {store.users:,} users,"
        f" {setup.dataset.schema.items:,} item ids in training, {per_epoch:,} steps per epoch\n"
        f"{_devices(setup.layout)}"
        f"{_told(setup.dataset)}"
        f"data quality: python -m stjax.data show {store.path}"
    )


def _told(dataset: Dataset) -> str:
    """A line, where the place of the request gives answers away."""
    if not (told := dataset.notes.get("test_targets_told_by_place")):
        return ""
    return (
        f"note: {told:,} of {len(dataset.targets(TEST)):,} test targets are where the catalogue has their"
        " item, which it knows from them alone: a model that knows the place finds them by it\n"
    )


def _devices(layout: Layout) -> str:
    """A line, where there are several."""
    if layout.single:
        return ""
    of = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    sizes = ", ".join(f"{axis} {size}" for axis, size in layout.mesh.shape.items())
    return f"{layout.mesh.size} devices{of}: {sizes}\n"
