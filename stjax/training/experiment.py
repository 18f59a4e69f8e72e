"""Experiment: everything that decides a run, as one frozen object that a config file builds.

The model is the Linen module itself (a frozen dataclass), so no setting exists twice. Values are checked
when the object is built: a run never starts with settings that cannot work.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Literal

import tyro
from flax import linen as nn

from stjax.errors import ConfigError
from stjax.metrics import metric_names


def _section(settings: object) -> str:
    return type(settings).__name__.lower()


def _at_least(settings: object, bound: float, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not bound <= value < math.inf:  # also catches NaN
            raise ConfigError(f"{_section(settings)}.{name} {value} must be at least {bound} and finite")


def _buckets(settings: Any) -> None:
    if not all(1 <= size < settings.length for size in settings.buckets):
        name = _section(settings)
        raise ConfigError(
            f"{name}.buckets {settings.buckets} must lie between 1 and {name}.length {settings.length}"
        )


def _one_of(settings: object, name: str, allowed: tuple[str, ...]) -> None:
    value = getattr(settings, name)
    if value not in allowed:
        raise ConfigError(f"{_section(settings)}.{name} {value!r} must be one of {', '.join(allowed)}")


@dataclasses.dataclass(frozen=True)
class Batching:
    """How user histories become batches of one shape."""

    length: int = 128
    """Events that are read per training sequence."""
    overlap: int = 0
    """Events that a window repeats of the one before; they are read again but predicted once."""
    batch_size: int = 64
    """Sequences of full length per step, over all processes."""
    buckets: tuple[int, ...] = ()
    """Lengths below `length` to which shorter histories are padded, with more sequences per step."""
    within: str | None = None
    """A categorical field of the events, such as trip or session: only events that continue the one before
    are predicted, as where the targets do; all are read."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "length", "batch_size")
        _buckets(self)
        _at_least(self, 0, "overlap")
        if self.overlap >= self.length:
            raise ConfigError(f"batching.overlap {self.overlap} must be below batching.length {self.length}")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) after clipping by the global norm."""

    learning_rate: float = 1e-3
    """Peak rate, reached after the warm-up."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """After the warm-up: hold the rate, or let it fall to zero at the last step."""
    warmup_steps: int = 100
    """Steps of linear rise to the peak rate."""
    weight_decay: float = 1e-2
    """Decoupled decay of matrices; never of embedding tables, norms and biases."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; 0: no clipping."""
    tables: Literal["adamw", "lazy", "adagrad"] = "adamw"
    """Tables of items and users: updated as all else; or only the rows that a batch reads, by Adam whose
    moments rest meanwhile, or by Adagrad with one sum a row. Both need an objective that draws its items."""
    tables_rate: float = 0.0
    """Peak learning rate of those tables; 0: that of all else."""
    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.999
    """Decay of the second moment."""

    def __post_init__(self) -> None:
        _at_least(self, 0, "warmup_steps", "weight_decay", "clip_norm", "tables_rate", "b1", "b2")
        _one_of(self, "tables", ("adamw", "lazy", "adagrad"))
        _one_of(self, "schedule", ("constant", "cosine"))
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"optimizer.learning_rate {self.learning_rate} must be above 0 and finite")
        if self.tables_rate and self.tables == "adamw":
            raise ConfigError(
                f"optimizer.tables_rate {self.tables_rate} is of optimizer.tables lazy or adagrad: choose one"
                " of them, or set it to 0"
            )
        for name in ("b1", "b2"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"optimizer.{name} {getattr(self, name)} must be below 1")


@dataclasses.dataclass(frozen=True)
class Training:
    """How long to train, how often to look and save, and when to stop."""

    epochs: int = 10
    """Passes over the training windows."""
    eval_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    patience: int = 0
    """Validations without improvement after which training stops; 0: never."""
    checkpoint_every: int = 500
    """Steps between checkpoints, besides the one at every validation."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    accumulate: int = 1
    """Parts of a batch whose gradients are summed before the update: the memory for activations is that of
    one part, filled up to whole sequences. InBatch then has the negatives of one part."""
    donate: bool = True
    """Whether a step writes its state where the old one lay. Without it both lie in memory during a step,
    and code of yours that calls the step may still read the old one."""
    refit: Literal["none", "validation", "test"] = "none"
    """Train on the validation part too, or on every event of the log (for deployment; nothing is measured
    then), once a run without it has told how many epochs are best: the last step is kept."""
    seed: int = 0
    """Of initial parameters, order of batches and dropout."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "epochs", "eval_every", "checkpoint_every", "log_every", "accumulate")
        _at_least(self, 0, "patience", "seed")
        _one_of(self, "refit", ("none", "validation", "test"))
        if self.patience and self.refit != "none":
            raise ConfigError(
                f"training.patience {self.patience} stops by validation, on which training.refit"
                f" {self.refit!r} trains: set training.epochs to the best epoch of a run without refit, and"
                " training.patience 0"
            )
        if self.seed >= 2**32:
            raise ConfigError(f"training.seed {self.seed} must be below 2^32, the range of JAX's keys")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured on validation and test targets."""

    ks: tuple[int, ...] = (1, 5, 10)
    """Cut-offs of Acc@1, HR@k and NDCG@k."""
    filter_seen: bool = False
    """Take items of the user's history out of the ranking."""
    select: str = "MRR"
    """The metric by which the best checkpoint is chosen, on validation."""
    length: int = 128
    """Latest events of a history that the model reads."""
    buckets: tuple[int, ...] = ()
    """Lengths below `length` to which shorter histories are padded."""
    block: int = 128
    """Targets that are scored at a time."""
    negatives: int = 0
    """Above 0, AUC and log loss of each target beside so many items that were not chosen, drawn once, take
    the place of full ranking; the model needs a ranking head with a `Choice`, whose `ratio` should be this
    number, or the log loss is of other odds than the model has learnt."""
    validation_targets: int = 0
    """Targets of a validation, spread evenly over the part; 0: all. The test always uses all."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "length", "block")
        _at_least(self, 0, "validation_targets", "negatives")
        _buckets(self)
        if not self.ks or min(self.ks) < 1:
            raise ConfigError(f"evaluation.ks {self.ks} must hold at least one number, each from 1")
        _one_of(self, "select", ("AUC",) if self.negatives else metric_names(self.ks))
        if self.negatives and self.filter_seen:
            raise ConfigError(
                f"evaluation.filter_seen True takes items out of a ranking, and there is none with"
                f" evaluation.negatives {self.negatives}: set one of them to its default"
            )


AXES = ("data", "model")
Rules = tuple[tuple[str, tuple[str | tuple[str, ...] | None, ...]], ...]
RULES: Rules = (
    (r"(.*/)?(items|users)/(table|embedding)", ("model", None)),
    (r"head/bias/bias", ("model",)),
)


@dataclasses.dataclass(frozen=True)
class Sharding:
    """How arrays lie on the devices; one device needs none of it. Results do not depend on it."""

    data: int = 0
    """Devices that share the sequences of a batch; 0: all that `model` leaves."""
    model: int = 1
    """Devices that share the rows of the tables that `rules` name."""
    rows_multiple: int = 1
    """Tables of items and users get empty rows up to a multiple of it, so that they can be shared."""
    fsdp: bool = False
    """Whether `data` also shares the parameters, and with them the moments (FSDP; Zhao et al., 2023)."""
    fsdp_size: int = 65_536
    """Numbers that a parameter must have for that; smaller ones stay whole."""
    rules: tyro.conf.Suppress[Rules] = RULES
    """Patterns of whole parameter paths, and the axis of each leading dimension; the first match decides.
    Several axes, ("data", "model"), share one dimension together; so shared, it stays so while it is used."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "model", "rows_multiple", "fsdp_size")
        _at_least(self, 0, "data")


def is_baseline(model: Any) -> bool:
    """Whether it is fitted to a dataset rather than trained by gradient steps."""
    return callable(getattr(model, "fit", None))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A data source, a protocol, a model, and how it is trained and evaluated.

    source: a frozen dataclass with `open() -> EventStore`.
    protocol: a frozen dataclass, `protocol(store) -> Split`.
    model: a Linen module with methods `loss` and `scores` and a field `known`, the names of what the
      query tells of the moment of the request; or a baseline (`stjax.baselines`), which is fitted in one
      go: then batching, optimizer and training have no effect.
    baselines: with what the result is compared besides the counting baselines, e.g. `IALS()`; they know as
      much of the request as the model does.
    """

    name: str
    source: Any
    protocol: Any
    model: Any
    batching: Batching = Batching()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    baselines: tuple[Any, ...] = ()
    sharding: Sharding = Sharding()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w][\w.+-]*", self.name):
            raise ConfigError(f"name {self.name!r} becomes a folder: use letters, digits, '_', '-', '.', '+'")
        for field, kind, sort in (
            (self.batching, Batching, "batching"),
            (self.optimizer, Optimizer, "optimizer"),
            (self.training, Training, "training"),
            (self.evaluation, Evaluation, "evaluation"),
            (self.sharding, Sharding, "sharding"),
        ):
            if not isinstance(field, kind):
                raise ConfigError(f"{sort} must be a {kind.__name__}, not {type(field).__name__}")
        if not isinstance(self.model, nn.Module) and not is_baseline(self.model):
            kind = type(self.model).__name__
            raise ConfigError(f"model must be a Module or a baseline (stjax.baselines), not {kind}")
        if wrong := [b for b in self.baselines if not is_baseline(b)]:
            raise ConfigError(f"baselines must have fit(dataset) (stjax.baselines), not {wrong[0]!r}")
        if not callable(getattr(self.source, "open", None)):
            raise ConfigError(f"source {self.source!r} has no open(): see stjax/data/sources.py")
        if not callable(self.protocol):
            raise ConfigError(f"protocol {self.protocol!r} is not callable: see stjax/data/protocols.py")
