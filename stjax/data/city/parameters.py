"""The parameters of a synthetic city."""

from __future__ import annotations

from dataclasses import dataclass

from stjax.errors import UserError

MAX_EVENTS = 2**31 // (10 * 86_400)  # per user: gaps are under 5 days, and time is int32 seconds


@dataclass(frozen=True)
class City:
    """A city whose users' next venues have known probabilities. Raises UserError for impossible values.

    users: number of users. events_per_user: their mean number of events; each user's own is uniform
      between a half and one and a half of it.
    items: venues. categories: kinds of venue, of which the first two are home and work.
    archetypes: kinds of taste. drift: chance per event that a user's taste is drawn anew.
    cells: map cells per side, from whose centres distances are measured. centres: dense places.
    size_km: side of the square city.
    seed: the same seed gives the same city and log, bit for bit; a user's log does not depend on `users`.
    """

    users: int = 2_000
    events_per_user: int = 80
    items: int = 2_000
    categories: int = 16
    archetypes: int = 6
    drift: float = 0.04
    cells: int = 20
    centres: int = 6
    size_km: float = 16.0
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "users": (1, 2**31 - 3),
            "events_per_user": (4, MAX_EVENTS),
            "categories": (4, 200),
            "items": (4 * self.categories, 50_000),
            "archetypes": (1, 50),
            "drift": (0, 1),
            "cells": (1, 128),
            "centres": (1, 10_000),
            "size_km": (0.1, 1_000),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f"City.{name} is {getattr(self, name)}; choose a value in {low} to {high}")
