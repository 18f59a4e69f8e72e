"""`python -m tests.killed_servers WHAT FOLDER ...`: processes that are killed while they write.

`journal FOLDER RUNS`: one process after the other goes on with the journal of the folder and is killed, half
of them at a random time and half between two calls of the system or in the middle of a write. A line
LAST RUN BATCH SIZE REPAIRED is printed for each append that was acknowledged.

`snapshots FOLDER`: one process after the other saves a snapshot, n = 1, 2, ..., and is killed before its n-th
call that makes something durable, until one lives to the end. After each one a line is printed: n, the
sequence number of the latest whole snapshot, that of the oldest, and how many were damaged.

`hold FOLDER`: has the journal open until its input ends.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stjax.serving.journal import Journal
from stjax.serving.snapshots import Snapshots

say = os.write  # the killed processes replace os.write


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(calls: int, choose: random.Random, names: tuple[str, ...]) -> None:
    """Let this process be killed at the last of so many of these calls of `os`."""
    left = itertools.count(calls - 1, -1)

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(*arguments: Any, **options: Any) -> Any:
            if next(left) > 0:
                return call(*arguments, **options)
            if name == "write":
                file, content = arguments
                call(file, content[: choose.randrange(len(content) + 1)])
            return die()

        return replaced

    for name in names:
        setattr(os, name, wrapped(name, getattr(os, name)))


def forked(work: Callable[[], None]) -> int:
    """Process id of a copy of this process that does the work and ends. (JAX takes seconds to import.)"""
    with warnings.catch_warnings(action="ignore"):  # JAX warns of forks; it is not used here
        pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def batch_of(run: int, batch: int, size: int) -> list[bytes]:
    """The records of an append: they name it, and differ in length."""
    choose = random.Random(run * 1009 + batch)
    longest = choose.choice([0, 5, 50, 5000])
    return [f"{run} {batch} {k} {size} ".encode() + choose.randbytes(longest) for k in range(size)]


def append_until_killed(folder: Path, run: int) -> None:
    choose = random.Random(run)
    if run % 2:
        dying(choose.randrange(1, 60), choose, ("write", "fsync", "rename"))
    with Journal(folder, segment_bytes=30_000) as journal:
        for batch in itertools.count():
            size = choose.choice([1, 2, 3, 17, 101])
            last = journal.append(batch_of(run, batch, size))
            say(1, f"{last} {run} {batch} {size} {journal.repaired_bytes}\n".encode())


def kill_journal(folder: Path, runs: int) -> None:
    for run in range(runs):
        pid = forked(lambda run=run: append_until_killed(folder, run))
        if run % 2 == 0:
            time.sleep(random.Random(run).uniform(0.01, 0.06))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def kill_snapshots(folder: Path) -> None:
    def save(n: int) -> None:
        dying(n, random.Random(n), ("fsync", "rename", "rmdir", "mkdir"))
        Snapshots(folder).save(n, {"a": np.full(1000, n), "b": np.full((2, 3), n / 7)}, {"n": n})

    for first in (0, 1):  # so that there is always an old one to remove
        Snapshots(folder).save(first, {"a": np.full(1000, first)}, {"n": first})
    status = 1
    for n in itertools.count(1):
        if status == 0:
            return
        _, status = os.waitpid(forked(lambda n=n: save(n)), 0)
        snapshots = Snapshots(folder)
        latest, oldest = snapshots.latest(), snapshots.oldest
        assert latest is not None
        assert latest.about == {"n": latest.sequence}
        assert (latest.arrays["a"] == latest.sequence).all()
        say(1, f"{n} {latest.sequence} {oldest} {len(snapshots.damaged)}\n".encode())


def hold(folder: Path) -> None:
    with Journal(folder):
        say(1, f"{os.getpid()}\n".encode())
        sys.stdin.read()


if __name__ == "__main__":
    what, folder, *rest = sys.argv[1:]
    if what == "journal":
        kill_journal(Path(folder), int(rest[0]))
    elif what == "snapshots":
        kill_snapshots(Path(folder))
    elif what == "hold":
        hold(Path(folder))
    else:
        raise SystemExit(f"no {what!r}")
