"""A model's functions of plain arrays: no class of stjax or Flax is in their arguments and results."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stjax.events import Events, Query
from stjax.serving.exported import Model
from stjax.serving.programs import Weights

Arrays = dict[str, Any]
ALWAYS = ("item", "valid")  # of an event, read or not: they say what it is


class Flat:
    """One pytree as a dict of its arrays by their paths, such as `params/head/bias`, and back.

    like: such a pytree. kept: names of the arrays that the dict has; None for all. The others are zeros when
    the tree comes back, which must not matter.
    """

    def __init__(self, like: Any, kept: Collection[str] | None = None) -> None:
        paths, self._tree = jax.tree_util.tree_flatten_with_path(like)
        names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for _, x in paths]
        self._all = dict(zip(names, shapes, strict=True))
        self.like = {name: x for name, x in self._all.items() if kept is None or name in kept}

    def dict(self, tree: Any) -> Arrays:
        """The arrays of the tree that are kept."""
        leaves = zip(self._all, self._tree.flatten_up_to(tree), strict=True)
        return {name: x for name, x in leaves if name in self.like}

    def tree(self, arrays: Mapping[str, Any], lead: tuple[Any, ...] | None = None) -> Any:
        """The pytree again. lead: dimensions in place of the first of `like`; None where that stays."""

        def zeros(x: jax.ShapeDtypeStruct) -> jax.Array:
            return jnp.zeros(x.shape if lead is None else (*lead, *x.shape[1:]), x.dtype)

        leaves = [arrays[name] if name in self.like else zeros(x) for name, x in self._all.items()]
        return self._tree.unflatten(leaves)


class Functions:
    """Cold states, reading events and answering requests, each on dicts of arrays.

    k: K, the length of an answer. kept: of "weights", "events" and "query", the names of the arrays that
    matter; None for all of them. items: V, the rows of the catalogue.
    """

    def __init__(
        self,
        model: Model,
        weights: Weights,
        events: Events,
        k: int,
        kept: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self.model: Any = model
        self.k, self.items = k, len(weights.catalogue.place)
        some = kept or {}
        self.weights = Flat(weights, some.get("weights"))
        self.state = Flat(jax.eval_shape(lambda: self.model.init_state(1)))
        self.events = Flat(events, some.get("events"))
        self.query = Flat(Query.of(events, self.model.known), some.get("query"))

    def cold(self, users: jax.Array) -> Arrays:
        """The states of users without events, one for each of (B,), whatever their values."""
        state = self.state.dict(self.model.init_state(users.shape[0]))
        # Without weak types, as states are after events.
        return {name: jax.lax.convert_element_type(x, np.dtype(x.dtype)) for name, x in state.items()}

    def observe(self, weights: Arrays, state: Arrays, events: Arrays) -> Arrays:
        """The states after one event each, (B,); where it is not valid, as before."""
        return self._read("step", weights, state, events)

    def read(self, weights: Arrays, state: Arrays, events: Arrays) -> Arrays:
        """The states after some events each, (B, L), the oldest first."""
        return self._read("read", weights, state, events)

    def score(self, weights: Arrays, state: Arrays, query: Arrays) -> jax.Array:
        """Log-probabilities of all items, (B, V)."""
        w, own = self.weights.tree(weights), self.state.tree(state)
        asked = self.query.tree(query, jax.tree.leaves(state)[0].shape[:1])
        return self.model.apply({"params": w.params}, own, asked, w.catalogue, w.table, method="answer")

    def recommend(
        self, weights: Arrays, state: Arrays, query: Arrays, allowed: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Log-probabilities and ids of the best items among those allowed (B, V), best first: (B, K) each.

        -inf where there are no more."""
        log_p = self.score(weights, state, query)
        return jax.lax.top_k(jnp.where(allowed, log_p, -jnp.inf), self.k)

    def _read(self, method: str, weights: Arrays, state: Arrays, events: Arrays) -> Arrays:
        w, read = self.weights.tree(weights), self.events.tree(events, events["valid"].shape)
        own = self.state.tree(state)
        new = self.model.apply({"params": w.params}, own, read, w.catalogue, w.table, method=method)
        return self.state.dict(new)
