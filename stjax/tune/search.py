"""The search: trials in a journal that any number of processes share, also after any of them was killed.

    journal.jsonl   Optuna's journal           .lock      held while a trial is chosen
    workers/        a locked file for each process that works on a trial
    trials/         a folder for each trial; its checkpoints go when it ends

A trial whose process is dead is taken up by the next that looks for work, from its last checkpoint. The
sampler's seed is a function of the search's and of the number of trials before, so a search by one process
gives the same answer whether it was killed or not.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from stjax.errors import ConfigError, TrainingError
from stjax.training import Experiment
from stjax.training.config import differences, resolve
from stjax.tune.change import changed, value_at
from stjax.tune.locks import JournalLock, Worker, held, lives
from stjax.tune.source import plain
from stjax.tune.space import Space
from stjax.tune.trial import Pruned, Report

Objective = Callable[[Experiment, Path, Report], Sequence[float]]
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Search:
    """A search in a folder, as one process sees it. Use as a context manager: leaving ends the worker.

    about: what else decides the values, e.g. seeds and the data's fingerprint; plain data. A folder that
    holds a search with another space, experiment or `about` is refused with ConfigError. seed: of the
    sampler. prune: end trials that are worse than the median of those before at the same step.
    """

    def __init__(
        self,
        folder: Path,
        experiment: Experiment,
        space: Space,
        about: Mapping[str, Any],
        *,
        seed: int = 0,
        prune: bool = True,
    ) -> None:
        self.folder, self.experiment, self.space = folder, experiment, space
        self._seed, self._prune = seed, prune
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot use the folder {folder}: {error.strerror}; choose another --out"
            ) from error
        with held(folder / ".lock"):
            journal = folder / "journal.jsonl"
            journal.touch()
            lock = JournalLock(journal)
            lock.acquire()  # mends what a killed process left, before it is read
            lock.release()
            self.study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(journal), lock)),
                pruner=optuna.pruners.MedianPruner(n_warmup_steps=2),
                study_name="tune",
                direction="maximize",
                load_if_exists=True,
            )
            self._claim(
                {
                    "experiment": resolve(experiment),
                    "space": resolve(space),
                    **about,
                    "search seed": seed,
                    "pruning": prune,
                }
            )
        self._worker = Worker(folder / "workers")

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: Any) -> None:
        self._worker.close()

    def work(self, trials: int, objective: Objective, after: Callable[[FrozenTrial], None]) -> None:
        """Do trials until there are so many, over all processes; the last of them may still run elsewhere.

        after: called with each trial that this process has ended, before others can choose the next.
        An experiment that cannot be (ConfigError) or that diverges (TrainingError) is a trial that failed to
        be good: pruned, with its `reason`. All other errors end the work; the trial is taken up again later.
        """
        while (trial := self._next(trials)) is not None:
            state, value, attributes = self._run(trial, objective)
            with held(self.folder / ".lock"):
                for name, attribute in attributes.items():
                    trial.set_user_attr(name, attribute)
                self.study.tell(trial, value, state=state)
                self._sweep()
                after(self.trials()[trial.number])

    def trials(self) -> list[FrozenTrial]:
        """All trials by number, those that failed while they were chosen included."""
        return self.study.get_trials(deepcopy=False)

    def done(self) -> list[FrozenTrial]:
        """The trials that ended, complete or pruned."""
        return [trial for trial in self.trials() if trial.state in DONE]

    def best(self) -> FrozenTrial | None:
        """The complete trial with the highest value, the earliest of equals; None where there is none."""
        complete = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        return max(complete, key=lambda trial: trial.value or 0.0, default=None)

    def experiment_of(self, trial: FrozenTrial) -> Experiment:
        """The experiment that a trial has trained."""
        return changed(self.experiment, self._values(trial.params))

    def _values(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        return {path: dimension.value(stored[path]) for path, dimension in self.space.items()}

    def _claim(self, task: dict[str, Any]) -> None:
        """Be the first in the folder, or check that it holds the same search."""
        task = json.loads(json.dumps(task))
        if (old := self.study.user_attrs.get("task")) is not None:
            if lines := differences(old, task):
                raise ConfigError(
                    f"{self.folder} holds a search with other settings (there -> here):\n  "
                    + "\n  ".join(lines)
                    + "\nuse those settings, choose another --out, or delete the folder"
                )
            return
        # The config as it is comes first: what is found is then never worse than it.
        own = {p: d.stored(value_at(self.experiment, p)) for p, d in self.space.items() if self._stands(p)}
        if len(own) == len(self.space) and None not in own.values() and not self.trials():
            self.study.enqueue_trial(own)
        self.study.set_user_attr("task", task)

    def _stands(self, path: str) -> bool:
        try:
            value_at(self.experiment, path)
        except ConfigError:  # it leads into a choice that the config has not made
            return False
        return True

    def _next(self, trials: int) -> optuna.trial.Trial | None:
        """A trial to work on: one whose process has died, or a new one; None where there are enough."""
        with held(self.folder / ".lock"):
            for frozen in self.trials():
                if frozen.state != TrialState.RUNNING or self._alive(frozen):
                    continue
                if "values" in frozen.user_attrs:
                    trial = optuna.trial.Trial(self.study, frozen._trial_id)
                    trial.set_user_attr("worker", self._worker.name)
                    return trial
                self.study.tell(frozen.number, state=TrialState.FAIL)  # killed while it was chosen
                if fixed := frozen.system_attrs.get("fixed_params"):
                    self.study.enqueue_trial(fixed)
            taken = sum(t.state in (*DONE, TrialState.RUNNING) for t in self.trials())
            if taken >= trials:
                return None
            seed = random.Random(f"{self._seed} {taken}").getrandbits(32)
            self.study.sampler = optuna.samplers.TPESampler(seed=seed)
            trial = self.study.ask()
            stored = {path: dimension.suggest(trial, path) for path, dimension in self.space.items()}
            trial.set_user_attr("worker", self._worker.name)
            # Last: it says that the choice is complete.
            trial.set_user_attr("values", {p: plain(value) for p, value in self._values(stored).items()})
            return trial

    def _alive(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        return worker is not None and lives(self.folder / "workers", worker)

    def _run(
        self, trial: optuna.trial.Trial, objective: Objective
    ) -> tuple[TrialState, float | None, dict[str, Any]]:
        """State, value and what else is to be told of a trial."""
        frozen = self.trials()[trial.number]
        for other in self.trials():
            if (
                other.state == TrialState.COMPLETE
                and other.user_attrs["values"] == frozen.user_attrs["values"]
            ):
                by_seed = other.user_attrs["by seed"]
                return TrialState.COMPLETE, other.value, {"by seed": by_seed, "same as": other.number}
        known = set(frozen.intermediate_values)  # what it had reported before it was killed
        start = time.perf_counter()

        def report(step: int, value: float) -> bool:
            if step not in known:
                trial.report(value, step)
            return self._prune and trial.should_prune()

        try:
            values = objective(self.experiment_of(frozen), self.folder_of(trial.number), report)
        except (Pruned, ConfigError, TrainingError) as error:
            state, value, told = TrialState.PRUNED, None, {"reason": str(error)}
        else:
            state, value, told = TrialState.COMPLETE, sum(values) / len(values), {"by seed": list(values)}
        return state, value, told | {"seconds": round(time.perf_counter() - start, 1)}

    def folder_of(self, number: int) -> Path:
        """Where a trial trains."""
        return self.folder / "trials" / f"{number:04}"

    def _sweep(self) -> None:
        """Remove the checkpoints of trials that ended, also where a killed process could not."""
        for trial in self.done():
            for checkpoints in self.folder_of(trial.number).glob("*/checkpoints"):
                shutil.rmtree(checkpoints)
