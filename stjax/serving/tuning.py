"""Online learning: gradient steps on recent events, beside a serving engine, and whether they help."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stjax.errors import ConfigError
from stjax.events import FIRST, Batch, Catalogue, Events, Query
from stjax.serving.codec import Codec

LENGTH, ROWS = 64, 16  # events of a sequence, sequences of a batch: one compiled shape


@dataclass(frozen=True)
class Tuned:
    """What came of gradient steps. swapped: whether the new parameters answer now. before, after: mean
    reciprocal rank of the held-out targets. held_out, trained: numbers of targets. version: that answers."""

    swapped: bool
    before: float
    after: float
    held_out: int
    trained: int
    version: str


@dataclass(frozen=True)
class Recent:
    """Recent events as sequences (N, LENGTH + 1), which of their targets train, and those held out.

    weight: float32 (N, LENGTH). row, position: int64 (Q,), held-out targets: events[row, position + 1].
    """

    events: Events
    weight: np.ndarray
    row: np.ndarray
    position: np.ndarray

    @classmethod
    def of(
        cls, by_user: Mapping[str, Sequence[np.ndarray]], codec: Codec, since: int, share: float
    ) -> Recent:
        """Each user's records in the order of time; the last `share` of the targets after `since`, over all
        users, are held out. Long histories are cut into sequences that overlap by half, without loss."""
        width, half = LENGTH + 1, LENGTH // 2
        rows, targets = [], []
        for records in by_user.values():
            first = 0
            while len(records) - first >= 2:
                part = list(records[first : first + width])
                begin = 1 if first == 0 else half + 1  # what the sequence before has not asked
                targets += [
                    (int(record["time"]), len(rows), k - 1)
                    for k, record in enumerate(part)
                    if k >= begin and record["time"] >= since and record["item"] >= FIRST
                ]
                rows.append(part)
                if first + width >= len(records):
                    break
                first += half
        if len(targets) < 2:
            raise ConfigError(
                f"{len(targets)} of the events have one before them and a known item: nothing to learn from;"
                " give more, or an earlier `since`"
            )
        targets.sort()
        stop = min(len(targets) - 1, max(1, round(len(targets) * (1 - share))))
        packed = np.full((len(rows), width), codec.missing, codec.row)
        for own, part in zip(packed, rows, strict=True):
            for k, record in enumerate(part):
                own[k] = record
        valid = np.arange(width) < np.asarray([[len(part)] for part in rows])
        weight = np.zeros((len(rows), LENGTH), np.float32)
        for _, row, position in targets[:stop]:
            weight[row, position] = 1.0
        held = np.asarray([(row, position) for _, row, position in targets[stop:]], np.int64)
        return cls(codec.events(packed, valid), weight, held[:, 0], held[:, 1])

    def batches(self, order: np.ndarray) -> list[Batch]:
        """Sequences with something to learn, in batches of one shape."""
        some = order[self.weight[order].any(axis=1)]
        found = []
        for at in range(0, len(some), ROWS):
            rows = some[at : at + ROWS]
            full = np.resize(rows, ROWS)
            weight = np.where(np.arange(ROWS)[:, None] < len(rows), self.weight[full], 0.0)
            found.append(Batch(self.events[full], weight.astype(np.float32)))
        return found

    def ranks(self, model: Any, params: Any, catalogue: Catalogue) -> np.ndarray:
        """The rank of each held-out target among all items, ties and what is no number against it: (Q,)."""
        found = []
        for at in range(0, len(self.row), ROWS):
            index = np.resize(np.arange(at, min(at + ROWS, len(self.row))), ROWS)
            row, position = self.row[index], self.position[index]
            history = self.events[row][:, :-1]
            history = history.replace(valid=history.valid & (np.arange(LENGTH) <= position[:, None]))
            target = self.events[row, position + 1]
            query = Query.of(target, tuple(model.known))
            ranks = _ranks(model, params, history, query, target.item, catalogue)
            found.append(np.asarray(ranks)[: min(ROWS, len(self.row) - at)])
        return np.concatenate(found)


def trained(
    model: Any,
    params: Any,
    catalogue: Catalogue,
    recent: Recent,
    groups: Sequence[str],
    learning_rate: float,
    epochs: int,
    seed: int,
) -> Any:
    """Parameters after `epochs` passes with Adam; only those change whose path begins with one of `groups`.

    Raises ConfigError for a group that the model does not have.
    """
    paths = jax.tree_util.tree_map_with_path(lambda path, _: _named(path), params)
    names = jax.tree.leaves(paths)
    for group in groups:
        if not any(_within(name, group) for name in names):
            tops = sorted({name.split("/")[0] for name in names})
            raise ConfigError(f"groups: no parameter lies under {group!r}; the model has {tops}")
    chosen = jax.tree.map(lambda name: any(_within(name, group) for group in groups), paths)
    optimizer = optax.masked(optax.adam(learning_rate), chosen)
    state, random = optimizer.init(params), np.random.default_rng(seed)
    mask = jax.tree.map(jnp.float32, chosen)
    step = 0
    for _ in range(epochs):
        for batch in recent.batches(random.permutation(len(recent.weight))):
            key = jax.random.fold_in(jax.random.key(seed), step)
            gradient = _gradient(model, params, batch, catalogue, key)
            updates, state = optimizer.update(gradient, state, params)
            params = jax.tree.map(lambda p, u, m: p + m * u, params, updates, mask)
            step += 1
    return params


def finite(params: Any) -> bool:
    """Whether all parameters are numbers."""
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params))


def _named(path: Any) -> str:
    return "/".join(str(getattr(key, "key", key)) for key in path)


def _within(name: str, group: str) -> bool:
    return name == group or name.startswith(f"{group}/")


@functools.partial(jax.jit, static_argnums=0)
def _gradient(model: Any, params: Any, batch: Batch, catalogue: Catalogue, key: jax.Array) -> Any:
    def loss(params: Any) -> Any:
        rngs = {"dropout": key}
        return model.apply({"params": params}, batch, catalogue, train=True, method="loss", rngs=rngs)[0]

    return jax.grad(loss)(params)


@functools.partial(jax.jit, static_argnums=0)
def _ranks(
    model: Any, params: Any, history: Events, query: Query, target: jax.Array, catalogue: Catalogue
) -> jax.Array:
    scores = model.apply({"params": params}, history, query, catalogue, method="scores")
    own = jnp.take_along_axis(scores, target[:, None], axis=1)
    return (~(scores < own)).sum(axis=1)  # of NaN the last, not rank 0
