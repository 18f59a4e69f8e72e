"""The compiled programs of the engine: read events, answer requests, move states to the host and back.

States of all users lie in one pytree of arrays, whose first `capacity` rows are the slots; the row after them
is the cold state of a user without events, and is never written. Every program has a few shapes only
(`Shapes`), all of which `warm_up` compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stjax.errors import ConfigError
from stjax.events import Catalogue, Events, Query
from stjax.ops import geo
from stjax.serving.answers import Filters, no_filters
from stjax.serving.exported import Model
from stjax.serving.mesh import Devices
from stjax.serving.settings import Shapes

ENTRIES = 1 << 23  # scores alive at a time: 32 MiB, however many users and items

States = Any  # a pytree of arrays (slots, ...)


def fitting(sizes: tuple[int, ...], size: int) -> int:
    """The smallest that holds `size`, or else the largest."""
    return next((s for s in sizes if s >= size), sizes[-1])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weights:
    """What is read and changes together: parameters, catalogue, and what both give once.

    table: vectors of all items. space: float32 (V, 3), kilometres from the centre of the earth, NaN where the
    place is unknown.
    """

    params: Any
    catalogue: Catalogue
    table: Any
    space: Any


class Programs:
    """The programs of one model. Raises ConfigError for a model without a step form.

    slots: rows of the states. devices: on which they run; by default one.
    """

    def __init__(self, model: Model, capacity: int, shapes: Shapes, devices: Devices | None = None) -> None:
        for method in ("init_state", "step", "read", "answer", "item_table"):
            if not hasattr(model, method):
                raise ConfigError(f"model {type(model).__name__} has no {method!r}: it cannot be served")
        self.model: Any = model
        self.capacity, self.shapes, self.devices = capacity, shapes, devices or Devices()
        self.slots = self.devices.slots(capacity)
        own, there, whole = (self.model, self.devices), self.devices.states, self.devices.whole
        self.observe: Callable[..., States] = jax.jit(
            partial(_observe, *own), donate_argnums=0, out_shardings=there
        )
        self.recommend: Callable[..., Any] = jax.jit(
            partial(_recommend, *own), static_argnums=6, out_shardings=whole
        )
        self.fetch: Callable[..., States] = jax.jit(_rows, out_shardings=whole)
        self.put: Callable[..., States] = jax.jit(_scatter, donate_argnums=0, out_shardings=there)
        self._derive: Callable[..., Any] = jax.jit(partial(_derive, *own))

    def weights(self, params: Any, catalogue: Catalogue) -> Weights:
        """Parameters and catalogue on the devices, with what is computed from them once."""
        params, catalogue = self.devices.weights(params, catalogue)
        return Weights(params, catalogue, *self._derive(params, catalogue))

    def initial(self) -> States:
        """All slots, cold."""
        return jax.jit(lambda: self.model.init_state(self.slots), out_shardings=self.devices.states)()

    def bytes_per_user(self) -> int:
        """Of one user's state."""
        state = jax.eval_shape(lambda: self.model.init_state(1))
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))

    def warm_up(
        self,
        states: States,
        weights: Weights,
        events: Callable[[int, int], Events],
        query: Callable[[int], Query],
        late: int,
    ) -> States:
        """Compile every program for every shape. Returns the states, unchanged; the old ones are donated.

        events: padding (B, L). query: of B requests. late: L of the events that a request reads first, or 0.
        """
        shapes = self.shapes
        for b in shapes.batches:
            cold, nowhere = self.cold(b), self.nowhere(b)
            for length in shapes.chunks:
                states = self.observe(states, weights, cold, nowhere, events(b, length))
            states = self.put(states, nowhere, jax.device_get(self.fetch(states, cold)))
            for k in shapes.tops:
                for filters in (None, no_filters(b, len(weights.space))):
                    for first in (None, events(b, late)) if late else (None,):
                        self.recommend(states, weights, cold, query(b), filters, first, k)
        return jax.block_until_ready(states)

    def cold(self, batch: int) -> np.ndarray:
        """The slot of users without events, for a whole batch."""
        return np.full(batch, self.capacity, np.int32)

    def nowhere(self, batch: int) -> np.ndarray:
        """Of states that are not to be written, for a whole batch."""
        return np.full(batch, self.slots, np.int32)


def _derive(model: Any, devices: Devices, params: Any, catalogue: Catalogue) -> tuple[Any, jax.Array]:
    space = geo.unit_vector(catalogue.place) * geo.EARTH_RADIUS_KM  # of NaN it is NaN
    return devices.of_items((model.apply({"params": params}, catalogue, method="item_table"), space))


def _rows(states: States, slots: jax.Array) -> States:
    return jax.tree.map(lambda x: x[slots], states)


def _scatter(states: States, slots: jax.Array, rows: States) -> States:
    return jax.tree.map(lambda x, row: x.at[slots].set(row, mode="drop"), states, rows)


def _read(model: Any, weights: Weights, own: States, events: Events) -> States:
    variables, rest = {"params": weights.params}, (weights.catalogue, weights.table)
    if events.item.shape[1] == 1:
        return model.apply(variables, own, events[:, 0], *rest, method="step")
    return model.apply(variables, own, events, *rest, method="read")


def _observe(
    model: Any,
    devices: Devices,
    states: States,
    weights: Weights,
    source: jax.Array,
    target: jax.Array,
    events: Events,
) -> States:
    """Read events (B, L) of the users in slots `source`, into slots `target`; those out of range are not
    written."""
    own, events = devices.rows((_rows(states, source), events))
    return _scatter(states, target, _read(model, weights, own, events))


def _recommend(
    model: Any,
    devices: Devices,
    states: States,
    weights: Weights,
    source: jax.Array,
    query: Query,
    filters: Filters | None,
    late: Events | None,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities and ids of the k best items that are allowed, (B, k) each; -inf where there are no
    more. late: events (B, L) that are read before, and stay unread."""
    own, query, filters, late = devices.rows((_rows(states, source), query, filters, late))
    if late is not None:
        own = _read(model, weights, own, late)
    items = weights.space.shape[0]

    def best(rows: Any) -> tuple[jax.Array, jax.Array]:
        own, query, filters = devices.rows(rows)
        variables = {"params": weights.params}
        log_p = model.apply(variables, own, query, weights.catalogue, weights.table, method="answer")
        return devices.best(log_p, filters, weights.space, min(k, items))

    size = max(1, ENTRIES // (items // devices.model)) * devices.data
    return _in_groups(best, (own, query, filters), size)


def _in_groups(function: Callable[[Any], Any], rows: Any, size: int) -> Any:
    """A function of rows (B, ...), at most `size` at a time. A few rows make full use of each pass over the
    items; more would only need memory."""
    batch = jax.tree.leaves(rows)[0].shape[0]
    if batch <= size:
        return function(rows)
    groups = -(-batch // size)
    index = jnp.minimum(jnp.arange(groups * size), batch - 1).reshape(groups, size)
    done = jax.lax.map(lambda i: function(jax.tree.map(lambda x: x[i], rows)), index)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:batch], done)
