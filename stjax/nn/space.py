"""Place of an event: where it was, in several scales, and how far from the event before."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Catalogue, Events
from stjax.nn.base import Encoder, State
from stjax.ops import geo, sequence

DISTANCE_BUCKETS = 16  # powers of two from 2^-4 km: 60 m to 2,000 km


class PlaceEmbed(nn.Module):
    """Places (..., 2) to (..., D): multi-scale sinusoids through a small network; unknown is learned.

    shortest_km, longest_km: the range of wavelengths (Space2Vec, Mai et al., ICLR 2020).
    """

    features: int = 32
    scales: int = 12
    shortest_km: float = 0.5
    longest_km: float = 10_000.0

    @nn.compact
    def __call__(self, place: jax.Array) -> jax.Array:
        waves = geo.multiscale(geo.fill(place), self.shortest_km, self.longest_km, self.scales)
        x = nn.Dense(self.features)(nn.gelu(nn.Dense(2 * self.features)(waves)))
        missing = self.param("missing", nn.initializers.normal(0.02), (self.features,))
        return jnp.where(geo.known(place)[..., None], x, missing)


class SpaceEmbed(Encoder):
    """The event's place and its distance from the last known place before it.

    Where an event has no place of its own, the item's place in the catalogue stands in.
    """

    features: int = 32
    scales: int = 12
    shortest_km: float = 0.5
    longest_km: float = 10_000.0

    def setup(self) -> None:
        self.place = PlaceEmbed(self.features, self.scales, self.shortest_km, self.longest_km)
        self.bucket = nn.Embed(DISTANCE_BUCKETS + 1, self.features)
        self.project = nn.Dense(self.features)

    def embed(self, place: jax.Array, before: jax.Array) -> jax.Array:
        """Features of places, and the place before; either may be unknown (NaN)."""
        both = geo.known(place) & geo.known(before)
        km = geo.distance_km(geo.fill(place), geo.fill(before))
        km = jnp.where(both, km, 0.0)
        bucket = jnp.floor(jnp.log2(jnp.maximum(km, 1e-6))).astype(jnp.int32) + 5
        bucket = jnp.where(both, jnp.clip(bucket, 0, DISTANCE_BUCKETS - 1), DISTANCE_BUCKETS)
        continuous = jnp.log1p(km)[..., None] * 0.2
        return self.place(place) + self.bucket(bucket) + self.project(continuous)

    def __call__(self, events: Events, catalogue: Catalogue) -> jax.Array:
        place = event_place(events, catalogue)
        return self.embed(place, last_known(place))

    def init_state(self, batch: int) -> State:
        return jnp.full((batch, 2), jnp.nan)

    def step(self, state: State, event: Events, catalogue: Catalogue) -> tuple[State, jax.Array]:
        place = event_place(event, catalogue)
        x = self.embed(place, state)
        return sequence.select(geo.known(place), place, state), x


def event_place(events: Events, catalogue: Catalogue) -> jax.Array:
    """The place of each event, else its item's, else NaN; NaN on padding. (..., 2)."""
    own = geo.known(events.place)[..., None]
    place = jnp.where(own, events.place, catalogue.place[events.item])
    return jnp.where(events.valid[..., None], place, jnp.nan)


def located(events: Events, catalogue: Catalogue) -> Events:
    """The events with their places filled in from the catalogue, see `event_place`."""
    return events.replace(place=event_place(events, catalogue))


def last_known(place: jax.Array) -> jax.Array:
    """The last known place strictly before each position: (B, L, 2), NaN where there is none yet."""

    def body(carry: jax.Array, here: jax.Array) -> tuple[jax.Array, jax.Array]:
        return sequence.select(geo.known(here), here, carry), carry

    start = jnp.full_like(place[:, 0], jnp.nan)
    return jax.lax.scan(body, start, place.swapaxes(0, 1))[1].swapaxes(0, 1)
