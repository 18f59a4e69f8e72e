"""One command from start to end: run folder, training, the single test evaluation, the result."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from stjax.data.protocols import TEST, VALID
from stjax.errors import CheckpointError
from stjax.training.checkpoint import Checkpoints
from stjax.training.config import Command, resolve
from stjax.training.curves import draw_curves
from stjax.training.experiment import is_baseline
from stjax.training.logging import Clock, read_lines
from stjax.training.loop import Record, fit, load_record
from stjax.training.report import measure, measure_baselines, print_result, summarise
from stjax.training.run_folder import RunFolder, hardware, versions
from stjax.training.setup import Setup, open_dataset, use_compilation_cache
from stjax.training.state import count_parameters


def run(command: Command, console: Console) -> dict[str, Any]:
    """Do what the command says, from where its run folder stands; print and return the result.

    Raises UserError for all that a user can mend.
    """
    if command.eval_only and not (command.folder / "config.json").is_file():
        raise CheckpointError(
            f"{command.folder} holds no run to evaluate; train it first, or name it by --workdir"
        )
    use_compilation_cache()
    # Orbax logs every failed thread of a save with its traceback, and then raises the failure.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    with RunFolder(command.folder) as folder, _room_for(command.folder):
        # Another evaluation of the same parameters is allowed, other parameters are not.
        ignore = ("evaluation",) if command.eval_only else ()
        for remark in folder.claim(resolve(command.experiment), command.config, ignore):
            console.print(f"note: {remark}", highlight=False)
        if command.eval_only:
            result = _evaluate(command, folder)
        elif (finished := folder.result) is not None:
            console.print(f"{folder.path} is finished; this is its result", highlight=False)
            result = finished
        else:
            result = _train(command, folder, console)
        print_result(result, console)
        console.print(f"run folder: {folder.path}", highlight=False)
        return result


def _train(command: Command, folder: RunFolder, console: Console) -> dict[str, Any]:
    if is_baseline(command.experiment.model):
        return _fit_baseline(command, folder, "result.json")
    clock = Clock()
    clock.enter("data")
    setup = Setup.of(command.experiment)
    console.print(_headline(setup), highlight=False)
    with Checkpoints(folder.path / "checkpoints") as checkpoints:
        record = fit(setup, checkpoints, folder.path, clock, console)
        result, valid = _measured(setup, checkpoints, record, clock)
    clock.enter("curves")
    draw_curves(
        folder.path / "curves.png",
        read_lines(folder.path / "metrics.jsonl"),
        metric=command.experiment.evaluation.select,
        baselines=valid,
        title=f"{result['name']}: {result['data']['source']}, {result['protocol']['name']}",
    )
    result |= {"seconds": clock.seconds()}
    folder.write("result.json", result)
    return result


def _fit_baseline(command: Command, folder: RunFolder, file: str) -> dict[str, Any]:
    """What is fitted in one go needs no checkpoint: a killed run begins again."""
    experiment, clock = command.experiment, Clock()
    clock.enter("data")
    dataset = open_dataset(experiment)
    clock.enter("train")
    scorer = experiment.model.fit(dataset)
    clock.enter("validation")
    valid = measure(scorer, dataset, VALID, experiment.evaluation)
    clock.enter("test")
    report = measure(scorer, dataset, TEST, experiment.evaluation)
    clock.enter("baselines")
    baselines, _ = measure_baselines(experiment, dataset)
    result = summarise(experiment, dataset, report, baselines)
    result |= {
        "validation": valid.as_dict(),
        "parameters": None,
        "seed": getattr(experiment.model, "seed", None),
        "hardware": hardware(),
        "versions": versions(),
        "seconds": clock.seconds(),
    }
    folder.write(file, result)
    return result


def _evaluate(command: Command, folder: RunFolder) -> dict[str, Any]:
    if is_baseline(command.experiment.model):
        return _fit_baseline(command, folder, "evaluation.json")
    clock = Clock()
    clock.enter("data")
    setup = Setup.of(command.experiment)
    with Checkpoints(folder.path / "checkpoints") as checkpoints:
        record = load_record(checkpoints, setup)
        result, _ = _measured(setup, checkpoints, record, clock)
    result |= {"seconds": clock.seconds()}
    folder.write("evaluation.json", result)
    return result


def _measured(
    setup: Setup, checkpoints: Checkpoints, record: Record, clock: Clock
) -> tuple[dict[str, Any], dict[str, float]]:
    """The result of the best checkpoint on the test part, and the baselines' validation metric."""
    if record.best_step is None:
        raise CheckpointError(
            f"{checkpoints.folder} holds no validated checkpoint yet; train on by the same command"
            " without --eval-only"
        )
    experiment = setup.experiment
    clock.enter("test")
    state = setup.restored(checkpoints, record.best_step)
    report = measure(setup.scorer(state), setup.dataset, TEST, experiment.evaluation)
    clock.enter("baselines")
    baselines, valid = measure_baselines(experiment, setup.dataset)
    result = summarise(experiment, setup.dataset, report, baselines)
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
        "hardware": hardware(),
        "versions": versions(),
    }
    return result, valid


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
        f"data quality: python -m stjax.data show {store.path}"
    )
