"""A run of seconds for tests: a made-up log, and a model of one table and one matrix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from stjax.data.protocols import LeaveOneOut
from stjax.data.store import EventStore
from stjax.events import Batch, Catalogue, Events, Query
from stjax.training import Batching, Evaluation, Experiment, Optimizer, Training
from tests.stores import make_store


@dataclass(frozen=True)
class TinyLog:
    """Users who walk in circles over the items, with a step out of line now and then."""

    folder: Path
    users: int = 41
    seed: int = 0

    def open(self) -> EventStore:
        """Make the store in `folder` the first time, then open it."""
        path = self.folder / f"tiny-{self.users}-{self.seed}"
        if path.exists():
            return EventStore.open(path)
        random = np.random.default_rng(self.seed)
        users, items, times = [], [], []
        for user in range(self.users):
            start = random.integers(23)
            for k in range(random.integers(5, 17)):
                users.append(user)
                items.append((start + k) % 23 if random.random() < 0.8 else random.integers(23))
                times.append(3600 * (len(times) + k))
        return make_store(path, users, [int(i) for i in items], times)


class Tanh(nn.Module):
    """A dense layer."""

    width: int = 11
    """Features that come out."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.tanh(nn.Dense(self.width)(x))


class TinyModel(nn.Module):
    """Predicts from the last item alone. It has what a model must have: known, loss and scores."""

    layer: Tanh = Tanh()
    dropout: float = 0.1
    known: tuple[str, ...] = ()

    @nn.compact
    def logits(self, item: jax.Array, catalogue: Catalogue, train: bool) -> jax.Array:
        schema = catalogue.schema
        table = nn.Embed(schema.item_rows, self.layer.width, name="items")
        h = self.layer(nn.Dropout(self.dropout, deterministic=not train)(table(item)))
        return table.attend(h)[..., : schema.items]

    def loss(
        self, batch: Batch, catalogue: Catalogue, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        item = batch.events.item
        log_p = nn.log_softmax(self.logits(item[:, :-1], catalogue, train))
        own = jnp.take_along_axis(log_p, item[:, 1:, None], axis=-1)[..., 0]
        total = jnp.maximum(batch.weight.sum(), 1.0)
        return -(own * batch.weight).sum() / total, {"targets": total}

    def scores(self, history: Events, query: Query, catalogue: Catalogue) -> jax.Array:
        last = jnp.maximum(history.valid.sum(axis=1) - 1, 0)
        item = jnp.take_along_axis(history.item, last[:, None], axis=1)[:, 0]
        return self.logits(item, catalogue, False)


experiment = Experiment(
    name="tiny",
    source=TinyLog(Path("data")),
    protocol=LeaveOneOut(),
    model=TinyModel(),
    batching=Batching(length=7, batch_size=5),
    optimizer=Optimizer(learning_rate=0.02, warmup_steps=3),
    training=Training(epochs=6, eval_every=2, checkpoint_every=5, log_every=3),
    evaluation=Evaluation(ks=(1, 5), length=13, block=17),
)
