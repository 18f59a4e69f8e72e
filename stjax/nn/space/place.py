"""Place of an event: where it was, in several scales, and how far from the event before."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Catalogue, Events
from stjax.nn.base import Encoder, State
from stjax.nn.checks import check_counts
from stjax.nn.layers import Dense
from stjax.ops import geo, sequence
from stjax.ops.harmonics import real_harmonics

DISTANCE_BUCKETS = 16  # powers of two from 2^-4 km: 60 m to 2,000 km

Encoding = Literal["space2vec", "sphere2vec", "harmonics"]


class PlaceEmbed(nn.Module):
    """Places (..., 2) to (..., D): functions on the sphere through a small network; unknown is learned.

    encoding: `space2vec` (sinusoids in space, after Mai et al., ICLR 2020), `sphere2vec` (on latitude and
      longitude, Mai et al., 2023) or `harmonics` (spherical harmonics, as Rußwurm et al., ICLR 2024: for
      continents and countries, too coarse for a city).
    scales, shortest_km, longest_km: number and range of the wavelengths of the first two.
    degree: of the harmonics, which are (degree + 1)^2 and as fine as 20,000 km / degree.
    """

    features: int = 32
    scales: int = 12
    shortest_km: float = 0.5
    longest_km: float = 10_000.0
    encoding: Encoding = "space2vec"
    degree: int = 10

    def setup(self) -> None:
        check_counts(self, "features", "scales")
        check_counts(self, "degree", least=0)

    @nn.compact
    def __call__(self, place: jax.Array) -> jax.Array:
        waves = self._encode(geo.fill(place).reshape(-1, 2))
        x = nn.gelu(Dense(2 * self.features)(waves))
        x = Dense(self.features, float32="result")(x)
        missing = self.param("missing", nn.initializers.normal(0.02), (self.features,))
        return jnp.where(geo.known(place)[..., None], x.reshape(*place.shape[:-1], self.features), missing)

    def _encode(self, place: jax.Array) -> jax.Array:
        if self.encoding == "space2vec":
            return geo.multiscale(place, self.shortest_km, self.longest_km, self.scales)
        if self.encoding == "sphere2vec":
            return geo.sphere2vec(place, self.shortest_km, self.longest_km, self.scales)
        if self.encoding == "harmonics":
            # To a mean square of 1, which the initialiser of the next layer expects.
            return real_harmonics(geo.unit_vector(place), self.degree) * (4 * jnp.pi) ** 0.5
        raise ValueError(f"encoding={self.encoding!r}: choose from space2vec, sphere2vec, harmonics")


class SpaceEmbed(Encoder):
    """The event's place and its distance from the last known place before it.

    Where an event has no place of its own, the item's place in the catalogue stands in. The fields are those
    of `PlaceEmbed`.
    """

    features: int = 32
    scales: int = 12
    shortest_km: float = 0.5
    longest_km: float = 10_000.0
    encoding: Encoding = "space2vec"
    degree: int = 10

    def setup(self) -> None:
        super().setup()
        self.place = PlaceEmbed(
            self.features, self.scales, self.shortest_km, self.longest_km, self.encoding, self.degree
        )
        self.bucket = nn.Embed(DISTANCE_BUCKETS + 1, self.features)
        self.project = Dense(self.features, float32="product")

    def embed(self, place: jax.Array, before: jax.Array) -> jax.Array:
        """Features of places, and the place before; either may be unknown (NaN)."""
        both = geo.known(place) & geo.known(before)
        km = geo.distance_km(geo.fill(place), geo.fill(before))
        km = jnp.where(both, km, 0.0)
        bucket = jnp.where(both, geo.distance_bucket(km, DISTANCE_BUCKETS), DISTANCE_BUCKETS)
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
    return last_known_at(place, jnp.zeros(place.shape[:-1], jnp.int32))[0]


def last_known_at(place: jax.Array, time: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The last known place strictly before each position and its time: (B, L, 2), (B, L).

    NaN, and time 0, where there is none yet.
    """

    def body(carry: State, here: State) -> tuple[State, State]:
        known = geo.known(here[0])
        return jax.tree.map(lambda new, old: sequence.select(known, new, old), here, carry), carry

    start = jnp.full_like(place[:, 0], jnp.nan), jnp.zeros_like(time[:, 0])
    before = jax.lax.scan(body, start, (place.swapaxes(0, 1), time.swapaxes(0, 1)))[1]
    return before[0].swapaxes(0, 1), before[1].swapaxes(0, 1)
