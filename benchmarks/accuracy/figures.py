"""Figures as the tables of results show them."""

from __future__ import annotations

from statistics import fmean
from typing import Any


def paired(made: dict[str, Any], digits: int = 4) -> str:
    """A paired difference and its error, both averaged over seeds."""
    errors = made["standard_error"]
    return shown(fmean(made["mean"]), None if None in errors else fmean(errors), digits, sign=True)


def shown(mean: float, standard_error: float | None = None, digits: int = 3, sign: bool = False) -> str:
    """A figure without the zero before its point."""
    text = f"{mean:{'+' if sign else ''}.{digits}f}"
    text = text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text
    return text if standard_error is None else f"{text} ± {shown(standard_error, digits=digits)}"
