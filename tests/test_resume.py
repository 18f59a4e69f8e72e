"""Exact resumption: real processes killed at the worst moments end with the bits of one never killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import train
from tests.quick import environment

ROOT = Path(__file__).parents[1]
CONFIG = "tests/configs/tiny.py"


def words(folder: Path, run: str) -> list[str]:
    """What `train.py` is told: the tiny config, and a run folder of that name."""
    return [CONFIG, "--workdir", str(folder / run), "--source.folder", str(folder)]


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Starts `train.py` (or another program) on the tiny config in a run folder of that name."""
    processes = []

    def begin(run: str, *program: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *program, *words(tmp_path, run)],
            cwd=ROOT,
            env=environment(STJAX_CACHE=str(tmp_path / "cache")),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        with process:  # closes its pipe and waits
            process.kill()


def finish(process: subprocess.Popen[str], code: int) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    return output


def arrays(folder: Path) -> list[np.ndarray]:
    """All arrays of one checkpoint, read without any of our code."""
    with ocp.StandardCheckpointer() as reader:
        return [np.asarray(x) for x in jax.tree.leaves(reader.restore(folder / "state"))]


def lines(run: Path) -> list[dict[str, Any]]:
    text = (run / "metrics.jsonl").read_text()
    return [json.loads(line) | {"timing": None} for line in text.splitlines()]


def steps(run: Path) -> list[int]:
    return sorted(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdecimal())


def test_three_times_killed_equals_never_killed(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is never killed runs in the tests' own process, whose programs are the same (`tests.quick`)."""
    monkeypatch.chdir(ROOT)

    def run_here(run: str) -> str:
        capsys.readouterr()
        assert train.main(words(tmp_path, run)) == 0
        captured = capsys.readouterr()
        return captured.out + captured.err

    run_here("whole")
    killed, whole = tmp_path / "killed", tmp_path / "whole"

    # From outside, at any moment after the first checkpoint.
    process = start("killed", "train.py")
    while not (killed / "checkpoints" / "5").exists():
        assert process.poll() is None, finish(process, 0)
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    finish(process, -signal.SIGKILL)
    assert not (killed / "result.json").exists()
    reached = steps(killed)[-1]
    assert reached < 52

    # After the validation of step 52 has been written down, before its checkpoint.
    output = finish(start("killed", "-m", "tests.killed", "before-save", "52"), -signal.SIGKILL)
    assert f"going on from step {reached} of 78" in output
    assert lines(killed)[-1]["kind"] == "validation"
    assert lines(killed)[-1]["step"] == 52
    assert steps(killed)[-1] == 50

    # While the checkpoint of step 60 is being written.
    output = finish(start("killed", "-m", "tests.killed", "half-saved", "60"), -signal.SIGKILL)
    assert "going on from step 50 of 78" in output
    assert list((killed / "checkpoints").glob("60.orbax-checkpoint-tmp*"))
    assert steps(killed)[-1] == 55

    assert "going on from step 55 of 78" in run_here("killed")

    assert steps(killed) == steps(whole)
    for step in steps(whole):
        a, b = arrays(killed / "checkpoints" / str(step)), arrays(whole / "checkpoints" / str(step))
        assert len(a) > 7
        assert [x.tobytes() for x in a] == [x.tobytes() for x in b]
    assert lines(killed) == lines(whole)
    results = [json.loads((run / "result.json").read_text()) for run in (killed, whole)]
    of_the_process = {"seconds": None, "compilations": None}
    assert results[0] | of_the_process == results[1] | of_the_process

    before = (killed / "result.json").stat().st_mtime_ns
    output = run_here("killed")
    assert "is finished" in output
    assert "MRR" in output
    assert (killed / "result.json").stat().st_mtime_ns == before
