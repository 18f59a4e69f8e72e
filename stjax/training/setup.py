"""From an experiment to data and functions: what is made once, before the first step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax.errors import NameInUseError

from stjax.cache import cache_folder
from stjax.data.dataset import Dataset
from stjax.data.pipeline import Batches
from stjax.data.protocols import TEST, VALID
from stjax.data.told import told_by_place
from stjax.errors import ConfigError
from stjax.events import Batch, Catalogue
from stjax.training.checkpoint import Checkpoints
from stjax.training.experiment import Experiment
from stjax.training.optimizer import learning_rate, make_optimizer
from stjax.training.report import ModelScorer, Rank, RankingScorer, Scores, make_rank, make_scores
from stjax.training.rows import Rows, check_rows
from stjax.training.sharding import Layout
from stjax.training.state import Shardings, State, Step, make_initial, make_train_step


@dataclass(frozen=True)
class Setup:
    """What an experiment becomes once its data is there.

    layout: of the devices. catalogue: on them. key: of the seed. step: the jitted train step. scores: the
    jitted scoring function. odds: that of single candidates, where the evaluation asks for it. total_steps:
    of all epochs. initial: makes the state before the first step. abstract: its shapes, and where it lies on
    several devices. shardings: None on one device.
    """

    experiment: Experiment
    dataset: Dataset
    layout: Layout
    catalogue: Catalogue
    batches: Batches
    key: jax.Array
    step: Step
    scores: Scores
    odds: Rank | None
    total_steps: int
    initial: functools.partial[State]
    abstract: State
    shardings: Shardings | None

    @classmethod
    def of(cls, experiment: Experiment, devices: Sequence[Any] | None = None) -> Setup:
        """Open the data, split it, make the functions. Raises UserError for what cannot work.

        devices: those to train on; by default all, of all processes.
        """
        layout = Layout.of(experiment.sharding, devices)
        dataset = open_dataset(experiment)
        batches = _batches(experiment, dataset, layout)
        total, rows = experiment.training.epochs * batches.per_epoch, None
        if experiment.optimizer.tables != "adamw":
            check_rows(experiment.model)
            rows = Rows
        optimizer = make_optimizer(experiment.optimizer, total)
        rate = learning_rate(experiment.optimizer, total)
        catalogue = layout.copies(dataset.catalogue)
        model, training, key = experiment.model, experiment.training, _key(experiment.training.seed, layout)
        empty = jax.tree.map(np.zeros_like, batches[0])
        initial = functools.partial(make_initial(model, optimizer), key, empty, catalogue)
        abstract = _traced(model, initial)  # the trace is used again by the call
        shardings = mesh = None
        if not layout.single:
            shardings, mesh = layout.shardings(optimizer, abstract), layout.mesh
            initial = functools.partial(make_initial(model, optimizer, shardings.state), *initial.args)
            abstract = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings.state
            )
        return cls(
            experiment=experiment,
            dataset=dataset,
            layout=layout,
            catalogue=catalogue,
            batches=batches,
            key=key,
            step=make_train_step(
                model, optimizer, rate, shardings, rows, training.accumulate, training.donate
            ),
            scores=make_scores(model, mesh),
            odds=make_rank(model, mesh) if experiment.evaluation.negatives else None,
            total_steps=total,
            initial=initial,
            abstract=abstract,
            shardings=shardings,
        )

    def begin(self) -> Callable[[], State]:
        """Compile the first step while the state before it is made; the call of the result waits for both.

        Each program is compiled, or read from the cache, in a thread of its own.
        """
        pool = ThreadPoolExecutor(2)
        make: Any = self.initial.func
        initial = make.lower(*self.initial.args)
        state = pool.submit(lambda: initial.compile()(*self.initial.args))
        first = self.placed(self.batches[0])
        jitted: Any = self.step
        step = jitted.lower(self.key, self.abstract, first, self.catalogue)
        compiled = pool.submit(step.compile)  # the jitted function finds it
        pool.shutdown(wait=False)

        def wait() -> State:
            compiled.result()
            return state.result()

        return wait

    def placed(self, batch: Batch) -> Batch:
        """This process's part of a batch, on the devices."""
        return self.layout.batch(batch, self.batches.process[1])

    def scorer(self, state: State) -> ModelScorer:
        """The model with the parameters of a state, for the evaluator."""
        model = self.experiment.model
        parts: Any = self.experiment.name, tuple(model.known), self.scores, state.params, self.catalogue
        parts = (*parts, self.layout)
        return ModelScorer(*parts) if self.odds is None else RankingScorer(*parts, odds=self.odds)

    def restored(self, checkpoints: Checkpoints, step: int) -> State:
        """The state of a saved step."""
        return checkpoints.restore(step, self.abstract)


def open_dataset(experiment: Experiment) -> Dataset:
    """The data through the protocol. Raises UserError for what cannot work, also a part without targets."""
    store = experiment.source.open()
    split = experiment.protocol(store)
    if (last := experiment.training.refit) != "none":
        split = split.through({"validation": VALID, "test": TEST}[last], store)
    dataset = Dataset(store, split, experiment.sharding.rows_multiple)
    check_query(experiment.model, dataset)
    for part, word in split.parts.items():
        dataset.targets(part)  # raises now, not after an epoch, where there are none
        if "place" in experiment.model.known:
            dataset.notes[f"{word}_targets_told_by_place"] = told_by_place(dataset, part)
    return dataset


def use_compilation_cache() -> None:
    """Keep compiled programs in the cache folder, unless JAX_COMPILATION_CACHE_DIR names another."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _key(seed: int, layout: Layout) -> jax.Array:
    if layout.single:
        return jax.random.key(seed)
    return jax.jit(lambda: jax.random.key(seed), out_shardings=layout.everywhere)()


def _batches(experiment: Experiment, dataset: Dataset, layout: Layout) -> Batches:
    batching, (part, parts) = experiment.batching, layout.feed
    if not getattr(experiment.model, "ordered", True):
        for name, default in (("within", None), ("overlap", 0)):
            if (value := getattr(batching, name)) != default:
                raise ConfigError(
                    f"batching.{name} {value!r} goes by the order of events, which means nothing to a model"
                    f" with ordered=False: set it to {default}"
                )
    return Batches(
        dataset,
        length=batching.length,
        batch_size=batching.batch_size,
        overlap=batching.overlap,
        buckets=batching.buckets or None,
        within=batching.within,
        seed=experiment.training.seed,
        multiple=layout.data * experiment.training.accumulate,
        process_index=part,
        process_count=parts,
    )


def _traced(model: Any, initial: functools.partial[State]) -> State:
    """The shapes of the state; tracing the model tells in one clear message of settings that do not fit."""
    try:
        return jax.eval_shape(initial)
    except (ValueError, ZeroDivisionError, NameInUseError) as error:
        name = type(model).__name__
        raise ConfigError(f"model {name} cannot be built with these settings: {error}") from error


def check_query(model: Any, dataset: Dataset) -> None:
    """Raises ConfigError where a model does not say what it reads of the request, or the data lack it."""
    known = getattr(model, "known", None)
    if not isinstance(known, tuple):
        raise ConfigError(
            f"model {type(model).__name__} declares no `known`: give it a tuple of the"
            " query fields that it may read, () for none"
        )
    there = ["time", *(["place"] if dataset.schema.place else [])]
    there += [f.name for f in dataset.schema.select("event", "categorical")]
    if unknown := [name for name in known if name not in there]:
        raise ConfigError(f"the model asks to know {unknown} of the request; these data have {there}")
