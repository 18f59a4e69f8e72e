"""From a run folder of `train.py` to what an engine needs, and from its log to the states of users."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stjax.data.dataset import Dataset
from stjax.errors import CheckpointError, ConfigError
from stjax.events import Catalogue
from stjax.serving.core import Core
from stjax.serving.exported import Model
from stjax.serving.vocabulary import Vocabulary, vocabularies
from stjax.training import load_config
from stjax.training.checkpoint import Checkpoints
from stjax.training.config import resolve, unresolve
from stjax.training.experiment import Experiment, Sharding, is_baseline
from stjax.training.loop import load_record
from stjax.training.run_folder import RunFolder
from stjax.training.setup import Setup

AT_ONCE = 1 << 16  # events of the log that are in memory together


@dataclass(frozen=True)
class Trained:
    """A model with the parameters of its best checkpoint, and what it was trained on.

    dataset: None where it is not at hand, as for an export. version: of the parameters; None: their digest
    tells it.
    """

    name: str
    model: Model
    params: Any
    catalogue: Catalogue
    vocabulary: Mapping[str, Vocabulary]
    dataset: Dataset | None
    version: str | None = None


def load_run(run: str | os.PathLike[str], sharding: Sharding | None = None) -> Trained:
    """The best checkpoint of a run folder. Raises UserError where it is not whole, or still in use.

    sharding: where the parameters are to lie, as of `Settings`; None: on one device.
    """
    path = Path(run)
    experiment = load_experiment(path)
    if is_baseline(experiment.model):
        raise ConfigError(
            f"{path} holds a baseline, {type(experiment.model).__name__}: only models are served"
        )
    with RunFolder(path), Checkpoints(path / "checkpoints") as checkpoints:
        devices = jax.local_devices()
        if sharding is None:
            sharding, devices = Sharding(data=1), devices[:1]
        sharding = dataclasses.replace(sharding, rows_multiple=experiment.sharding.rows_multiple)
        setup = Setup.of(dataclasses.replace(experiment, sharding=sharding), devices)
        best = load_record(checkpoints, setup).best_step
        if best is None:
            raise CheckpointError(f"{path} has no validated checkpoint yet: train it to the end first")
        params = setup.restored(checkpoints, best).params
    catalogue = jax.tree.map(np.asarray, setup.dataset.catalogue)
    words = vocabularies(setup.dataset)
    return Trained(f"{experiment.name}-{best}", experiment.model, params, catalogue, words, setup.dataset)


def load_experiment(path: Path) -> Experiment:
    """The experiment of a run folder, with the overrides of its command. Raises UserError."""
    file = path / "config.json"
    if not file.is_file():
        raise CheckpointError(
            f"{path} is not a run folder (no config.json): train a config with --workdir {path}"
        )
    saved = json.loads(file.read_text())
    experiment = unresolve(saved, load_config(path / "config.py"))
    if json.loads(json.dumps(resolve(experiment))) != saved:
        raise ConfigError(
            f"the experiment of {path} cannot be made again from its config.json: train it anew"
        )
    return experiment


def read_history(core: Core, dataset: Dataset) -> None:
    """All events of a log into the states of their users, as if they had been observed."""
    store, names = dataset.store, dataset.store.vocabulary("user").to_list()
    first = 0
    while first < store.users:
        stop = int(np.searchsorted(store.offsets, store.offsets[first] + AT_ONCE, side="right")) - 1
        stop = min(max(stop, first + 1), store.users)
        rows = np.arange(store.offsets[first], store.offsets[stop])
        records = core.codec.records(dataset.gather(rows[None], np.ones((1, len(rows)), bool))[0])
        owner = store.user_of(rows).tolist()
        core.apply((names[user], record) for user, record in zip(owner, records, strict=True))
        first = stop
