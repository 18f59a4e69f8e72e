"""A log whose events have the place of the phone that asked, some way from the venue that was then chosen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from stjax.cache import cache_folder
from stjax.data.sources import VERSION, Quickstart
from stjax.data.store import EventStore, write_store

KM_PER_DEGREE = 111.2


@dataclass(frozen=True)
class Nearby:
    """The check-ins of a source, each moved away from its venue; the venues stay where they are.

    A check-in happens at its venue: a model that reads such places at the request would be told the answer.
    What a service knows is where somebody is before they go. Distances are exponential with a mean of
    `km`, directions uniform.
    """

    source: Quickstart = field(default_factory=Quickstart)
    km: float = 0.5
    seed: int = 0

    def open(self) -> EventStore:
        """Make once and open."""
        key = hashlib.sha256(repr((self, VERSION)).encode()).hexdigest()[:16]
        out = cache_folder("stores") / f"nearby-{key}"
        if (out / "schema.json").is_file():
            return EventStore.open(out)
        log = self.source.open()
        names = ["item", "user", *(f.name for f in log.schema.fields if f.kind in ("categorical", "multi"))]
        return write_store(
            out,
            schema=log.schema,
            offsets=log.offsets,
            columns={**log.columns, "place": self._moved(np.asarray(log.columns["place"]))},
            items=log.items,
            vocabulary={name: log.vocabulary(name) for name in names},
            quality=log.quality,
            users=log.user_fields,
        )

    def _moved(self, place: np.ndarray) -> np.ndarray:
        """Degrees (N, 2)."""
        random = np.random.default_rng(self.seed)
        degrees = random.exponential(self.km, len(place)) / KM_PER_DEGREE
        angle = random.uniform(0, 2 * np.pi, len(place))
        north, east = degrees * np.sin(angle), degrees * np.cos(angle) / np.cos(np.radians(place[:, 0]))
        return (place + np.stack([north, east], axis=1)).astype(np.float32)
