"""How long `train.py` takes to its first step, with an empty and with a warm cache of compiled programs.

    python -m benchmarks.start [CONFIG.py] [--rounds 5]

From the start of the process to the first line of metrics.jsonl, written when the first step is done; there
the process is stopped. The data are prepared before. Two more runs go to their end, and tell how many
programs were compiled or taken from the cache. Prints JSON lines.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import jax

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", nargs="?", default="configs/quickstart.py")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first_step(args.config, folder, "prepare", folder / "other")
        cold = [first_step(args.config, folder, f"cold{k}", folder / f"cache{k}") for k in range(2)]
        warm = [first_step(args.config, folder, f"warm{k}", folder / "cache0") for k in range(args.rounds)]
        counts = {whole(args.config, folder, f"whole{k}", folder / "cache0") for k in range(2)}
        line = {
            "benchmark": "start",
            "config": args.config,
            "cold_seconds": round(median(cold), 2),
            "warm_seconds": round(median(warm), 2),
            "warm_each": [round(t, 2) for t in warm],
            "compilations": sorted(counts),
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "cpus": os.cpu_count(),
            "jax": jax.__version__,
        }
        print(json.dumps(line), flush=True)


def begin(config: str, folder: Path, run: str, cache: Path, *options: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "STJAX_CACHE": str(folder / "data")}
    command = [sys.executable, "train.py", config, "--workdir", str(folder / run), *options]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def first_step(config: str, folder: Path, run: str, cache: Path) -> float:
    started = time.perf_counter()
    process = begin(config, folder, run, cache, "--training.log_every", "1")
    file = folder / run / "metrics.jsonl"
    while not (file.is_file() and file.stat().st_size):
        if process.poll() is not None:
            raise SystemExit(f"train.py {config} ended with {process.returncode} before its first step")
        time.sleep(0.002)
    seconds = time.perf_counter() - started
    process.kill()
    process.wait()
    return seconds


def whole(config: str, folder: Path, run: str, cache: Path) -> int:
    if begin(config, folder, run, cache, "--training.epochs", "1").wait():
        raise SystemExit(f"train.py {config} failed")
    return json.loads((folder / run / "result.json").read_text())["compilations"]


if __name__ == "__main__":
    main()
