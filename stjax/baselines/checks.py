"""Checks of settings, when a baseline is built."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stjax.errors import ConfigError


def check(
    settings: object,
    *,
    counts: Sequence[str] = (),
    positive: Sequence[str] = (),
    not_negative: Sequence[str] = (),
) -> None:
    """ConfigError for a field that cannot work, by name: counts from 1; finite numbers above 0, or from 0;
    `known` what it has a use for."""
    known, uses = getattr(settings, "known", ()), getattr(settings, "uses", ())
    if unused := [name for name in known if name not in uses]:
        raise ConfigError(f"known={known}: {type(settings).__name__} has no use for {unused}, only {uses}")
    for names, fits, bound in (
        (counts, lambda x: x >= 1, "at least 1"),
        (positive, lambda x: 0 < x < math.inf, "above 0 and finite"),
        (not_negative, lambda x: 0 <= x < math.inf, "at least 0 and finite"),
    ):
        for name in names:
            value = getattr(settings, name)
            if not fits(value):  # nor does NaN
                raise ConfigError(f"{name}={value} must be {bound}")
