"""Sizes and limits of an engine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from stjax.errors import ConfigError
from stjax.training.experiment import Sharding


@dataclass(frozen=True)
class Shapes:
    """Sizes that programs are compiled for; what comes is filled up to the next.

    batches: users of one call. chunks: events of one user that are read at once. tops: K of an answer.
    """

    batches: tuple[int, ...] = (1, 8, 64)
    chunks: tuple[int, ...] = (1, 8)
    tops: tuple[int, ...] = (10, 100)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            sizes = getattr(self, f.name)
            if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
                raise ConfigError(f"{f.name}={sizes} must be sizes of at least 1, ascending")


@dataclass(frozen=True)
class Settings:
    """Fixed when an engine starts.

    capacity: users whose states are on the device. users: in all, on the device or in host memory.
    lateness: seconds by which an event may come after a later one of its user. waiting: events of a user
    that wait for such, at most. future: seconds that a time may be ahead of the clock.
    ids_kept: so many of a user's last accepted events with an `id` are known where they come again; 16 bytes
    of the host each, when they came. A sender must repeat an event before as many others of its user.
    spare_items: rows for items that training has not seen, see `Engine.add_items`.
    sync: whether an event is on the disk, not just with the system, before it is acknowledged.
    snapshot_every: events after which the states are saved anew; the journal before that is then dropped.
    sharding: of several devices, all that this process has: `data` of them share the slots, so that it must
    divide `capacity`, and `model` the items, so that it must divide those of training and the spare ones
    together, and the tables of parameters (by the run's own rows_multiple). None: one device.
    """

    capacity: int = 1024
    users: int = 100_000
    lateness: int = 0
    waiting: int = 16
    future: int = 300
    ids_kept: int = 32
    spare_items: int = 0
    shapes: Shapes = Shapes()
    sync: bool = True
    snapshot_every: int = 100_000
    sharding: Sharding | None = None

    def __post_init__(self) -> None:
        for name in ("capacity", "users", "waiting", "snapshot_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("lateness", "future", "ids_kept", "spare_items"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 0")
