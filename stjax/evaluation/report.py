"""The result of an evaluation: one rank per target, and all that can be said from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stjax.evaluation.segments import bands
from stjax.metrics import bootstrap_means, mean_and_error, metric, metric_names

Summary = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Report:
    """Ranks of all targets of a part, with what the numbers mean.

    name, known: the scorer and the query fields it read. protocol, part, filter_seen, candidates:
    how it was ranked, and among how many items. rank: int32 (N,), from 1. row: int64 (N,), store
    rows, ascending. user: int64 (N,), for standard errors over users. facts: further arrays (N,),
    see `segments.facts`.
    """

    name: str
    known: tuple[str, ...]
    protocol: str
    part: str
    filter_seen: bool
    candidates: int
    ks: tuple[int, ...]
    rank: np.ndarray
    row: np.ndarray
    user: np.ndarray
    facts: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        """Number of targets."""
        return len(self.rank)

    @property
    def label(self) -> str:
        """The name with the query fields that were read, which change what a metric means."""
        return f"{self.name} (reads {', '.join(self.known)})" if self.known else self.name

    @property
    def title(self) -> str:
        """How the ranking was made, in one line."""
        seen = "seen items filtered" if self.filter_seen else "seen items kept"
        users = len(np.unique(self.user))
        return (
            f"{self.protocol}, {self.part}: {len(self):,} targets of {users:,} users, "
            f"full ranking of {self.candidates:,} items, {seen}"
        )

    def values(self, name: str) -> np.ndarray:
        """One metric of every target, float (N,), by any name that `stjax.metrics.metric` knows."""
        return np.asarray(metric(name, self.rank), np.float64)

    def mean(self, name: str) -> float:
        """Mean of one metric over the targets."""
        return float(self.values(name).mean())

    def summary(self) -> dict[str, dict[str, float | None]]:
        """{metric: {mean, standard_error}} over the targets, the errors clustered by user."""
        return self._summary(np.ones(len(self), bool))

    def segments(self) -> dict[str, dict[str, dict[str, Any]]]:
        """{breakdown: {band: {targets, users, metrics}}}, see `stjax.evaluation.segments`."""
        return {
            name: {
                band: {
                    "targets": int(mask.sum()),
                    "users": len(np.unique(self.user[mask])),
                    "metrics": self._summary(mask),
                }
                for band, mask in masks.items()
            }
            for name, masks in bands(dict(self.facts)).items()
        }

    def as_dict(self) -> dict[str, Any]:
        """All but the single ranks, as JSON holds it."""
        return {
            "name": self.name,
            "known": list(self.known),
            "protocol": self.protocol,
            "part": self.part,
            "filter_seen": self.filter_seen,
            "candidates": self.candidates,
            "targets": len(self),
            "users": len(np.unique(self.user)),
            "metrics": self.summary(),
            "segments": self.segments(),
        }

    def _summary(self, mask: np.ndarray) -> dict[str, dict[str, float | None]]:
        summary = {}
        for name in metric_names(self.ks):
            mean, error = mean_and_error(self.values(name)[mask], self.user[mask])
            summary[name] = {"mean": mean, "standard_error": error}
        return summary


@dataclass(frozen=True)
class Difference:
    """Mean of a metric of one report minus another's, with its bootstrap error and 95% interval.

    The error and the interval are None where all targets are of one user: one user has no spread.
    """

    metric: str
    mean: float
    standard_error: float | None
    low: float | None
    high: float | None


def paired(a: Report, b: Report, name: str, *, samples: int = 2000, seed: int = 0) -> Difference:
    """The difference a − b of one metric on the same targets, by bootstrap over users.

    Users are drawn with replacement and bring all their targets, so the error holds what the two
    scorers share out; it is mostly far below that of either mean.
    Raises ValueError where the targets, or the candidates, are not the same.
    """
    if (a.protocol, a.part, a.filter_seen, a.candidates) != (
        b.protocol,
        b.part,
        b.filter_seen,
        b.candidates,
    ) or not np.array_equal(a.row, b.row):
        raise ValueError(
            f"not the same ranking task: {a.label} on {a.title}; {b.label} on {b.title}. "
            "Evaluate both with the same dataset, part, limit and filter"
        )
    difference = a.values(name) - b.values(name)
    if len(np.unique(a.user)) < 2:
        return Difference(name, float(difference.mean()), None, None, None)
    means = bootstrap_means(difference, a.user, samples=samples, seed=seed)
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(name, float(difference.mean()), float(means.std(ddof=1)), float(low), float(high))
