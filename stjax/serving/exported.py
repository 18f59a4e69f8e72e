"""The functions of an export behind the face of the model that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.errors import ConfigError
from stjax.events import Catalogue, Events, Query
from stjax.serving.mesh import Devices
from stjax.serving.settings import Settings

State = tuple[Any, ...]  # arrays (B, ...) in the order of the leaves of the model's own state


class ExportedModel:
    """The step form of a model, as an engine calls it, by the functions of its export.

    Its parameters are the arrays of weights.npz, the vectors of all items among them: it does not learn, and
    knows the items alone that it was exported with.

    functions: cold, observe, read and score, of dicts of arrays. events, query: what the functions read of
    them, as such dicts. state: the names of a state's arrays. known: query fields that are read.
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]],
        events: Callable[[Events], dict[str, Any]],
        query: Callable[[Query], dict[str, Any]],
        state: Sequence[str],
        known: Sequence[str],
    ) -> None:
        self._functions, self._events, self._query = functions, events, query
        self._state, self.known = tuple(state), tuple(known)

    def apply(self, variables: Mapping[str, Any], *arguments: Any, method: str) -> Any:
        """As of a Linen module."""
        return getattr(self, method)(variables["params"], *arguments)

    def init_state(self, batch: int) -> State:
        """The states of users without any event."""
        return self._tuple(self._functions["cold"](jnp.zeros(batch, jnp.int32)))

    def item_table(self, weights: Any, catalogue: Catalogue) -> None:
        """None: the vectors of all items are among the weights."""

    def step(self, weights: Any, state: State, event: Events, *_: Any) -> State:
        """Read one event per user, (B,)."""
        return self._after("observe", weights, state, event)

    def read(self, weights: Any, state: State, events: Events, *_: Any) -> State:
        """Read a few more events per user, (B, L)."""
        return self._after("read", weights, state, events)

    def answer(self, weights: Any, state: State, query: Query, *_: Any) -> jax.Array:
        """log p(item) for the users' states and queries (B,): (B, V)."""
        return self._functions["score"](weights, self._dict(state), self._query(query))

    def _after(self, name: str, weights: Any, state: State, events: Events) -> State:
        return self._tuple(self._functions[name](weights, self._dict(state), self._events(events)))

    def _dict(self, state: State) -> dict[str, Any]:
        return dict(zip(self._state, state, strict=True))

    def _tuple(self, arrays: Mapping[str, Any]) -> State:
        return tuple(arrays[name] for name in self._state)


Model = nn.Module | ExportedModel


def check_settings(model: Model, settings: Settings) -> None:
    """Raises ConfigError where the model is an export's and the settings ask for what it cannot do."""
    if not isinstance(model, ExportedModel):
        return
    if settings.spare_items:
        raise ConfigError(
            f"spare_items={settings.spare_items}: an export knows the items alone that it was made with; load"
            " the run folder instead"
        )
    if Devices.of(settings.sharding).layout is not None:
        raise ConfigError(
            "sharding: an export is a program of one device; load the run folder to serve on several"
        )


def check_run(model: Model, what: str) -> None:
    """Raises ConfigError where the model is an export's: `what` needs its run."""
    if isinstance(model, ExportedModel):
        raise ConfigError(f"{what}: not with an export; load the run folder that it was made of")
