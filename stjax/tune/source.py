"""Objects as the code that makes them, so that a search can write a config file that people read.

Known are numbers, texts, None, tuples, lists, mappings, paths, enumerations, classes, functions, dataclasses
and Linen modules.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from stjax.errors import ConfigError

WIDTH, STEP = 100, 4


@dataclasses.dataclass(frozen=True)
class Block:
    """Code in brackets: on one line where it fits, else an entry a line. Entries are (prefix, code)."""

    head: str
    entries: tuple[tuple[str, Code], ...]
    tail: str

    def flat(self) -> str:
        inner = ", ".join(prefix + flat(code) for prefix, code in self.entries)
        return f"{self.head}{inner}{',' if self.head == '(' and len(self.entries) == 1 else ''}{self.tail}"

    def lines(self, indent: int) -> str:
        pad = " " * (indent + STEP)
        inner = "".join(
            f"{pad}{prefix}{render(code, indent + STEP, len(prefix))},\n" for prefix, code in self.entries
        )
        return f"{self.head}\n{inner}{' ' * indent}{self.tail}"


Code = str | Block


def flat(code: Code) -> str:
    """On one line."""
    return code if isinstance(code, str) else code.flat()


def render(code: Code, indent: int = 0, used: int = 0) -> str:
    """Over as many lines as it needs. used: characters before it on its line, without the indentation."""
    line = flat(code)
    return line if isinstance(code, str) or indent + used + len(line) <= WIDTH else code.lines(indent)


class Writer:
    """Writes code and remembers what it has to import.

    base: name of the module of the config that the code builds on, whose own classes are read from the
    variable `base`.
    """

    def __init__(self, base: str | None = None) -> None:
        self._base = base
        self._imports: dict[str, set[str]] = {}

    def imports(self) -> list[str]:
        """The import lines of what was written so far: the standard library, a blank line, the others."""
        groups: dict[bool, list[str]] = {False: [], True: []}
        for module in sorted(self._imports):
            line = f"from {module} import {', '.join(sorted(self._imports[module]))}"
            groups[module.split(".")[0] not in sys.stdlib_module_names].append(line)
        return [*groups[False], *([""] if groups[False] else []), *groups[True]]

    def new(self, value: Any) -> Code:
        """Code that makes the value. Raises ConfigError where there is none."""
        if isinstance(value, enum.Enum):
            return f"{self._name(type(value))}.{value.name}"
        if isinstance(value, float) and not math.isfinite(value):
            return f'float("{value}")'
        if isinstance(value, str):
            return text(value)
        if value is None or isinstance(value, bool | int | float):
            return repr(value)
        if isinstance(value, os.PathLike):
            return Block(f"{self.name('pathlib', 'Path')}(", (("", text(os.fspath(value))),), ")")
        if isinstance(value, tuple | list):
            head, tail = "()" if isinstance(value, tuple) else "[]"
            return Block(head, tuple(("", self.new(x)) for x in value), tail)
        if isinstance(value, Mapping):
            return Block("{", tuple((f"{text(key)}: ", self.new(x)) for key, x in value.items()), "}")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            given = [name for name, x in fields(value).items() if not _default(value, name, x)]
            entries = tuple((f"{name}=", self.new(getattr(value, name))) for name in given)
            return Block(f"{self._name(type(value))}(", entries, ")")
        if hasattr(value, "__qualname__"):
            return self._name(value)
        raise ConfigError(f"{value!r} cannot be written into a config file: give plain values or dataclasses")

    def change(self, name: str, old: Any, new: Any) -> Code:
        """Code that makes `new` of `old`, which the code has under `name`, by what differs alone."""
        if same(old, new):
            return name
        if dataclasses.is_dataclass(old) and kind(old) == kind(new):
            there = fields(old)
            differing = [k for k, x in fields(new).items() if not same(there[k], x)]
            entries = tuple(
                (f"{k}=", self.change(f"{name}.{k}", there[k], getattr(new, k))) for k in differing
            )
            if hasattr(old, "clone"):
                return Block(f"{name}.clone(", entries, ")")
            return Block(f"{self.name('dataclasses', 'replace')}(", (("", name), *entries), ")")
        if isinstance(old, Mapping) and isinstance(new, Mapping) and list(old) == list(new):
            entries = tuple(
                (f"{text(k)}: ", self.change(f"{name}[{text(k)}]", old[k], x))
                for k, x in new.items()
                if not same(old[k], x)
            )
            return Block("{", (("**", name), *entries), "}")
        return self.new(new)

    def _name(self, thing: Any) -> str:
        module, name = thing.__module__, thing.__qualname__
        if module == self._base:
            return f"base.{name}"
        for public in _prefixes(module):  # the shortest of the packages that offer it
            if getattr(sys.modules.get(public), name, None) is thing:
                return self.name(public, name)
        raise ConfigError(f"{module}.{name} cannot be imported by name: define it at the top of a module")

    def name(self, module: str, name: str) -> str:
        """A name of a module, which will be imported."""
        if module != "builtins":
            self._imports.setdefault(module, set()).add(name)
        return name


class _Words(Writer):
    """Code for people: classes by their bare names."""

    def _name(self, thing: Any) -> str:
        return thing.__qualname__

    def name(self, module: str, name: str) -> str:
        return name


def plain(value: Any) -> str:
    """The code of a value on one line, without its imports. Raises ConfigError where there is none."""
    return flat(_Words().new(value))


def fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass or Linen module that a config sets, by name."""
    hidden = {"parent", "name"} if hasattr(value, "clone") else set()
    return {
        f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init and f.name not in hidden
    }


def kind(value: Any) -> tuple[str, str]:
    """Module and name of the class: a config that is loaded twice has the same classes twice."""
    return type(value).__module__, type(value).__qualname__


def text(value: Any) -> str:
    """A text, or another key of a mapping, as code; in double quotes where that needs no escapes."""
    escaped = not isinstance(value, str) or not value.isprintable() or any(sign in value for sign in '"\\')
    return repr(value) if escaped else f'"{value}"'


def same(a: Any, b: Any) -> bool:
    """Whether two parts of a config are equal, whichever kind of mapping or float they are."""
    if dataclasses.is_dataclass(a) and kind(a) == kind(b):
        return all(same(x, y) for x, y in zip(fields(a).values(), fields(b).values(), strict=True))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list) and type(a) is type(b):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def _default(value: Any, name: str, given: Any) -> bool:
    field = type(value).__dataclass_fields__[name]
    if field.default_factory is not dataclasses.MISSING:
        return same(field.default_factory(), given)
    return field.default is not dataclasses.MISSING and same(field.default, given)


def _prefixes(module: str) -> Iterable[str]:
    parts = module.split(".")
    return (".".join(parts[:k]) for k in range(1, len(parts) + 1))
