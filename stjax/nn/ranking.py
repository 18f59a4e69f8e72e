"""Ranking: given candidates, what the user will do with each of them; several tasks at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import FIRST, Events, Schema
from stjax.nn.dropout import Dropout


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


class Ranking(nn.Module):
    """What becomes of each candidate, for one or several tasks, from a request and item vectors.

    Request u and item v meet as [u, v, (A u) * (B v)]. Then a bottom that all tasks share and a tower for
    each; with several `experts`, each task mixes their outputs by a gate of its own (MMoE, Ma et al., KDD
    2018).

    hidden: width of every layer. dropout: of what the towers read, in training.
    Raises ValueError for no tasks, two of one name, or experts below 1.
    """

    tasks: tuple[Task, ...]
    hidden: int = 64
    experts: int = 1
    dropout: float = 0.0

    @nn.compact
    def __call__(self, u: jax.Array, candidates: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """u: (..., D) requests. candidates: (..., C, D') item vectors. Returns {task: (..., C)}, logits of
        binary tasks and values of regressions, in the unit of their field."""
        self._check()
        shape = candidates.shape[:-1]
        v = nn.LayerNorm(name="norm_item")(candidates.reshape(-1, candidates.shape[-1]))
        u = nn.LayerNorm(name="norm_request")(u.reshape(-1, u.shape[-1]))

        def each(x: jax.Array) -> jax.Array:
            return jnp.repeat(x, shape[-1], axis=0)

        dense, hidden = nn.Dense, self.hidden
        product = each(dense(hidden, name="factor_request")(u)) * dense(hidden, name="factor_item")(v)
        # A dense layer of the concatenation: what depends on the request alone is computed once for all C.
        x = each(dense(hidden, name="request")(u)) + dense(hidden, use_bias=False, name="item")(v)
        x = nn.silu(x + dense(hidden, use_bias=False, name="product")(product))
        experts = nn.silu(dense(self.experts * hidden, name="experts")(x))
        experts = experts.reshape(-1, self.experts, hidden)
        drop = Dropout(self.dropout, name="drop")
        out = {}
        for task in self.tasks:
            mixed = experts[:, 0]
            if self.experts > 1:
                gate = nn.softmax(dense(self.experts, name=f"gate_{task.name}")(x))
                mixed = jnp.einsum("ne,neh->nh", gate, experts)
            tower = nn.silu(dense(hidden, name=f"tower_{task.name}")(drop(mixed, train)))
            start = math.log(task.start / (1 - task.start)) if task.kind == "binary" else 0.0
            bias = nn.initializers.constant(start)
            y = dense(1, bias_init=bias, name=f"output_{task.name}")(tower).reshape(shape)
            out[task.name] = y if task.kind == "binary" else task.start + task.scale * y
        return out

    def loss(
        self,
        u: jax.Array,
        items: jax.Array,
        target: Events,
        weight: jax.Array,
        schema: Schema,
        train: bool = False,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Sum over positions and tasks of weight * task.weight * loss where the label is known.

        u: (B, L, D) requests. items: (B, L, D') vectors of the target's items. target: (B, L) events, read
        for their labels only. weight: (B, L).
        Scalars: for each task the sums of weight * loss and of the weights of known labels, "<task>_loss" and
        "<task>_known"; their ratio is the mean loss of what was labelled. Binary tasks lose the
        cross-entropy, regressions half the squared error in units of scale, linear beyond `huber` (Huber,
        Annals of Mathematical Statistics, 1964).
        """
        predicted = self(u, items[..., None, :], train)
        total, sums = jnp.float32(0), {}
        for task in self.tasks:
            label, known = task.labels(target, schema)
            y = predicted[task.name][..., 0].astype(jnp.float32)
            counted = jnp.where(known, weight, 0.0)
            loss = jnp.where(counted > 0, counted * _loss(task, y, label), 0.0).sum()
            total += task.weight * loss
            sums |= {f"{task.name}_loss": loss, f"{task.name}_known": counted.sum()}
        return total, sums

    def _check(self) -> None:
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"tasks: {names} must be at least one, each with a name of its own")
        if self.experts < 1:
            raise ValueError(f"experts={self.experts} must be at least 1; 1 is one bottom for all tasks")


def _loss(task: Task, y: jax.Array, label: jax.Array) -> jax.Array:
    if task.kind == "binary":
        return nn.softplus(y) - label * y
    error = jnp.abs(label - y) / task.scale
    square = jnp.minimum(error, task.huber)
    return square * (error - 0.5 * square)
