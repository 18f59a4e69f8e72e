"""Two files of results side by side: what has changed by more than it varies.

    python -m benchmarks.compare BEFORE.jsonl AFTER.jsonl [--tolerance 0.1] [--all]

Each file holds the JSON lines of any benchmark here, best several runs of it appended to each other. Lines
are of the same measurement where all their words, switches and whole numbers agree (versions and machines
apart, whose differences are told first); what is compared are their measured numbers: milliseconds,
seconds, bytes, ratios, rates. A number has changed where the medians differ by more than the larger spread
(highest less lowest value) within either file, and by more than --tolerance of the earlier one. Exits with
1 where anything got worse: times and bytes that grew, rates and ratios that fell.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

MACHINE = (
    "device",
    "cpus",
    "jax",
    "python",
    "polars",
    "numpy",
    "hardware",
    "versions",
    "load",
    "load_before",
)
# Words of a name, as they stand between "_", ".", and spaces: "items" does not speak of "ms".
MORE_IS_BETTER = {"second", "ratio", "times", "share", "mfu"}  # a "second": so many per second
LESS_IS_BETTER = {"milliseconds", "seconds", "bytes", "ms", "megabytes", "mbyte", "gib", "after", "warm"}
LESS_IS_BETTER |= {"observe", "recommend", "step", "again", "flops"}  # of the engine, in milliseconds
Key = tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """A measured number in both files. spread: the larger range within either, as a share of `before`."""

    key: Key
    name: str
    before: float
    after: float
    spread: float
    runs: tuple[int, int]

    @property
    def relative(self) -> float:
        """Change as a share of the earlier value; infinite where that was 0."""
        change = self.after - self.before
        if self.before:
            return change / abs(self.before)
        return math.copysign(math.inf, change) if change else 0.0

    def beyond(self, tolerance: float) -> bool:
        """Whether it is more than chance and the tolerance explain."""
        return abs(self.relative) > max(self.spread, tolerance)

    @property
    def worse(self) -> bool:
        """Whether the change is for the worse, by the name of the number."""
        return self.relative * direction(self.name) < 0


def direction(name: str) -> int:
    """1 where more is better, -1 where less is, 0 where the name does not tell."""
    words = set(re.split(r"[_. \[\]]+", name))
    if words & MORE_IS_BETTER:
        return 1
    return -1 if words & LESS_IS_BETTER else 0


def read(lines: Iterable[str]) -> tuple[dict[Key, dict[str, list[float]]], dict[str, set[str]]]:
    """Values of every measurement by name, and what is told of machines."""
    found: dict[Key, dict[str, list[float]]] = {}
    machines: dict[str, set[str]] = {}
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise SystemExit(f"line {number} is not JSON ({error}): {text[:80]!r}") from error
        for name in MACHINE:
            if name in line:
                machines.setdefault(name, set()).add(json.dumps(line.pop(name)))
        line = dict(flat(line))
        measured = dict(numbers(line))
        key = tuple(f"{n}={v}" for n, v in line.items() if n not in {m.split("[")[0] for m in measured})
        own = found.setdefault(key, {})
        for name, value in measured.items():
            own.setdefault(name, []).append(value)
    return found, machines


def flat(line: Mapping[str, Any], within: str = "") -> Iterable[tuple[str, Any]]:
    """Every value, one of an inner object as "outer.inner"; without lists of objects, which are details."""
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{within}{name}.")
        elif not (isinstance(value, list) and any(isinstance(v, Mapping) for v in value)):
            yield within + name, value


def numbers(line: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """What is measured in a line: fractions, the first of lists [median, p99] and of those of each round, and
    whole numbers of a measure's name."""
    for name, value in line.items():
        if isinstance(value, list) and value and all(isinstance(v, float | int) for v in value):
            if direction(name):
                yield f"{name}[0]", float(value[0])
        elif isinstance(value, float) or (type(value) is int and direction(name)):
            yield name, float(value)


def compare(before: Mapping[Key, Any], after: Mapping[Key, Any]) -> list[Change]:
    """All numbers that both files hold."""
    changes = []
    for key in before:
        for name, old in before[key].items():
            new = after.get(key, {}).get(name)
            if new is None:
                continue
            middle = median(old)
            spread = max(max(old) - min(old), max(new) - min(new)) / abs(middle) if middle else 0.0
            changes.append(Change(key, name, middle, median(new), spread, (len(old), len(new))))
    return changes


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.1)
    parser.add_argument("--all", action="store_true", help="show also what has not changed")
    args = parser.parse_args(arguments)
    (old, was), (new, now) = (read(path.read_text().splitlines()) for path in (args.before, args.after))
    console = Console(soft_wrap=True, highlight=False)
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name):
            sides = [", ".join(sorted(side.get(name, {"unknown"}))) for side in (was, now)]
            console.print(f"not the same machine or versions: {name}: {sides[0]} -> {sides[1]}")
    changes = compare(old, new)
    shown = [c for c in changes if args.all or c.beyond(args.tolerance)]
    table = Table("measurement", "number", "before", "after", "change", "spread", "runs", "")
    for c in shown:
        verdict = "worse" if c.worse else "better" if direction(c.name) else "changed"
        verdict = verdict if c.beyond(args.tolerance) else ""
        table.add_row(
            " ".join(c.key), c.name, f"{c.before:,.4g}", f"{c.after:,.4g}", f"{c.relative:+.1%}",
            f"{c.spread:.1%}", f"{c.runs[0]}, {c.runs[1]}", verdict,
        )  # fmt: skip
    if shown:
        console.print(table)
    lost, came = len(old.keys() - new.keys()), len(new.keys() - old.keys())
    console.print(
        f"{len(changes)} numbers compared, {sum(c.beyond(args.tolerance) for c in changes)} changed"
    )
    if lost or came:
        console.print(f"{lost} measurements are only in {args.before}, {came} only in {args.after}")
    if min((n for c in changes for n in c.runs), default=2) < 2:
        console.print("some were measured once: their spread is unknown, only --tolerance guards them")
    return int(any(c.worse and c.beyond(args.tolerance) for c in changes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
