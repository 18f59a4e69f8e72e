"""What an encoder, a fusion and an interest model are: subclass one of these to add your own.

Shapes: a whole sequence has leading dimensions (B, L), one event per user (B,). Parameters are float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

from stjax.events import Catalogue, Events
from stjax.nn.checks import check_counts

State = Any  # a pytree of arrays whose first dimension is the batch


class Encoder(nn.Module):
    """One way of seeing an event: time, space, context, content. Events (B, L) to features (B, L, D).

    A subclass that looks only at the event itself writes `__call__` so that it accepts any leading
    shape, and has its step form for free. One that looks back overrides `init_state` and `step` too, and
    leaves the state of rows whose event is not valid as it is.

    features: D, the width of what comes out; ValueError below 1. A subclass with a `setup` of its own calls
      this one.
    """

    features: int = 32

    def setup(self) -> None:
        check_counts(self, "features")

    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        """Parallel form: (B, L) events to (B, L, D)."""
        raise TypeError(f"{type(self).__name__} must define __call__")

    def init_state(self, batch: int) -> State:
        """State before the first event, for `batch` users."""
        del batch
        return ()

    def step(self, state: State, event: Events, catalogue: Catalogue) -> tuple[State, jax.Array]:
        """Step form: the state and one event (B,) to the next state and (B, D)."""
        return state, self(event, catalogue)


class Fusion(nn.Module):
    """Joins what the encoders saw of the same event into one vector.

    A subclass that joins position by position writes `__call__` so that it accepts any leading shape, and
    has its step form for free. One that looks back overrides `init_state` and `step` too.

    features: D, the width of what comes out, which interest models keep; ValueError below 1. A subclass with
      a `setup` of its own calls this one.
    """

    features: int = 64

    def setup(self) -> None:
        check_counts(self, "features")

    def __call__(self, parts: Mapping[str, jax.Array], events: Events) -> jax.Array:
        """Parallel form: {name: (B, L, D_name)} to (B, L, D)."""
        raise TypeError(f"{type(self).__name__} must define __call__")

    def init_state(self, batch: int, names: tuple[str, ...]) -> State:
        """State before the first event; names: of the parts, sorted."""
        del batch, names
        return ()

    def step(self, state: State, parts: Mapping[str, jax.Array], event: Events) -> tuple[State, jax.Array]:
        """Step form: the state and the parts of one event, (B, D_name) each, to the next state and (B, D)."""
        return state, self(parts, event)


class Interest(nn.Module):
    """Reads fused events in order and says, after each, what the user is interested in now.

    `events` says when and where: time, utc_offset, valid, and place, which is the event's own or else its
    item's, NaN where neither is known.
    """

    def __call__(self, x: jax.Array, events: Events, train: bool = False) -> jax.Array:
        """Parallel form: (B, L, D) to (B, L, D); position l has read events 0..l."""
        raise TypeError(f"{type(self).__name__} must define __call__")

    def others(self, x: jax.Array, events: Events, train: bool = False) -> jax.Array:
        """Without order: (B, L, D) to (B, L, D); position l has read all events but l."""
        raise TypeError(f"{type(self).__name__} reads in order and has no `others`")

    def init_state(self, batch: int, features: int) -> State:
        """State before the first event; features is D."""
        raise TypeError(f"{type(self).__name__} must define init_state")

    def step(self, state: State, x: jax.Array, event: Events) -> tuple[State, jax.Array]:
        """Step form: the state and one fused event (B, D) to the next state and (B, D)."""
        raise TypeError(f"{type(self).__name__} must define step")
