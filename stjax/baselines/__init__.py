"""What a model must beat: popularity, repetition, a Markov chain, neighbours, matrix factorization.

A baseline is a frozen dataclass with `known` and `fit(dataset) -> Scorer`; in a config it takes the place of
the model.
"""

from __future__ import annotations

from stjax.baselines.ials import IALS
from stjax.baselines.knn import ItemKNN
from stjax.baselines.markov import Markov
from stjax.baselines.personal import UserLast, UserMostFrequent
from stjax.baselines.popularity import MostPopular, PopularInHourOfWeek
from stjax.baselines.scorer import Scorer

Baseline = MostPopular | PopularInHourOfWeek | UserMostFrequent | UserLast | Markov | ItemKNN | IALS


def all_baselines(known: tuple[str, ...] = ()) -> tuple[Baseline, ...]:
    """The five of a result table; with "time" in `known`, two of them read the target's time."""
    known = tuple(name for name in known if name == "time")
    return (
        MostPopular(),
        PopularInHourOfWeek(known=known),
        UserMostFrequent(),
        UserLast(),
        Markov(known=known),
    )


__all__ = [
    "IALS",
    "Baseline",
    "ItemKNN",
    "Markov",
    "MostPopular",
    "PopularInHourOfWeek",
    "Scorer",
    "UserLast",
    "UserMostFrequent",
    "all_baselines",
]
