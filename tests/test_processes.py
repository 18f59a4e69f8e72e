"""Several processes train together; killed, they go on as one process, with the same result."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train
from tests.configs.tiny import TinyLog
from tests.quick import environment

ROOT = Path(__file__).parents[1]
CONFIG = "tests/configs/tiny.py"


JOB_PORTS = range(65_536 - 4_096, 65_536)  # JAX takes one by the number of a Slurm job


def free_port() -> int:
    for port in random.sample(JOB_PORTS, 97):
        with socket.socket() as own, contextlib.suppress(OSError):
            own.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def in_slurm(port: int, processes: int, process: int) -> dict[str, str]:
    """What Slurm tells a task, of a job whose coordinator is at that port of this machine."""
    values = {"JOB_ID": port - JOB_PORTS[0], "STEP_NODELIST": "127.0.0.1", "NTASKS": processes}
    values |= {"PROCID": process, "LOCALID": process, "STEP_NUM_NODES": 1}
    return {f"SLURM_{name}": str(value) for name, value in values.items()}


def on_tpus(port: int, processes: int, process: int) -> dict[str, str]:
    """What GKE tells a worker of slices of TPUs. (There are none: JAX is told to believe so.)"""
    return {
        "MEGASCALE_COORDINATOR_ADDRESS": "127.0.0.1",
        "MEGASCALE_NUM_SLICES": "1",
        "MEGASCALE_SLICE_ID": "0",
        "JAX_FORCE_TPU_INIT": "1",
        "JAX_COORDINATOR_PORT": str(port),
        "TPU_WORKER_HOSTNAMES": ",".join(["127.0.0.1"] * processes),
        "TPU_WORKER_ID": str(process),
    }


def by_mpi(port: int, processes: int, process: int) -> dict[str, str]:
    """What Open MPI tells a process."""
    values = {"SIZE": processes, "RANK": process, "LOCAL_RANK": process}
    job = (port - JOB_PORTS[0]) * 2**12  # JAX takes a port by its number
    return {"OMPI_MCA_orte_hnp_uri": f"{job}.0;tcp://127.0.0.1:1"} | {
        f"OMPI_COMM_WORLD_{name}": str(value) for name, value in values.items()
    }


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Starts a group of processes of `train.py`, with so many virtual devices each.

    The first of a group is told its coordinates, the others find them as they would on a cluster of Slurm, or
    of what `told` tells; with `all_told`, so does the first.
    """
    TinyLog(tmp_path).open()
    running = []

    def begin(
        run: str, processes: int, devices: int, *options: str, told: Any = in_slurm, all_told: bool = False
    ) -> list[subprocess.Popen[str]]:
        port, group = free_port(), []
        own = environment(devices, STJAX_CACHE=str(tmp_path / "cache"))
        for k in range(processes):
            where = ["--coordinator", f"127.0.0.1:{port}", "--processes", f"{processes}", "--process", "0"]
            found = k > 0 or all_told
            job, where = (told(port, processes, k), ["--detect"]) if found else ({}, where)
            command = [sys.executable, "train.py", CONFIG, "--workdir", str(tmp_path / run)]
            command += ["--source.folder", str(tmp_path), *options, *(where if processes > 1 else [])]
            with open(tmp_path / f"{run}-{processes}-{k}.log", "w") as log:
                group.append(
                    subprocess.Popen(command, cwd=ROOT, env=own | job, stdout=log, stderr=log, text=True)
                )
        running.extend(group)
        return group

    yield begin
    for process in running:
        process.kill()
        process.wait()


def finish(group: list[subprocess.Popen[str]], folder: Path, run: str) -> str:
    for k, process in enumerate(group):
        text = folder / f"{run}-{len(group)}-{k}.log"
        assert process.wait(timeout=240) == 0, text.read_text()
    return (folder / f"{run}-{len(group)}-0.log").read_text()


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_are_killed_and_go_on_as_one(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = ("--sharding.rows_multiple", "8")
    group = start("together", 2, 4, *mesh, "--sharding.model", "2")
    together = tmp_path / "together"
    while not (together / "checkpoints" / "20").exists():
        for k, process in enumerate(group):
            assert process.poll() is None, (tmp_path / f"together-2-{k}.log").read_text()
        time.sleep(0.01)
    for process in group:
        process.send_signal(signal.SIGKILL)
    for process in group:
        process.wait()
    assert not (together / "result.json").exists()
    assert "8 devices of 2 processes: data 4, model 2" in (tmp_path / "together-2-0.log").read_text()
    other = (tmp_path / "together-2-1.log").read_text()
    assert "validation" not in other and "devices" not in other  # only the leader talks

    # Another mesh, another number of processes.
    output = finish(start("together", 1, 8, *mesh), tmp_path, "together")
    assert "going on from step" in output and "8 devices: data 8, model 1" in output
    monkeypatch.chdir(ROOT)
    alone = [CONFIG, "--workdir", str(tmp_path / "alone"), "--source.folder", str(tmp_path)]
    assert train.main([*alone, *mesh]) == 0

    ours, theirs = lines(together), lines(tmp_path / "alone")
    assert [(a["kind"], a["step"]) for a in ours] == [(b["kind"], b["step"]) for b in theirs]
    for a, b in zip(ours, theirs, strict=True):
        numbers = [name for name in a if isinstance(a[name], float)]
        np.testing.assert_allclose([a[n] for n in numbers], [b[n] for n in numbers], rtol=2e-4, atol=1e-5)
    results = [json.loads((tmp_path / run / "result.json").read_text()) for run in ("together", "alone")]
    first, second = (result["test"]["metrics"]["MRR"]["mean"] for result in results)
    assert first == pytest.approx(second, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("told", [in_slurm, on_tpus, by_mpi])
def test_two_processes_end_by_themselves(told: Any, start: Any, tmp_path: Path) -> None:
    group = start("whole", 2, 1, "--training.epochs", "1", told=told, all_told=True)
    output = finish(group, tmp_path, "whole")
    assert "2 devices of 2 processes: data 2, model 1" in output
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert result["hardware"]["processes"] == 2
    assert [line["kind"] for line in lines(tmp_path / "whole")].count("validation") == 1
    again = finish(start("whole", 1, 1, "--training.epochs", "1"), tmp_path, "whole")
    assert "is finished" in again
