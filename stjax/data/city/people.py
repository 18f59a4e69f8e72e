"""The lasting traits of the city's users, recomputable from the seed and the user's number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stjax.data.city.chance import uniforms, user_keys
from stjax.data.city.parameters import City
from stjax.data.city.world import HOME, RHYTHMS, SLOTS, WORK, World

NEAR_HOME = 0.6  # share of favourites that are drawn near home, the others near work
_RHYTHM_SHARE = np.array([0.6, 0.15, 0.25])
# Below 2^32 a stream's numbers are for traits, above it for events.
_TRAITS, _FAVOURITES, EVENTS = 0, 1_000, 2**32


@dataclass(frozen=True)
class People:
    """Users (B,): rhythm, car (0 or 1), home and work (venues), favourite (B, C) venues.

    taste: archetype and slot: half hour of the week, both of the first event.
    """

    key: np.ndarray
    rhythm: np.ndarray
    car: np.ndarray
    home: np.ndarray
    work: np.ndarray
    favourite: np.ndarray
    taste: np.ndarray
    slot: np.ndarray


def lengths(city: City, users: np.ndarray) -> np.ndarray:
    """Number of events of each user: uniform between a half and one and a half of the mean."""
    u, _ = uniforms(user_keys(city.seed, users), _TRAITS)
    low = city.events_per_user // 2
    return low + (u * (2 * (city.events_per_user - low) + 1)).astype(np.int64)


def people(world: World, users: np.ndarray) -> People:
    """The traits of these users (B,)."""
    city = world.city
    key = user_keys(city.seed, users)
    u_rhythm, u_car = uniforms(key, _TRAITS + 1)
    u_home, u_work = uniforms(key, _TRAITS + 2)
    u_taste, u_slot = uniforms(key, _TRAITS + 3)
    home = (u_home * world.start[WORK]).astype(np.int64)
    by_transit, by_car = city.cells**2, 2 * city.cells**2  # rows of the venue tables
    work = world.draws.draw_venue(by_car + world.cell[home], WORK, u_work)
    favourite = np.zeros((len(users), city.categories), np.int64)
    for c in range(city.categories):
        if c in (HOME, WORK):
            favourite[:, c] = home if c == HOME else work
            continue
        u_near, u_venue = uniforms(key, _FAVOURITES + c)
        near = np.where(u_near < NEAR_HOME, world.cell[home], world.cell[work])
        favourite[:, c] = world.draws.draw_venue(by_transit + near, c, u_venue)
    return People(
        key=key,
        rhythm=np.searchsorted(np.cumsum(_RHYTHM_SHARE)[: len(RHYTHMS) - 1], u_rhythm, "right"),
        car=(u_car < 0.4).astype(np.int64),
        home=home,
        work=work,
        favourite=favourite,
        taste=(u_taste * city.archetypes).astype(np.int64),
        slot=(u_slot * SLOTS).astype(np.int64),
    )
