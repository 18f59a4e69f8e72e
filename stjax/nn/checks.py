"""A check of whole-number settings that every module shares."""

from __future__ import annotations

from numbers import Integral

from flax import linen as nn


def check_counts(module: nn.Module, *names: str, least: int = 1) -> None:
    """ValueError for a field that is no whole number of at least `least`: widths, layers, heads, windows."""
    for name in names:
        value = getattr(module, name)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(
                f"{name}={value!r} must be at least {least}, a whole number, in {type(module).__name__}"
            )
