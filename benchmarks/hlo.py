"""What a compiled program does, read from the text of its HLO: collectives, and traffic with the memory.

A loop counts as often as it runs. Arrays of the chip's own memory, S(1), cost nothing; of one that is read or
updated in place, the part counts; of a kernel, what it says itself. It reads the text that libtpu writes, and
is an estimate.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
SIZES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2}
SIZES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8}
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"}
FREE |= {"iota", "after-all", "partition-id", "replica-id", "optimization-barrier"}
ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?")
CALLED = re.compile(r"(?:calls|body|to_apply|true_computation|false_computation)=%([\w.-]+)")
SLICES = {"dynamic-slice", "gather", "slice"}


class Array(NamedTuple):
    """One array of an instruction's result; `far`: in HBM."""

    shape: tuple[int, ...]
    bytes: int
    far: bool


class Instruction(NamedTuple):
    """name = result opcode(inside), rest; operands: the names inside."""

    name: str
    result: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    inside: str
    rest: str


@dataclass(frozen=True)
class Collective:
    """kind: of KINDS. shape: of the result, of several the largest. bytes: of all results. group: chips that
    take part together. sent: by a chip, where a ring does it. count: how often a step runs it."""

    kind: str
    shape: tuple[int, ...]
    bytes: int
    group: int
    sent: float
    count: int


@dataclass
class Program:
    """A compiled program as text, read."""

    text: str
    computations: dict[str, list[Instruction]] = field(init=False)
    entry: str = field(init=False)

    def __post_init__(self) -> None:
        self.computations, current = {}, []
        for line in self.text.splitlines():
            if head := re.match(r"(ENTRY )?%([\w.-]+) \(.*\{$", line):
                current = self.computations[head[2]] = []
                if head[1]:
                    self.entry = head[2]
            elif match := re.match(r"\s+(?:ROOT )?%([\w.-]+) = (.*)", line):
                current.append(_instruction(match[1], match[2]))

    def executed(self) -> Counter[str]:
        """How often each computation runs: a loop's body as often as its condition's constant says."""
        times: Counter[str] = Counter()

        def visit(name: str, count: int) -> None:
            times[name] += count
            for i in self.computations[name]:
                inner = count * (self._trips(i) if i.opcode == "while" else 1)
                called = CALLED.findall(i.rest)
                if branches := re.search(r"branch_computations=\{([^}]*)\}", i.rest):
                    called += re.findall(r"%([\w.-]+)", branches[1])
                for other in called:
                    if other in self.computations:
                        visit(other, inner)

        visit(self.entry, 1)
        return times

    def collectives(self) -> list[Collective]:
        """Every collective; equal ones together, what moves most first."""
        found: Counter[Any] = Counter()
        seen: set[str] = set()
        for name, times in self.executed().items():
            for i in self.computations[name]:
                kind = i.opcode.removesuffix("-start")
                channel = re.search(r"channel_id=(\d+)", i.rest)
                # An asynchronous one is written once for each piece of work that it runs beside.
                if kind not in KINDS or (channel and channel[1] in seen):
                    continue
                seen |= {channel[1]} if channel else set()
                arrays = [a for a in i.result if a.shape or kind == "all-reduce"]
                if i.opcode.endswith("-start") and kind != "all-reduce":  # (operands, results)
                    arrays = arrays[len(arrays) // 2 :]
                size, group = sum(a.bytes for a in arrays), _group(i.rest)
                shape = max(arrays, key=lambda a: a.bytes).shape
                found[kind, shape, size, group] += times
        each = [
            Collective(kind, shape, size, group, _sent(kind, size, group), n)
            for (kind, shape, size, group), n in found.items()
        ]
        return sorted(each, key=lambda c: -c.sent * c.count)

    def hbm_bytes(self) -> int:
        """Read and written in HBM: of a part of an array that is read or updated in place, that part."""
        total = 0
        inner = {c for body in self.computations.values() for i in body for c in _fused(i)}
        for name, times in self.executed().items():
            if name in inner:
                continue
            body = self.computations[name]
            arrays = {i.name: i.result for i in body}
            total += times * sum(self._moved(i, arrays) for i in body)
        return total

    def _moved(self, i: Instruction, arrays: dict[str, tuple[Array, ...]]) -> int:
        if i.opcode in FREE or i.opcode.endswith(("-done", "-update")):
            return 0
        written = sum(a.bytes for a in i.result if a.far)
        if i.opcode.endswith("-start"):  # the result names source and target
            return written
        operands = [arrays.get(o, ()) for o in i.operands]
        read = [sum(a.bytes for a in o if a.far) for o in operands]
        if i.opcode == "dynamic-update-slice":
            return 2 * read[1]
        if i.opcode == "scatter":
            return 3 * read[-1]
        if i.opcode in SLICES:
            return 2 * written
        if i.opcode == "custom-call" and (stated := re.search(r'"bytes_accessed":"(\d+)"', i.rest)):
            return int(stated[1])
        if i.opcode == "fusion" and (called := CALLED.search(i.rest)):
            return self._fusion(self.computations[called[1]], read, written)
        return sum(read) + written

    def _fusion(self, body: list[Instruction], read: list[int], written: int) -> int:
        """Operands of which only parts are used count so much; what is updated in place, as its update."""
        total = sum(
            min(read[int(i.inside)], self._used(body, i.name)) for i in body if i.opcode == "parameter"
        )
        for whole, update in self._updates(body):
            if written >= whole:
                written -= whole - 2 * update
        return total + written

    def _used(self, body: list[Instruction], name: str) -> int:
        """Bytes that a computation reads of an array of its own, also within fusions of the fusion."""
        sizes = {i.name: sum(a.bytes for a in i.result) for i in body}
        total = 0
        for user in body:
            for k, operand in enumerate(user.operands):
                if operand != name or (k == 0 and user.opcode in ("dynamic-update-slice", "scatter")):
                    continue
                if user.opcode == "bitcast":
                    total += self._used(body, user.name)
                elif k == 0 and user.opcode in SLICES:
                    total += sizes[user.name]
                elif user.opcode == "fusion" and (called := CALLED.search(user.rest)):
                    inner = self.computations[called[1]]
                    own = (i.name for i in inner if i.opcode == "parameter" and int(i.inside) == k)
                    total += sum(self._used(inner, n) for n in own)
                else:
                    return sizes[name]
        return min(total, sizes[name])

    def _updates(self, body: list[Instruction]) -> Iterator[tuple[int, int]]:
        """Bytes of arrays that are updated in place, and of the updates."""
        sizes = {i.name: sum(a.bytes for a in i.result) for i in body}
        for i in body:
            if i.opcode in ("dynamic-update-slice", "scatter"):
                yield sizes[i.name], sizes.get(i.operands[-1 if i.opcode == "scatter" else 1], 0)
            elif i.opcode == "fusion" and (called := CALLED.search(i.rest)):
                yield from self._updates(self.computations[called[1]])

    def _trips(self, loop: Instruction) -> int:
        condition = re.search(r"condition=%([\w.-]+)", loop.rest)
        body = self.computations.get(condition[1], []) if condition else []
        limits = [int(i.inside) for i in body if i.opcode == "constant" and i.inside.isdecimal()]
        return max(limits, default=1)


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text) + 1 if text.startswith("(") else text.index(" ")
    result, rest = text[:end], text[end:].strip()
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest) - 1
    inside = rest[:end]
    operands = tuple(re.findall(r"%([\w.-]+)", inside))
    return Instruction(name, _arrays(result), opcode, operands, inside, rest[end + 1 :])


def _closing(text: str) -> int:
    """Where the parenthesis that text begins with is closed."""
    depth = 0
    for k, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return k
    raise ValueError(f"not closed: {text[:80]}")


def _arrays(text: str) -> tuple[Array, ...]:
    found = []
    for kind, dims, layout in ARRAY.findall(text):
        shape = tuple(int(n) for n in dims.split(",") if n)
        found.append(Array(shape, int(math.prod(shape) * SIZES.get(kind, 4)), "S(" not in layout))
    return tuple(found)


def _fused(i: Instruction) -> list[str]:
    """What is computed inside of an instruction: its own operands and result say what moves."""
    return CALLED.findall(i.rest) if i.opcode not in ("while", "conditional", "call") else []


def _group(rest: str) -> int:
    """How many chips take part together."""
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    return 2 if "source_target_pairs" in rest else 1


def _sent(kind: str, size: int, group: int) -> float:
    """Bytes that a chip sends, where a ring does it; size: of the result."""
    if kind == "collective-permute":
        return size
    each = size * (group - 1) / group
    return {"all-reduce": 2 * each, "reduce-scatter": each * group}.get(kind, each)
