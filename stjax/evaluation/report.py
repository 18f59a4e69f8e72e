"""The result of an evaluation: one rank per target, and all that can be said from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stjax.evaluation.scored import Difference, Scored
from stjax.evaluation.segments import bands
from stjax.metrics import bootstrap_means, mean_and_error, metric, metric_names

Summary = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Report(Scored):
    """Ranks of all targets of a part, with what the numbers mean.

    filter_seen: how it was ranked. ks: of the metrics. rank: int32 (N,), from 1. facts: further arrays (N,),
    see `segments.facts`. The other fields are those of `Scored`.
    """

    filter_seen: bool
    ks: tuple[int, ...]
    rank: np.ndarray
    facts: Mapping[str, np.ndarray]

    @property
    def title(self) -> str:
        """How the ranking was made, in one line."""
        seen = "seen items filtered" if self.filter_seen else "seen items kept"
        return (
            f"{self.protocol}, {self.part}: {len(self):,} targets of {self.users:,} users, "
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
        return self.about | {
            "filter_seen": self.filter_seen,
            "metrics": self.summary(),
            "segments": self.segments(),
        }

    def _summary(self, mask: np.ndarray) -> dict[str, dict[str, float | None]]:
        summary = {}
        for name in metric_names(self.ks):
            mean, error = mean_and_error(self.values(name)[mask], self.user[mask])
            summary[name] = {"mean": mean, "standard_error": error}
        return summary


def paired(a: Report, b: Report, name: str, *, samples: int = 2000, seed: int = 0) -> Difference:
    """The difference a − b of one metric on the same targets, by bootstrap over users.

    Users are drawn with replacement and bring all their targets, so the error holds what the two
    scorers share out; it is mostly far below that of either mean.
    Raises ValueError where the targets, or the candidates, are not the same.
    """
    return paired_each(a, b, [name], samples=samples, seed=seed)[0]


def paired_each(
    a: Report, b: Report, names: Sequence[str], *, samples: int = 2000, seed: int = 0
) -> list[Difference]:
    """`paired` for several metrics, from the same draws of users."""
    tasks = [(r.protocol, r.part, r.filter_seen, r.candidates) for r in (a, b)]
    if tasks[0] != tasks[1] or not np.array_equal(a.row, b.row):
        raise ValueError(
            f"not the same ranking task: {a.label} on {a.title}; {b.label} on {b.title}. "
            "Evaluate both with the same dataset, part, limit and filter"
        )
    values = np.stack([a.values(name) - b.values(name) for name in names], axis=1)
    means = values.mean(axis=0).tolist()
    if a.users < 2:
        return [Difference(name, mean) for name, mean in zip(names, means, strict=True)]
    drawn = bootstrap_means(values, a.user, samples=samples, seed=seed).T
    return [Difference.of(*each) for each in zip(names, means, drawn, strict=True)]
