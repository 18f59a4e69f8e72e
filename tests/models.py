"""What tests of modules share: random parameters, compiled calls, questions, steps."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from stjax.events import FIRST, Batch, Catalogue, Events, Query, Schema
from tests.random_events import SCHEMA, random_catalogue, random_events


@partial(jax.jit, static_argnames=("model", "method"))
def run(model: nn.Module, variables: Any, *args: Any, method: str | None = None) -> Any:
    """The method, compiled: an op at a time is slower than the compiler. Tests share what is compiled."""
    return model.apply(variables, *args, method=method)


def random_parameters(model: nn.Module, *args: Any, method: str | None = None, seed: int = 0) -> Any:
    """Parameters of the right shapes, none of them zero.

    The initialisers are not run: compiling them takes longer than a whole test.
    """
    shapes = jax.eval_shape(partial(model.init, method=method), jax.random.key(seed), *args)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes)


def random_batch(batch: int, length: int, seed: int = 0, schema: Schema = SCHEMA) -> tuple[Batch, Catalogue]:
    """Sequences to train on, of length + 1 events, and the catalogue, on the device."""
    catalogue = random_catalogue(seed, schema)
    catalogue.items.vector["text"][-1] = np.nan  # an item without text
    events = random_events(batch, length + 1, seed, schema)
    weight = (events.valid[:, 1:] & (events.item[:, 1:] >= FIRST)).astype(np.float32)
    return jax.tree.map(jnp.asarray, (Batch(events, weight), catalogue))


def questions(events: Events, known: tuple[str, ...]) -> tuple[Events, Query, jax.Array]:
    """The last event of each row as the target of all before it (rows with one event: of none valid)."""
    stop = jnp.maximum(events.valid.sum(axis=1) - 1, 0)
    history = events.replace(valid=events.valid & (jnp.arange(events.item.shape[1])[None] < stop[:, None]))
    target = events[jnp.arange(len(stop)), stop]
    return history, Query.of(target, known), target.item


def run_steps(model: Any, variables: Any, events: Events, catalogue: Catalogue) -> Any:
    """The state after the events, one step after the other."""
    state = model.init_state(events.item.shape[0])
    for position in range(events.item.shape[1]):
        state = run(model, variables, state, events[:, position], catalogue, method="step")
    return state
