"""Profile: which kinds of items the user has chosen lately."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Catalogue, Events
from stjax.nn.base import Encoder, State
from stjax.nn.content.values import MultiEmbed
from stjax.nn.layers import Dense
from stjax.ops.recurrence import linear_recurrence
from stjax.ops.sequence import select


class ProfileEmbed(Encoder):
    """How often each kind of item came lately, this event included: each counts exp(-events ago / run).

        h_r = sum_m exp(-(l - m) / r) E_r[kind_m],    x_l = W gelu(sum_r h_r + b) + c

    The counts themselves are never kept: the first linear map of them is, so that the state does not grow
    with the number of kinds. An interest model could learn as much, and does so slowly: a taste shows in
    counts of weeks, of which each next item is faint evidence.

    field: an item field, categorical or of several values. runs: events r over which a count fades to 1/e.
    State: len(runs) * 2D floats. Raises ValueError where the catalogue has no such field, or a run is not
    above 0.
    """

    field: str = "category"
    runs: tuple[float, ...] = (8.0, 64.0)

    def setup(self) -> None:
        super().setup()
        if not self.runs or min(self.runs) <= 0:
            raise ValueError(f"runs={self.runs} must be numbers of events above 0")
        self.bias = self.param("bias", nn.initializers.zeros, (2 * self.features,))
        self.project = Dense(self.features, float32="result")

    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        kinds = self._kinds(events.item, catalogue)
        valid = events.valid[..., None, None]
        decay = jnp.where(valid, self._decay(), 1.0)
        own = jnp.where(valid, kinds, 0.0)
        return self._see(linear_recurrence(decay, own, self.init_state(len(kinds))))

    def init_state(self, batch: int) -> State:
        return jnp.zeros((batch, len(self.runs), 2 * self.features))

    def step(self, state: State, event: Events, catalogue: Catalogue) -> tuple[State, jax.Array]:
        after = self._decay() * state + self._kinds(event.item, catalogue)
        state = select(event.valid, after, state)
        return state, self._see(state)

    def _decay(self) -> jax.Array:
        return jnp.asarray([[math.exp(-1.0 / run)] for run in self.runs], jnp.float32)

    @nn.compact
    def _kinds(self, item: jax.Array, catalogue: Catalogue) -> jax.Array:
        """E of the items' kinds: (...) ids to (..., R, 2D)."""
        items, width = catalogue.items, 2 * self.features * len(self.runs)
        if self.field in items.categorical:
            small = nn.initializers.normal(0.05)
            table = nn.Embed(catalogue.schema[self.field].size, width, embedding_init=small, name="kinds")
            x = table(items.categorical[self.field][item])
        elif self.field in items.multi:
            x = MultiEmbed(catalogue.schema[self.field].size, width, name="kinds")(
                items.multi[self.field][item]
            )
        else:
            have = sorted([*items.categorical, *items.multi])
            raise ValueError(f"field: no item field {self.field!r} of kinds; the catalogue has {have}")
        return x.reshape(*item.shape, len(self.runs), -1)

    def _see(self, state: jax.Array) -> jax.Array:
        return self.project(nn.gelu(state.sum(axis=-2) + self.bias))
