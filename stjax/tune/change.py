"""Experiments with fields replaced, by dotted paths into dataclasses, Linen modules, mappings, tuples."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from stjax.errors import ConfigError, UserError
from stjax.training import Experiment
from stjax.tune.source import Writer, fields, plain
from stjax.tune.space import Space


def changed(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """The experiment with a value at each path; where one path leads into another's value, that comes first.

    Raises ConfigError naming path, value and remedy.
    """
    for path in sorted(values, key=lambda path: path.count(".")):
        try:
            experiment = _replaced(experiment, path.split("."), values[path], path)
        except ConfigError:
            raise
        except (UserError, TypeError, ValueError) as error:  # of a class that checks its fields
            raise ConfigError(f"{path} cannot be {plain(values[path])}: {error}") from error
    return experiment


def value_at(experiment: Experiment, path: str) -> Any:
    """What stands at a path. Raises ConfigError where the path leads nowhere."""
    value: Any = experiment
    for key in path.split("."):
        value = _member(value, key, path)
    return value


def check(experiment: Experiment, space: Any, base: str | None = None) -> list[Experiment]:
    """The experiments with each dimension at each of its examples in turn, the others at their first.

    base: name of the config's module. Raises ConfigError for what is no space, for an unknown path and for
    a value that does not fit.
    """
    if not isinstance(space, Mapping) or not all(hasattr(d, "suggest") for d in space.values()):
        raise ConfigError(
            f"`space` must be a mapping from paths to Log, Uniform, Integers or Choice, not {space!r}"
        )
    if not space:
        raise ConfigError("`space` is empty: there is nothing to search; name at least one field")
    return list(_examples(experiment, space, base))


def _examples(experiment: Experiment, space: Space, base: str | None) -> Iterator[Experiment]:
    first = {path: dimension.examples()[0] for path, dimension in space.items()}
    for path, dimension in space.items():
        for value in dimension.examples():
            Writer(base).new(value)  # what has no code could not be written when it is the best
            yield changed(experiment, first | {path: value})


def _replaced(owner: Any, keys: list[str], value: Any, path: str) -> Any:
    key, *rest = keys
    old = _member(owner, key, path)
    new = _replaced(old, rest, value, path) if rest else value
    if isinstance(owner, Mapping):
        return {**owner, key: new}
    if isinstance(owner, tuple):
        return (*owner[: int(key)], new, *owner[int(key) + 1 :])
    if not rest and not _fits(_hint(owner, key), new):
        wanted = getattr(_hint(owner, key), "__name__", _hint(owner, key))
        raise ConfigError(
            f"{path} cannot be {plain(new)}: it must be {wanted}; now it is {plain(old)}. Mend the space"
        )
    return owner.clone(**{key: new}) if hasattr(owner, "clone") else dataclasses.replace(owner, **{key: new})


def _member(owner: Any, key: str, path: str) -> Any:
    if isinstance(owner, Mapping):
        there = dict(owner)
    elif isinstance(owner, tuple):
        there = {str(k): x for k, x in enumerate(owner)}
    else:
        there = fields(owner) if dataclasses.is_dataclass(owner) else {}
    if key not in there:
        has = f"has {', '.join(map(str, there))}" if there else "has no fields"
        raise ConfigError(
            f"the space's path {path!r} leads nowhere: at {key!r}, {type(owner).__name__} {has}"
        )
    return there[key]


def _hint(owner: Any, key: str) -> Any:
    try:
        return typing.get_type_hints(type(owner)).get(key, Any)
    except (NameError, TypeError):  # a name that only a type checker knows
        return Any


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value may stand in a field of this type; True where the type says too little to tell."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(kind, value) for kind in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if origin is typing.Annotated:
        return _fits(typing.get_args(hint)[0], value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    kind = origin or hint
    try:
        return kind is Any or isinstance(value, kind)
    except TypeError:  # a protocol, a type variable
        return True
