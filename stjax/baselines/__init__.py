"""What a model must beat: popularity, repetition, a Markov chain, neighbours, matrix factorization.

A baseline is a frozen dataclass with `known` and `fit(dataset) -> Scorer`; in a config it takes the place of
the model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stjax.baselines.bpr import BPR
from stjax.baselines.here import PopularHere
from stjax.baselines.ials import IALS
from stjax.baselines.knn import ItemKNN
from stjax.baselines.markov import Markov
from stjax.baselines.personal import UserLast, UserMostFrequent
from stjax.baselines.popularity import MostPopular, PopularInHourOfWeek
from stjax.baselines.scorer import Scorer

Baseline = (
    MostPopular
    | PopularInHourOfWeek
    | PopularHere
    | UserMostFrequent
    | UserLast
    | Markov
    | ItemKNN
    | IALS
    | BPR
)


def all_baselines(known: tuple[str, ...] = ()) -> tuple[Baseline, ...]:
    """The five of a result table; with "time" in `known`, two of them read the target's time."""
    five = MostPopular(), PopularInHourOfWeek(), UserMostFrequent(), UserLast(), Markov()
    return tuple(reading(baseline, known) for baseline in five)


def reading(baseline: Any, known: tuple[str, ...]) -> Any:
    """The same baseline, with as much of the request known as it has a use for; most have none."""
    use = getattr(baseline, "uses", ())
    return replace(baseline, known=tuple(name for name in known if name in use)) if use else baseline


__all__ = [
    "BPR",
    "IALS",
    "Baseline",
    "ItemKNN",
    "Markov",
    "MostPopular",
    "PopularHere",
    "PopularInHourOfWeek",
    "Scorer",
    "UserLast",
    "UserMostFrequent",
    "all_baselines",
    "reading",
]
