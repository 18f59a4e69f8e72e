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

    Fields of one part are replaced together, so that a part whose fields are checked against each other never
    stands half changed. Raises ConfigError naming path, value and remedy.
    """
    return _changed(experiment, {tuple(path.split(".")): value for path, value in values.items()}, "")


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
    examples = list(_examples(experiment, space, base))
    if refit := {example.training.refit for example in examples} - {"none"}:
        raise ConfigError(
            f"training.refit {refit.pop()!r} trains on the validation part, by which a search chooses: set it"
            " to 'none'"
        )
    return examples


def _examples(experiment: Experiment, space: Space, base: str | None) -> Iterator[Experiment]:
    first = {path: dimension.examples()[0] for path, dimension in space.items()}
    for path, dimension in space.items():
        for value in dimension.examples():
            Writer(base).new(value)  # what has no code could not be written when it is the best
            yield changed(experiment, first | {path: value})


def _changed(owner: Any, values: Mapping[tuple[str, ...], Any], at: str) -> Any:
    """at: the path of the owner, with a dot at its end."""
    new: dict[str, Any] = {}
    for key in dict.fromkeys(keys[0] for keys in values):
        path = at + key
        inner = {keys[1:]: value for keys, value in values.items() if keys[0] == key and len(keys) > 1}
        old = _member(owner, key, at + ".".join(next(keys for keys in values if keys[0] == key)))
        if (key,) in values and not _fits(_hint(owner, key), values[key,]):
            wanted = getattr(_hint(owner, key), "__name__", _hint(owner, key))
            raise ConfigError(
                f"{path} cannot be {plain(values[key,])}: it must be {wanted}; now it is {plain(old)}. Mend"
                " the space"
            )
        value = values.get((key,), old)
        new[key] = _changed(value, inner, f"{path}.") if inner else value
    try:
        return _replaced(owner, new)
    except ConfigError:
        raise
    except (UserError, TypeError, ValueError) as error:  # of a class that checks its fields
        told = ", ".join(f"{at}{key} cannot be {plain(value)}" for key, value in new.items())
        raise ConfigError(f"{told}: {error}") from error


def _replaced(owner: Any, new: dict[str, Any]) -> Any:
    if isinstance(owner, Mapping):
        return {**owner, **new}
    if isinstance(owner, tuple):
        return tuple(new.get(str(k), old) for k, old in enumerate(owner))
    return owner.clone(**new) if hasattr(owner, "clone") else dataclasses.replace(owner, **new)


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
