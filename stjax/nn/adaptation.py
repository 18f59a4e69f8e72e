"""Meta-learning: parameters from which a few events of a new user, or of a segment, adapt the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from stjax.events import FIRST, Batch, Catalogue, Events, Query
from stjax.nn.checks import check_counts
from stjax.nn.objectives import InBatch
from stjax.nn.recommender import Recommender

Params = Any  # nested dicts of arrays
FUSION = ("fusion",)


def adapt(
    loss: Callable[[Params, Any], jax.Array],
    params: Params,
    support: Any,
    *,
    chosen: tuple[str, ...] = FUSION,
    steps: int = 1,
    rate: float = 0.1,
    first_order: bool = False,
) -> Params:
    """All parameters, the chosen ones after `steps` of gradient descent on loss(params, support).

    A pure function, differentiable itself: the inner loop of MAML (Finn et al., ICML 2017). With
    `first_order`, gradients through it take the inner gradients as constants.

    support: what the loss reads: the first events of one user, or a batch of events of several users, which
    adapts to their segment (a city, a kind of device). chosen: paths of parameters, as in `pick`.

        def loss(params, batch):
            return model.apply({"params": params}, batch, catalogue, method="loss")[0]

        for_the_segment = adapt(loss, params, batch_of_its_users, steps=5)
    """

    def step(part: Params, _: None) -> tuple[Params, None]:
        gradient = jax.grad(lambda part: loss(put(params, part), support))(part)
        if first_order:
            gradient = jax.lax.stop_gradient(gradient)
        return jax.tree.map(lambda p, g: p - rate * g, part, gradient), None

    part, _ = jax.lax.scan(step, pick(params, chosen), length=steps, unroll=steps == 1)
    return put(params, part)


def pick(params: Params, chosen: tuple[str, ...]) -> Params:
    """The parameters at and below some paths ("fusion", "fusion/norm"); ValueError where there are none."""
    flat, picked = flatten_dict(params), {}
    for name in chosen:
        prefix = tuple(name.split("/"))
        below = {path: x for path, x in flat.items() if path[: len(prefix)] == prefix}
        if not below:
            raise ValueError(f"chosen: no parameters at {name!r}; the model has {sorted(params)}")
        picked |= below
    return unflatten_dict(picked)


def put(params: Params, part: Params) -> Params:
    """All parameters, those of the part replaced."""
    return unflatten_dict({**flatten_dict(params), **flatten_dict(part)})


class MetaLearned(nn.Module):
    """A Recommender that adapts to each user from the user's first events (MAML, Finn et al., ICML 2017).

    The loss adapts the chosen parameters to the first `support` events of each row, then counts what the
    rest of the row loses under them; training so finds parameters from which few events adapt well. Rows that
    end before that teach nothing. `scores` adapts in the same way; a history that is shorter than `support`
    is answered without.

    In real time: once a user has `support` events, take `adapted` of them, keep it (it has the size of the
    chosen parameters; choose fewer to keep less), let the model `read` these events again with
    `put(params, adapted)` from an empty state, and go on with `model.step` and these parameters. The answers
    are those of `scores`.

    The inner loop runs as at serving time, without dropout and over the whole catalogue, and descends all
    that the model's loss holds, auxiliary targets and ranking included. Each row is a batch of its own, so
    that a sampled objective draws for each user; `InBatch`, whose negatives are other users' targets, is
    refused. Memory: a gradient of the item table for every row, (B, V, D), and in second order the
    probabilities of the support's targets, (B, support, V); for large catalogues take small batches.

    support: events, at least 2, ValueError otherwise; their support - 1 transitions adapt. steps, rate: of
    gradient descent, at least one step. chosen: paths of parameters of the model.
    """

    model: Recommender
    support: int = 8
    steps: int = 1
    rate: float = 0.1
    first_order: bool = False
    chosen: tuple[str, ...] = FUSION

    def setup(self) -> None:
        check_counts(self, "support", least=2)  # a first event and one to predict
        check_counts(self, "steps")

    @property
    def known(self) -> tuple[str, ...]:
        """The query fields that the model may read."""
        return self.model.known

    def loss(
        self, batch: Batch, catalogue: Catalogue, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean negative log-likelihood over the batch's weights after the support, and scalars to log."""
        if isinstance(self.model.head.objective, InBatch):
            raise ValueError("MetaLearned takes each user alone: choose another objective than InBatch")
        if self.is_initializing():
            return self.model.loss(batch, catalogue, train)
        model, variables = self.model.unbind()
        params = variables["params"]
        after = jnp.arange(batch.weight.shape[1]) >= self.support - 1
        batch = Batch(batch.events, jnp.where(after, batch.weight, 0.0))
        keys = jax.random.split(self.make_rng("dropout"), batch.weight.shape[0]) if train else None

        def of_row(part: Params, row: Batch, key: jax.Array | None) -> Any:
            rngs = None if key is None else {"dropout": key}
            variables = {"params": put(params, part)}
            loss, scalars = model.apply(variables, _one(row), catalogue, train, method="loss", rngs=rngs)
            # The model's loss is a mean over its one row: back to sums.
            return jax.tree.map(lambda x: x * jnp.maximum(row.weight.sum(), 1.0), (loss, scalars))

        parts = self._adapted(model, params, batch.events, catalogue)
        sums = jax.vmap(of_row)(parts, batch, keys)
        total = jnp.maximum(batch.weight.sum(), 1.0)
        return jax.tree.map(lambda x: x.sum() / total, sums)

    def scores(self, history: Events, query: Query, catalogue: Catalogue) -> jax.Array:
        """log p(item) after the whole history, adapted to its first events: (B, L) and (B,) to (B, V)."""
        model, variables = self.model.unbind()
        params = variables["params"]

        def of_row(part: Params, history: Events, query: Query) -> Any:
            variables = {"params": put(params, part)}
            return model.apply(variables, _one(history), _one(query), catalogue, method="scores")

        parts = self._adapted(model, params, history, catalogue)
        return jax.vmap(of_row)(parts, history, query)[:, 0]

    def adapted(self, events: Events, catalogue: Catalogue) -> Params:
        """The chosen parameters of each user, leaves (B, ...), from the first `support` of the events (B, L).

        Those of rows with fewer valid events are the model's own.
        """
        model, variables = self.model.unbind()
        return self._adapted(model, variables["params"], events, catalogue)

    def _adapted(self, model: Recommender, params: Params, events: Events, catalogue: Catalogue) -> Params:
        batch, length = events.item.shape
        if length < self.support:
            return jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape)), pick(params, self.chosen))
        events = events[:, : self.support]  # what comes later cannot matter here, so it costs nothing
        enough = events.valid.sum(axis=1, keepdims=True) >= self.support
        counts = enough & events.valid[:, 1:] & (events.item[:, 1:] >= FIRST)

        def loss(params: Params, row: Batch) -> Any:
            return model.apply({"params": params}, _one(row), catalogue, method="loss")[0]

        def of_row(row: Batch) -> Params:
            done = adapt(
                loss,
                params,
                row,
                chosen=self.chosen,
                steps=self.steps,
                rate=self.rate,
                first_order=self.first_order,
            )
            return pick(done, self.chosen)

        return jax.vmap(of_row)(Batch(events, counts.astype(jnp.float32)))


def _one(row: Any) -> Any:
    """One row as a batch of one."""
    return jax.tree.map(lambda x: x[None], row)
