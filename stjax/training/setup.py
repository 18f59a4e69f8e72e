"""From an experiment to data and functions: what is made once, before the first step."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
from flax.errors import NameInUseError

from stjax.cache import cache_folder
from stjax.data.dataset import Dataset
from stjax.data.pipeline import Batches
from stjax.data.protocols import TEST, VALID
from stjax.errors import ConfigError
from stjax.events import Catalogue
from stjax.training.checkpoint import Checkpoints
from stjax.training.experiment import Experiment
from stjax.training.optimizer import learning_rate, make_optimizer
from stjax.training.report import ModelScorer, Rank, RankingScorer, Scores, make_rank, make_scores
from stjax.training.state import State, Step, initial_state, make_train_step


@dataclass(frozen=True)
class Setup:
    """What an experiment becomes once its data is there.

    catalogue: on the device. key: of the seed. step: the jitted train step. scores: the jitted scoring
    function. odds: that of single candidates, where the evaluation asks for it. total_steps: of all epochs.
    initial: makes the state before the first step.
    """

    experiment: Experiment
    dataset: Dataset
    catalogue: Catalogue
    batches: Batches
    key: jax.Array
    step: Step
    scores: Scores
    odds: Rank | None
    total_steps: int
    initial: functools.partial[State]

    @classmethod
    def of(cls, experiment: Experiment) -> Setup:
        """Open the data, split it, make the functions. Raises UserError for what cannot work."""
        if jax.process_count() > 1:
            raise ConfigError(
                f"training runs in one process so far, not in {jax.process_count()}: start train.py once"
            )
        dataset = open_dataset(experiment)
        batches = _batches(experiment, dataset)
        total = experiment.training.epochs * batches.per_epoch
        optimizer = make_optimizer(experiment.optimizer, total)
        rate = learning_rate(experiment.optimizer, total)
        catalogue = jax.device_put(dataset.catalogue)
        model, key = experiment.model, jax.random.key(experiment.training.seed)
        initial = functools.partial(initial_state, model, optimizer, batches[0], catalogue, key)
        _check_model(initial)
        return cls(
            experiment=experiment,
            dataset=dataset,
            catalogue=catalogue,
            batches=batches,
            key=key,
            step=make_train_step(model, optimizer, rate),
            scores=make_scores(model),
            odds=make_rank(model) if experiment.evaluation.negatives else None,
            total_steps=total,
            initial=initial,
        )

    def scorer(self, state: State) -> ModelScorer:
        """The model with the parameters of a state, for the evaluator."""
        model = self.experiment.model
        parts = self.experiment.name, tuple(model.known), self.scores, state.params, self.catalogue
        return ModelScorer(*parts) if self.odds is None else RankingScorer(*parts, self.odds)

    def restored(self, checkpoints: Checkpoints, step: int) -> State:
        """The state of a saved step."""
        return checkpoints.restore(step, jax.eval_shape(self.initial))


def open_dataset(experiment: Experiment) -> Dataset:
    """The data through the protocol. Raises UserError for what cannot work, also a part without targets."""
    store = experiment.source.open()
    dataset = Dataset(store, experiment.protocol(store))
    _check_query(experiment, dataset)
    for part in (VALID, TEST):
        dataset.targets(part)  # raises now, not after an epoch, where there are none
    return dataset


def use_compilation_cache() -> None:
    """Keep compiled programs in the cache folder, unless JAX_COMPILATION_CACHE_DIR names another."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _batches(experiment: Experiment, dataset: Dataset) -> Batches:
    batching = experiment.batching
    return Batches(
        dataset,
        length=batching.length,
        batch_size=batching.batch_size,
        overlap=batching.overlap,
        buckets=batching.buckets or None,
        seed=experiment.training.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _check_model(initial: functools.partial[State]) -> None:
    """Trace the model once, so that settings which do not fit each other are one clear message."""
    try:
        jax.eval_shape(initial)
    except (ValueError, ZeroDivisionError, NameInUseError) as error:
        model = type(initial.args[0]).__name__
        raise ConfigError(f"model {model} cannot be built with these settings: {error}") from error


def _check_query(experiment: Experiment, dataset: Dataset) -> None:
    known = getattr(experiment.model, "known", None)
    if not isinstance(known, tuple):
        raise ConfigError(
            f"model {type(experiment.model).__name__} declares no `known`: give it a tuple of the"
            " query fields that it may read, () for none"
        )
    fields = [f.name for f in dataset.schema.select("event", "categorical")]
    if unknown := [name for name in known if name not in ("time", "place", *fields)]:
        raise ConfigError(
            f"the model asks to know {unknown} of the request; these data have {['time', 'place', *fields]}"
        )
