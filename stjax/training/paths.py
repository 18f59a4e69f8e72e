"""Paths of parameters, by which rules of sharding, decay and updates know them."""

from __future__ import annotations

import re
from typing import Any

# A path ends so where rows are ids of a vocabulary; moments have the path of their parameter at their end.
VOCABULARIES = {
    "item": re.compile(r"(.*/)?(items/(table|embedding)|head/bias/bias)"),
    "user": re.compile(r"(.*/)?users/(table|embedding)"),
}
MEMBER = "member/"  # of an ensemble: the parameters of all members, each with a leading dimension


def named(path: Any) -> str:
    """A path of a tree as text: items/table."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def of_member(name: str) -> tuple[str, int]:
    """The path that a parameter has in a single model, and how many dimensions an ensemble puts before it."""
    return (name.removeprefix(MEMBER), 1) if name.startswith(MEMBER) else (name, 0)


def vocabulary_of(name: str) -> str | None:
    """Whose ids the rows of a parameter are: "item", "user", or None."""
    return next((word for word, pattern in VOCABULARIES.items() if pattern.fullmatch(name)), None)
