"""What a run says while it works: metrics.jsonl, TensorBoard scalars, a progress bar and a clock."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from stjax.events import Batch


class Clock:
    """Seconds by phase. One phase runs at a time; entering the next ends it."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._phase: str | None = None
        self._since = time.perf_counter()

    def enter(self, phase: str | None) -> None:
        """Go over to a phase; None stops the clock."""
        now = time.perf_counter()
        if self._phase is not None:
            self._seconds[self._phase] = self[self._phase]
        self._phase, self._since = phase, now

    def add(self, seconds: Mapping[str, float]) -> None:
        """Take in what earlier processes of the same run have spent."""
        for phase, spent in seconds.items():
            self._seconds[phase] = self._seconds.get(phase, 0.0) + spent

    def __getitem__(self, phase: str) -> float:
        """Seconds spent in a phase until now."""
        running = time.perf_counter() - self._since if phase == self._phase else 0.0
        return self._seconds.get(phase, 0.0) + running

    def seconds(self) -> dict[str, float]:
        """All phases, rounded to milliseconds."""
        self.enter(self._phase)
        return {phase: round(spent, 3) for phase, spent in self._seconds.items()}


@dataclass(frozen=True)
class Plan:
    """What the run is to do. metric: the one by which the best checkpoint is chosen."""

    steps: int
    per_epoch: int
    epochs: int
    metric: str


class Nothing:
    """In the place of a MetricLog, for a process that only helps."""

    def write(self, *line: Any) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class MetricLog:
    """Writes each line of numbers to metrics.jsonl and to TensorBoard.

    A line is {"kind": "train" | "validation", "step", "epoch", numbers..., "timing": {...}}. All but
    `timing` is a function of the experiment alone.
    """

    def __init__(self, folder: Path, step: int):
        """step: that of the restored state; later lines, of a killed process, are cut off."""
        self.file = folder / "metrics.jsonl"
        kept = [line for line in read_lines(self.file) if line["step"] <= step]
        partial = folder / ".metrics.jsonl.partial"
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.replace(self.file)
        self._lines = open(self.file, "a", buffering=1)  # noqa: SIM115 (closed in `close`)
        self._board = TensorBoard(folder / "tensorboard", step + 1)

    def close(self) -> None:
        """Write out what is buffered."""
        self._lines.close()
        self._board.close()

    def write(
        self,
        kind: str,
        step: int,
        epoch: float,
        numbers: Mapping[str, float],
        timing: Mapping[str, float],
    ) -> None:
        """One line. Numbers that are not finite (an average of nothing) become null."""
        plain = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        line = {"kind": kind, "step": step, "epoch": round(epoch, 4), **plain}
        self._lines.write(json.dumps(line | {"timing": dict(timing)}) + "\n")
        self._board.write(step, {f"{kind}/{name}": x for name, x in {**numbers, **timing}.items()})


class TensorBoard:
    """Scalars as TensorBoard reads them, written when they are given.

    SummaryWriter would write in a thread, which dies silently when the disk is full.
    """

    def __init__(self, folder: Path, first: int):
        """first: the step of the next line; what a killed process wrote from there on is hidden."""
        from tensorboardX import event_file_writer, proto  # here: slow to import

        folder.mkdir(exist_ok=True)
        self._proto: Any = proto
        self._writer = event_file_writer.EventsWriter(str(folder / "events"), f".{os.getpid()}")
        self._write(step=first, session_log=self._proto.event_pb2.SessionLog(status=1))  # START

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Scalars of one step, by tag."""
        summary = self._proto.summary_pb2.Summary()
        for tag, x in numbers.items():
            summary.value.add(tag=tag, simple_value=x)
        self._write(step=step, summary=summary)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, **content: Any) -> None:
        self._writer.write_event(self._proto.event_pb2.Event(wall_time=time.time(), **content))
        self._writer.flush()


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that a killed process left half written is dropped."""
    if not file.is_file():
        return []
    whole = file.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


class Narrator:
    """Tells of a run: numbers to the MetricLog, and to the console a progress bar and lines.

    Without a terminal there is no bar, only one line per validation. folder: None writes nothing.
    """

    def __init__(self, folder: Path | None, console: Console, clock: Clock, start: int, plan: Plan):
        self._log = Nothing() if folder is None else MetricLog(folder, start)
        self._console, self._clock, self._start, self._plan = console, clock, start, plan
        self._sequences = self._targets = 0.0
        self._began, self._since = time.monotonic(), clock["train"]
        self._numbers: dict[str, float] = {}
        self._rates: dict[str, float] = {}
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("step", total=plan.steps, completed=start, status="")

    def __enter__(self) -> Narrator:
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()
        self._log.close()

    def count(self, batch: Batch, parts: int = 1) -> None:
        """A batch whose step counts for the speed; of several equal parts this process has seen one."""
        self._sequences += parts * float((batch.weight.max(axis=1) > 0).sum())
        self._targets += parts * float(batch.weight.sum())

    def train(self, step: int, numbers: dict[str, float], best: float | None) -> None:
        """Means over the steps since the last such line."""
        seconds = max(self._clock["train"] - self._since, 1e-9)
        self._rates = {
            "sequences_per_second": round(self._sequences / seconds, 1),
            "targets_per_second": round(self._targets / seconds, 1),
        }
        self._sequences, self._targets, self._since = 0.0, 0.0, self._clock["train"]
        self._numbers = numbers
        self._log.write("train", step, step / self._plan.per_epoch, numbers, self._rates)
        self._bar.update(self._task, completed=step, status=self._status(step, best))

    def validation(self, step: int, means: dict[str, float], best: float | None) -> None:
        """Means over the validation targets, and the best so far of the selection metric."""
        metric = self._plan.metric
        self._log.write("validation", step, step / self._plan.per_epoch, means, {})
        text = f"validation {metric} {means[metric]:.4f}"
        self._console.print(f"{text}  {self._status(step, best)}", highlight=False)

    def _status(self, step: int, best: float | None) -> str:
        sequences, targets = self._rates.values()
        left = (time.monotonic() - self._began) / (step - self._start) * (self._plan.steps - step)
        parts = [
            f"epoch {step / self._plan.per_epoch:.1f}/{self._plan.epochs}",
            f"loss {self._numbers['loss']:.4f}",
            f"best {self._plan.metric} {best:.4f}" if best is not None else "",
            f"{sequences:,.0f} sequences/s",
            f"{targets:,.0f} targets/s",
            f"{timedelta(seconds=round(left))} left",
        ]
        return "  ".join(part for part in parts if part)
