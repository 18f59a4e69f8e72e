"""The true next-item probabilities of a synthetic city: the best that any model can reach there."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stjax.data.city import World
from stjax.data.city.people import people
from stjax.data.city.world import HABIT, PERIODS, SLOT, SLOTS, period
from stjax.data.store import EventStore
from stjax.data.synthetic import city_of
from stjax.events import FIRST, UNSEEN, Events, Query

if TYPE_CHECKING:
    from stjax.data.dataset import Dataset


@dataclass(frozen=True)
class Oracle:
    """Scores every item by log P(item | the user's hidden state before the target[, the target's time]).

    It knows what a model must infer: home, work, favourites, rhythm, and the archetype at the last event.
    known: ("time",) where the target's time is read, else (): then it sums over all gaps exactly.
    remap: int32 (V_store,), store item id to column; `items` columns. Store ids without a column of their
    own share UNSEEN.
    """

    store: EventStore
    world: World
    remap: np.ndarray
    items: int
    known: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return "oracle"

    @classmethod
    def of(cls, data: EventStore | Dataset, *, time: bool = False) -> Oracle:
        """The oracle of a synthetic store, in its own item ids, or of a dataset, in the training ids.

        Raises StoreError where the store is not a synthetic city.
        """
        known = ("time",) if time else ()
        if isinstance(data, EventStore):
            items = data.schema.items
            return cls(data, World.of(city_of(data)), np.arange(items), items, known)
        world = World.of(city_of(data.store))
        return cls(data.store, world, data.remap["item"], data.schema.items, known)

    def __call__(self, history: Events, query: Query, rows: np.ndarray) -> np.ndarray:
        """Log-probabilities float32 (B, V), −inf where impossible; rows (B,) of the targets in the store."""
        now = None
        if self.known:
            assert query.time is not None and query.utc_offset is not None
            now = np.asarray(query.time) + np.asarray(query.utc_offset)
        p = self.probabilities(np.asarray(rows), now)
        with np.errstate(divide="ignore"):
            return np.log(p).astype(np.float32)

    def probabilities(self, rows: np.ndarray, now: np.ndarray | None = None) -> np.ndarray:
        """P(item) float64 (B, V) of the events at `rows` (B,), none of them its user's first.

        now: their local times (B,), seconds since the store's epoch, or None where unknown.
        """
        before = np.maximum(rows - 1, 0)  # rows of padding may be 0
        return self.in_columns(self._next_venue(before, now))

    def in_columns(self, of_world: np.ndarray) -> np.ndarray:
        """From the probabilities of the city's venues to those of the items scored: (B, V') to (B, V)."""
        p = np.zeros((len(of_world), self.items))
        columns = self.remap[FIRST:]
        own = columns >= FIRST
        p[:, columns[own]] = of_world[:, own]
        p[:, UNSEEN] = of_world[:, ~own].sum(axis=1)
        return p

    @functools.cached_property
    def _taste(self) -> np.ndarray:
        """(Z, P, C, C): as `World.taste`, for the archetype *before* a drift that may happen."""
        drift = self.world.city.drift
        return (1 - drift) * self.world.taste + drift * self.world.taste.mean(axis=0)

    def _next_venue(self, before: np.ndarray, now: np.ndarray | None) -> np.ndarray:
        """P(venue) (B, V) of the event after each row of the store."""
        world, column = self.world, self.store.columns
        user, item, taste, device, move = (
            column[name][before] - FIRST for name in ("user", "item", "archetype", "device", "scene")
        )
        folk = people(world, user)
        if now is None:
            slot = (column["time"][before] + column["utc_offset"][before]) // SLOT % SLOTS
            at = world.arrival[folk.rhythm, slot]  # (B, P)
        else:
            at = np.eye(PERIODS)[period(now // SLOT)]
        anchor = np.einsum("bp,bpa->ab", at, world.anchor[folk.rhythm])
        roaming = at * (1 - world.anchor[folk.rhythm].sum(axis=-1))
        wish = np.einsum("bp,bpc->bc", roaming, self._taste[taste, :, world.category[item]])
        habit = HABIT[device][:, None]
        p = (wish * (1 - habit))[:, world.category] * world.venue[move, world.cell[item]]
        row = np.arange(len(before))
        p[row[:, None], folk.favourite] += wish * habit  # one favourite per category: no duplicates
        p[row, folk.home] += anchor[0]
        p[row, folk.work] += anchor[1]
        return p
