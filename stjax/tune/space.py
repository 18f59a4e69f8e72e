"""What a search may change: dimensions by the dotted path of the field, the same as in train.py's overrides.

space = {"optimizer.learning_rate": Log(1e-3, 1e-2), "model.interest": Choice(GRU(), LSTM())}
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from stjax.errors import ConfigError
from stjax.tune.source import plain

DIGITS = 4  # significant, of a value that is drawn from an interval: more would only look exact


@dataclasses.dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(
                f"{self} must have a finite low below its high, else there is nothing to search"
            )

    def examples(self) -> tuple[Any, ...]:
        """Values between which all others lie."""
        return self.value(self.low), self.value(self.high)

    def stored(self, value: Any) -> float | None:
        """The value as the search stores it; None where it is not one of this dimension's."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if number and self.low <= value <= self.high else None

    def value(self, stored: Any) -> Any:
        """What is stored as a field takes it: rounded, within the ends."""
        return float(min(max(float(f"{stored:.{DIGITS}g}"), self.low), self.high))


@dataclasses.dataclass(frozen=True)
class Uniform(Interval):
    """A real number, each as likely as any other."""

    def suggest(self, trial: Any, path: str) -> float:
        return trial.suggest_float(path, self.low, self.high)


@dataclasses.dataclass(frozen=True)
class Log(Interval):
    """A positive real number whose logarithm is uniform: for rates and scales."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low <= 0:
            raise ConfigError(f"{self} must begin above 0; use Uniform for an interval with 0")

    def suggest(self, trial: Any, path: str) -> float:
        return trial.suggest_float(path, self.low, self.high, log=True)


@dataclasses.dataclass(frozen=True)
class Integers(Interval):
    """A whole number."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not (isinstance(self.low, int) and isinstance(self.high, int)):
            raise ConfigError(f"{self} must have whole numbers as its ends; use Uniform or Log for others")
        super().__post_init__()

    def suggest(self, trial: Any, path: str) -> int:
        return trial.suggest_int(path, self.low, self.high)

    def stored(self, value: Any) -> int | None:
        return value if isinstance(value, int) and super().stored(value) is not None else None

    def value(self, stored: Any) -> int:
        return int(stored)


@dataclasses.dataclass(frozen=True, init=False)
class Choice:
    """One of several values, of any kind: numbers, words, whole modules. They have no order."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)
        labels = self.labels
        if len(set(labels)) < len(labels) or len(labels) < 2:
            raise ConfigError(f"Choice({', '.join(labels)}) must have at least two values, all different")

    @property
    def labels(self) -> list[str]:
        """What is stored of each value: the code that makes it."""
        return [plain(value) for value in self.values]

    def examples(self) -> tuple[Any, ...]:
        return self.values

    def suggest(self, trial: Any, path: str) -> str:
        return trial.suggest_categorical(path, self.labels)

    def stored(self, value: Any) -> str | None:
        try:
            label = plain(value)
        except ConfigError:  # it has no code, so it is not one of the values
            return None
        return label if label in self.labels else None

    def value(self, stored: str) -> Any:
        return self.values[self.labels.index(stored)]


Dimension = Uniform | Log | Integers | Choice
Space = Mapping[str, Dimension]
