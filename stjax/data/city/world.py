"""The city itself: venues on a map, and the tables of probabilities by which its users choose.

Letters: V venues, C categories, Z archetypes, T rhythms of life, M ways to move, G map cells,
P = 48 periods (weekday or weekend × hour), S = 336 half hours of the week, K gaps.
Venues are numbered by category; a category is a contiguous range of them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from stjax.data.city.chance import AliasTable
from stjax.data.city.parameters import City

HOME, WORK = 0, 1  # categories
SLOT = 1_800  # seconds: the unit of time in which users choose
SLOTS = 7 * 48
PERIODS = 48
RHYTHMS = ("day worker", "night worker", "free")
DEVICES = ("phone", "tablet", "desktop")
MOVES = ("walking", "transit", "car")
LATITUDE, LONGITUDE = 48.2, 16.4  # of the south-west corner, degrees

# Gaps in slots, from half an hour to two days, with their weights before the user's rhythm.
GAPS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 72, 96])
_GAP_WEIGHT = np.array([6, 6, 5, 5, 5, 4, 4, 3, 2, 2, 1.5, 1, 1, 0.5, 0.4])
_SCALE_KM = np.array([0.7, 1.5, 4.0])  # distance decay of each way to move
HABIT = np.array([0.25, 0.55, 0.85])  # chance to go to one's favourite, by the device last used


@dataclass(frozen=True)
class World:
    """Tables of probabilities, float64 unless said otherwise; see the module's letters.

    category (V,), cell (V,) int64: of each venue. start (C+1,): category c is venues start[c]:start[c+1].
    place float32 (V, 2): degrees.
    venue (M, G, V): P(venue | its category, way to move, cell of departure).
    anchor (T, P, 2): P(go home), P(go to work) by period.
    taste (Z, P, C, C): P(category | archetype, period, last category), for other venues than anchors.
    gap (T, S, K): P(gap | rhythm, half hour of the last event).
    arrival (T, S, P): P(period of the next event | rhythm, half hour of the last event).
    device (3, P, 3): P(device | home, work or elsewhere, period). move (2, P, M): P(way | car owner, period).
    """

    city: City
    category: np.ndarray
    start: np.ndarray
    cell: np.ndarray
    place: np.ndarray
    venue: np.ndarray
    anchor: np.ndarray
    taste: np.ndarray
    gap: np.ndarray
    arrival: np.ndarray
    device: np.ndarray
    move: np.ndarray

    @classmethod
    @functools.lru_cache(maxsize=2)
    def of(cls, city: City) -> World:
        """The world of a city: the same for the same parameters, whatever its number of users."""
        random = np.random.default_rng([city.seed, 20_240_101])
        start = _category_starts(city)
        category = np.repeat(np.arange(city.categories), np.diff(start))
        popularity = _popularity(random, start)
        xy = _map(random, city, category)
        side = city.size_km / city.cells
        column, line = np.minimum(xy // side, city.cells - 1).astype(np.int64).T
        middle = (np.arange(city.cells) + 0.5) * side
        centres = np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2)
        venue = _venue(xy, centres, popularity, start)
        gap = _gap(rhythm := _rhythm())
        return cls(
            city=city,
            category=category,
            start=start,
            cell=line * city.cells + column,
            place=_degrees(xy),
            venue=venue,
            anchor=rhythm[..., 1:],
            taste=_taste(random, city),
            gap=gap,
            arrival=_arrival(gap),
            device=_device(),
            move=_move(),
        )

    @functools.cached_property
    def draws(self) -> Draws:
        """The tables made ready for constant-time draws."""
        return Draws.of(self)


@dataclass(frozen=True)
class Draws:
    """Alias tables of a world. venue: rows (M, G), columns V, of which each category is a distribution."""

    size: np.ndarray  # (C,) venues per category
    start: np.ndarray  # (C,)
    venue: AliasTable
    taste: AliasTable
    gap: AliasTable
    device: AliasTable
    move: AliasTable

    @classmethod
    def of(cls, world: World) -> Draws:
        start, size = world.start[:-1], np.diff(world.start)
        parts = [AliasTable.of(world.venue[..., a : a + n]) for a, n in zip(start, size, strict=True)]
        return cls(
            size=size,
            start=start,
            venue=AliasTable(
                np.concatenate([part.accept for part in parts], axis=1),
                np.concatenate([part.alias + a for part, a in zip(parts, start, strict=True)], axis=1),
            ),
            taste=AliasTable.of(world.taste),
            gap=AliasTable.of(world.gap),
            device=AliasTable.of(world.device),
            move=AliasTable.of(world.move),
        )

    def draw_venue(self, row: np.ndarray, category: np.ndarray | int, u: np.ndarray) -> np.ndarray:
        """A venue int64 (B,) of each category, from the distribution of row `way to move × cell`."""
        start = self.start[category]
        scaled = u * self.size[category]
        venue = start + scaled.astype(np.int64)
        at = row * self.venue.accept.shape[1] + venue
        keep = scaled + start - venue < self.venue.accept.ravel().take(at)
        return np.where(keep, venue, self.venue.alias.ravel().take(at))


def period(slot: np.ndarray) -> np.ndarray:
    """Weekday or weekend × hour, 0 to 47, of a half hour counted from a Monday 00:00 local time."""
    weekend = slot // 48 % 7 >= 5
    return weekend * 24 + slot // 2 % 24


def _category_starts(city: City) -> np.ndarray:
    """Homes take a fifth of the venues and offices a tenth; other categories are of equal size."""
    share = np.full(city.categories, 0.7 / (city.categories - 2))
    share[[HOME, WORK]] = 0.2, 0.1
    return np.concatenate([[0], np.round(np.cumsum(share) * city.items)]).astype(np.int64)


def _popularity(random: np.random.Generator, start: np.ndarray) -> np.ndarray:
    """Zipf within each category, in random order."""
    sizes = np.diff(start)
    return np.concatenate([random.permutation((np.arange(n) + 2.0) ** -0.9) for n in sizes])


def _map(random: np.random.Generator, city: City, category: np.ndarray) -> np.ndarray:
    """Venues in km: around centres of unequal weight, homes further out than the rest."""
    size = city.size_km
    centres = random.uniform(0.15 * size, 0.85 * size, (city.centres, 2))
    weight = random.dirichlet(np.full(city.centres, 3.0))
    chosen = random.choice(city.centres, len(category), p=weight)
    spread = np.where(category == HOME, 0.12, 0.06)[:, None] * size
    xy = centres[chosen] + spread * random.standard_normal((len(category), 2))
    return np.clip(xy, 0, size)


def _degrees(xy: np.ndarray) -> np.ndarray:
    latitude = LATITUDE + xy[:, 1] / 110.574
    longitude = LONGITUDE + xy[:, 0] / (111.320 * np.cos(np.radians(LATITUDE)))
    return np.stack([latitude, longitude], axis=-1).astype(np.float32)


def _venue(xy: np.ndarray, centres: np.ndarray, popularity: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(M, G, V): popularity × exp(−distance / scale), normalised within each category."""
    distance = np.hypot(*(centres[:, None] - xy).transpose(2, 0, 1))  # (G, V)
    weight = popularity * np.exp(-distance / _SCALE_KM[:, None, None])
    total = np.add.reduceat(weight, start[:-1], axis=-1)
    return weight / np.repeat(total, np.diff(start), axis=-1)


def _rhythm() -> np.ndarray:
    """(T, P, 3): activity, P(go home), P(go to work), for weekday and weekend hours of each rhythm."""
    hour = np.arange(24)
    awake = np.where((hour >= 7) & (hour <= 22), 1.0, 0.04)
    home_hours = np.isin(hour, [6, 7, 18, 19, 21, 22, 23])
    evening = np.where(home_hours, 0.6, 0.06)
    office = np.where((hour >= 8) & (hour <= 17), 0.6, 0.02)
    nothing = np.zeros(24)
    leisure = np.where(np.isin(hour, [8, 9, 22, 23]), 0.5, 0.12)
    weekday = np.stack([awake, evening * (1 - office), office], axis=-1)
    weekend = np.stack([awake, leisure, nothing], axis=-1)
    idle = np.stack([awake, np.where(hour >= 21, 0.6, 0.2), nothing], axis=-1)
    return np.stack(
        [
            np.concatenate([weekday, weekend]),
            np.concatenate([np.roll(weekday, 11, axis=0), np.roll(weekend, 3, axis=0)]),
            np.concatenate([idle, idle]),
        ]
    )


def _gap(rhythm: np.ndarray) -> np.ndarray:
    """(T, S, K): a gap's own weight × the user's activity at the half hour where it ends."""
    ends = (np.arange(SLOTS)[:, None] + GAPS) % SLOTS  # (S, K)
    weight = _GAP_WEIGHT * rhythm[:, period(ends), 0]
    return weight / weight.sum(axis=-1, keepdims=True)


def _arrival(gap: np.ndarray) -> np.ndarray:
    ends = period(np.arange(SLOTS)[:, None] + GAPS)  # (S, K)
    return np.einsum("tsk,skp->tsp", gap, np.eye(PERIODS)[ends])


def _taste(random: np.random.Generator, city: City) -> np.ndarray:
    """(Z, P, C, C): the archetype's liking × the category's hours × what follows the last category."""
    c = city.categories
    liking = random.gamma(0.25, size=(city.archetypes, c)) + 0.01
    peak = random.permutation((np.arange(c) + 0.5) * 24 / c)  # spread over the day
    phase = 2 * np.pi * (np.arange(24) - peak[:, None]) / 24  # (C, 24)
    day = np.exp(1.6 * np.cos(phase))
    kind = np.exp(random.normal(0, 0.8, (2, c, 1)))  # weekday, weekend
    hours = (kind * day).transpose(0, 2, 1).reshape(PERIODS, c)
    follow = np.exp(random.normal(0, 0.7, (c, c))) * (1 - 0.7 * np.eye(c))
    weight = np.einsum("zc,pc,bc->zpbc", liking, hours, follow)
    weight[..., [HOME, WORK]] = 0
    return weight / weight.sum(axis=-1, keepdims=True)


def _device() -> np.ndarray:
    base = np.array([[0.45, 0.25, 0.3], [0.3, 0.05, 0.65], [0.85, 0.1, 0.05]])
    evening = np.where(np.arange(PERIODS) % 24 >= 19, 3.0, 1.0)
    weight = np.repeat(base[:, None], PERIODS, axis=1)
    weight[..., 1] *= evening
    return weight / weight.sum(axis=-1, keepdims=True)


def _move() -> np.ndarray:
    hour = np.arange(PERIODS) % 24
    rush = np.isin(hour, [7, 8, 9, 16, 17, 18])[:, None]
    without = np.where(rush, [0.35, 0.6, 0.05], [0.65, 0.3, 0.05])
    owner = np.where(rush, [0.2, 0.3, 0.5], [0.4, 0.1, 0.5])
    return np.stack([without, owner])
