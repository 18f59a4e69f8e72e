"""Ranking: given candidates, what the user will do with each of them; several tasks at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import FIRST, Events, Query, Schema
from stjax.nn.checks import check_counts
from stjax.nn.dropout import Dropout
from stjax.nn.layers import Dense, LayerNorm
from stjax.nn.precision import compute
from stjax.ops import sequence
from stjax.ops.product import product as einsum
from stjax.ops.repeats import repeats


@dataclass(frozen=True)
class Task:
    """One thing to predict of an event with a candidate: clicked, bought, rating.

    Its labels are a field of the event itself, which must not reach the request: no task's field may be
    among the known query fields.
    """

    name: str
    """Of its logits, losses and parameters."""
    field: str
    """An event field: numeric, or categorical for binary tasks."""
    kind: Literal["binary", "regression"] = "binary"
    """Binary predicts a logit, regression a value in the unit of its field."""
    threshold: float | None = None
    """Binary, of a numeric field: positive from this value on."""
    positive: tuple[int, ...] = ()
    """Binary, of a categorical field: the ids that are positive."""
    weight: float = 1.0
    """Of its loss beside the others'."""
    mean: float | None = None
    """Where predictions start: the mean label, or the share of positives. None: 0, or a half."""
    scale: float = 1.0
    """Regression: the standard deviation of labels; losses are of (label - prediction) / scale."""
    huber: float = math.inf
    """Regression: from how many scales on errors count linearly; infinite for plain squares."""

    def __post_init__(self) -> None:
        for wrong, why in (
            (self.kind not in ("binary", "regression"), f"kind={self.kind!r}: choose binary or regression"),
            (self.scale <= 0, f"scale={self.scale} must be above 0"),
            (self.huber <= 0, f"huber={self.huber} must be above 0"),
            (self.kind == "binary" and not 0 < self.start < 1, f"mean={self.mean} must lie between 0 and 1"),
        ):
            if wrong:
                raise ValueError(f"task {self.name!r}: {why}")

    @property
    def start(self) -> float:
        """The mean, or what stands for it."""
        if self.mean is not None:
            return self.mean
        return 0.5 if self.kind == "binary" else 0.0

    def labels(self, target: Events, schema: Schema) -> tuple[jax.Array, jax.Array]:
        """Labels, float32, and which are known, both of the events' leading shape; 0 where unknown.

        Raises ValueError where the schema has no such event field, or the task does not fit its kind.
        """
        numeric, categorical = (
            [f.name for f in schema.select("event", kind)] for kind in ("numeric", "categorical")
        )
        if self.field in numeric:
            return self._of_numbers(target.numeric[self.field])
        if self.field in categorical:
            return self._of_ids(target.categorical[self.field], schema[self.field].size)
        raise ValueError(
            f"task {self.name!r}: no event field {self.field!r}; there are numeric {numeric} and "
            f"categorical {categorical}"
        )

    def _of_numbers(self, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        known = ~jnp.isnan(value)
        value = jnp.where(known, value, 0.0)
        if self.kind == "regression":
            return value, known
        if self.threshold is None:
            raise ValueError(f"task {self.name!r}: {self.field!r} is numeric, a binary task needs threshold")
        return (known & (value >= self.threshold)).astype(jnp.float32), known

    def _of_ids(self, value: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        if self.kind == "regression":
            raise ValueError(f"task {self.name!r}: {self.field!r} is categorical, only binary tasks fit")
        if not self.positive or not all(FIRST <= i < size for i in self.positive):
            raise ValueError(
                f"task {self.name!r}: positive={self.positive} must name ids of {self.field!r}, "
                f"{FIRST} to {size - 1}"
            )
        label = jnp.zeros(value.shape, bool)
        for i in self.positive:
            label |= value == i
        return label.astype(jnp.float32), value >= FIRST


@dataclass(frozen=True)
class Choice:
    """Whether a candidate is what the user takes now: the next item is, items drawn uniformly are not.

    Its logits are of the odds among one taken item and `ratio` others.
    """

    name: str = "chosen"
    """Of its logits, losses and parameters."""
    negatives: int = 8
    """Items drawn for each target in training."""
    ratio: float = 2.0
    """How many not taken items stand beside each taken one where probabilities are to hold."""
    weight: float = 1.0
    """Of its loss beside the others'."""

    kind: ClassVar[str] = "binary"

    def __post_init__(self) -> None:
        for name in ("negatives", "ratio"):
            if getattr(self, name) <= 0:
                raise ValueError(f"task {self.name!r}: {name}={getattr(self, name)} must be above 0")

    @property
    def start(self) -> float:
        """The share of taken items."""
        return 1 / (1 + self.ratio)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Memory:
    """The last events as the head looks for candidates among them: (B, M) arrays, oldest first.

    categorical: the fields that the query knows.
    """

    item: jax.Array
    valid: jax.Array
    categorical: Mapping[str, jax.Array]

    @classmethod
    def of(cls, events: Events, known: Sequence[str]) -> Memory:
        """Of whole sequences (B, L) or of one event a user (B,)."""
        fields = {name: x for name, x in events.categorical.items() if name in known}
        return cls(events.item, events.valid, fields)

    def read(self, event: Memory) -> Memory:
        """With one more event of each user, (B,), where it is valid; the oldest is forgotten."""
        if self.item.shape[1] == 0:
            return self
        return jax.tree.map(lambda m, new: sequence.push(m, new, event.valid), self, event)


class Ranking(nn.Module):
    """What becomes of each candidate, for one or several tasks, from a request and item vectors.

    Request u and item v meet as [u, v, (A u) * (B v)]. Then a bottom that all tasks share and a tower for
    each; with several `experts`, each task mixes their outputs by a gate of its own (MMoE, Ma et al., KDD
    2018).

    hidden: width of every layer. dropout: of what the towers read, in training.
    memory: how many of the last events are searched for each candidate: how often it was there, in all and
      with each known field of the query as it is now (`stjax.ops.repeats`); 0 for none.
    Raises ValueError for no tasks, two of one name, two choices, or experts below 1.
    """

    tasks: tuple[Task | Choice, ...]
    hidden: int = 64
    experts: int = 1
    dropout: float = 0.0
    memory: int = 0

    @property
    def choice(self) -> Choice | None:
        """The task that draws candidates of its own."""
        return next((task for task in self.tasks if isinstance(task, Choice)), None)

    @nn.compact
    def __call__(
        self, u: jax.Array, candidates: jax.Array, train: bool = False, repeated: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """u: (..., D) requests. candidates: (..., C, D') item vectors. repeated: (..., C, F), see `repeated`.
        Returns {task: (..., C)}, logits of binary tasks and values of regressions, in the unit of their
        field."""
        self._check()
        shape = candidates.shape[:-1]
        v = LayerNorm(name="norm_item")(candidates.reshape(-1, candidates.shape[-1]))
        u = LayerNorm(name="norm_request")(u.reshape(-1, u.shape[-1]))

        def each(x: jax.Array) -> jax.Array:
            # Repeated in float32, so that the gradient adds up in it.
            return jnp.repeat(x.astype(jnp.float32), shape[-1], axis=0).astype(x.dtype)

        dense, hidden = Dense, self.hidden
        count = partial(Dense, float32="product")
        product = each(dense(hidden, name="factor_request")(u)) * dense(hidden, name="factor_item")(v)
        # A dense layer of the concatenation: what depends on the request alone is computed once for all C.
        x = each(dense(hidden, name="request")(u)) + dense(hidden, use_bias=False, name="item")(v)
        x = x + dense(hidden, use_bias=False, name="product")(product)
        if repeated is not None:
            x = x + compute(count(hidden, use_bias=False, name="repeats")(repeated.reshape(len(x), -1)))
        x = nn.silu(x)
        experts = nn.silu(dense(self.experts * hidden, name="experts")(x))
        experts = experts.reshape(-1, self.experts, hidden)
        drop = Dropout(self.dropout, name="drop")
        out = {}
        for task in self.tasks:
            mixed = experts[:, 0]
            if self.experts > 1:
                gate = nn.softmax(dense(self.experts, float32="result", name=f"gate_{task.name}")(x))
                mixed = compute(einsum("ne,neh->nh", gate, experts, experts.dtype))
            tower = nn.silu(dense(hidden, name=f"tower_{task.name}")(drop(mixed, train)))
            start = math.log(task.start / (1 - task.start)) if task.kind == "binary" else 0.0
            bias = nn.initializers.constant(start)
            y = dense(1, bias_init=bias, float32="result", name=f"output_{task.name}")(tower).reshape(shape)
            if isinstance(task, Task) and task.kind == "regression":
                y = task.start + task.scale * y
            out[task.name] = y
        return out

    def loss(
        self,
        u: jax.Array,
        items: jax.Array,
        target: Events,
        weight: jax.Array,
        schema: Schema,
        train: bool = False,
        candidates: jax.Array | None = None,
        repeated: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Sum over positions and tasks of weight * task.weight * loss where the label is known.

        u: (B, L, D) requests. items: (B, L, C, D') vectors of the target's item and of what `candidates` has
        drawn beside it. target: (B, L) events, read for their labels only. weight: (B, L). candidates: (B, L,
        C), the ids of the items, where a task is a `Choice`. repeated: as in a call.
        Scalars: for each task the sums of weight * loss and of the weights of known labels, "<task>_loss" and
        "<task>_known"; their ratio is the mean loss of what was labelled. Binary tasks lose the
        cross-entropy, regressions half the squared error in units of scale, linear beyond `huber` (Huber,
        Annals of Mathematical Statistics, 1964). A choice loses the mean cross-entropy of one taken item and
        `ratio` others, for which the drawn ones stand.
        """
        predicted = self(u, items, train, repeated)
        total, sums = jnp.float32(0), {}
        for task in self.tasks:
            y = predicted[task.name].astype(jnp.float32)
            if isinstance(task, Choice):
                counted, each = weight, _choice_loss(task, y, candidates)
            else:
                label, known = task.labels(target, schema)
                counted, each = jnp.where(known, weight, 0.0), _loss(task, y[..., 0], label)
            loss = jnp.where(counted > 0, counted * each, 0.0).sum()
            total += task.weight * loss
            sums |= {f"{task.name}_loss": loss, f"{task.name}_known": counted.sum()}
        return total, sums

    def candidates(self, target: jax.Array, items: int, train: bool) -> jax.Array:
        """The target's item and, for a choice, items drawn uniformly: ids (B, L) to (B, L, C).

        items: V. Draws come from the `dropout` stream; outside training they are always the same.
        """
        if self.choice is None:
            return target[..., None]
        key = self.make_rng("dropout") if train else jax.random.key(0)
        drawn = jax.random.randint(key, (*target.shape, self.choice.negatives), FIRST, items)
        return jnp.concatenate([target[..., None], drawn], axis=-1)

    def repeated(
        self, candidates: jax.Array, query: Query, past: Memory, readable: jax.Array
    ) -> jax.Array | None:
        """Features of how often candidates (B, Q, C) were in the past (B, L); None with memory=0.

        query: (B, Q). readable: bool (B, Q, L).
        """
        if self.memory == 0:
            return None
        contexts = [(query.categorical[name], past.categorical[name]) for name in sorted(query.categorical)]
        return repeats(candidates, past.item, readable, contexts)

    def _check(self) -> None:
        if sum(isinstance(task, Choice) for task in self.tasks) > 1:
            raise ValueError("tasks: one Choice at most")
        check_counts(self, "hidden", "experts")
        check_counts(self, "memory", least=0)
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"tasks: {names} must be at least one, each with a name of its own")


def _choice_loss(task: Choice, y: jax.Array, candidates: jax.Array | None) -> jax.Array:
    """Mean cross-entropy of one taken item and `ratio` others: (B, L, 1 + K) logits to (B, L)."""
    if candidates is None:
        raise ValueError(f"task {task.name!r}: a choice needs the ids of the candidates")
    other = (candidates[..., 1:] != candidates[..., :1]).astype(y.dtype)  # a draw may be the target itself
    share = other / jnp.maximum(other.sum(axis=-1, keepdims=True), 1.0)
    drawn = (share * nn.softplus(y[..., 1:])).sum(axis=-1)
    return (nn.softplus(-y[..., 0]) + task.ratio * drawn) / (1 + task.ratio)


def _loss(task: Task, y: jax.Array, label: jax.Array) -> jax.Array:
    if task.kind == "binary":
        return nn.softplus(y) - label * y
    error = jnp.abs(label - y) / task.scale
    square = jnp.minimum(error, task.huber)
    return square * (error - 0.5 * square)
