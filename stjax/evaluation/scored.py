"""What reports have in common: who was asked, which targets, and how two of them are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scored:
    """A scorer and the targets that it was asked for.

    name, known: the scorer and the query fields it read. protocol, part, candidates: which targets, among how
    many items. row: int64 (N,), store rows, ascending. user: int64 (N,), for standard errors over users.
    """

    name: str
    known: tuple[str, ...]
    protocol: str
    part: str
    candidates: int
    row: np.ndarray
    user: np.ndarray

    def __len__(self) -> int:
        """Number of targets."""
        return len(self.row)

    @property
    def label(self) -> str:
        """The name with the query fields that were read, which change what a metric means."""
        return f"{self.name} (reads {', '.join(self.known)})" if self.known else self.name

    @property
    def users(self) -> int:
        """Number of users who have a target."""
        return len(np.unique(self.user))

    @property
    def about(self) -> dict[str, Any]:
        """All but the metrics, as JSON holds it."""
        return {
            "name": self.name,
            "known": list(self.known),
            "protocol": self.protocol,
            "part": self.part,
            "candidates": self.candidates,
            "targets": len(self),
            "users": self.users,
        }


@dataclass(frozen=True)
class Difference:
    """Mean of a metric of one report minus another's, with its bootstrap error and 95% interval.

    The error and the interval are None where all targets are of one user: one user has no spread.
    """

    metric: str
    mean: float
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, metric: str, mean: float, samples: np.ndarray) -> Difference:
        """With the error and the interval of bootstrap samples (S,) of the mean."""
        low, high = np.quantile(samples, [0.025, 0.975])
        return cls(metric, mean, float(samples.std(ddof=1)), float(low), float(high))
