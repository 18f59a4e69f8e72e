"""Search hyperparameters on validation: `python -m stjax.tune CONFIG.py [OPTIONS] [OVERRIDES]`.

The config declares, beside `experiment`, a `space` (see stjax/tune/space.py). The same command goes on with a
search that was killed; several of them, on the same --out, share one search. Out come best.py, a config file
with what was found, trials.jsonl and history.png. The test part is never read. OVERRIDES are those of
train.py (see `python train.py CONFIG.py --help`) and hold for every trial.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from stjax.command import exit_code
from stjax.errors import ConfigError
from stjax.memory import keep_freed_memory
from stjax.training import load_module, parse
from stjax.training.setup import open_dataset, use_compilation_cache
from stjax.tune.change import check


def main(arguments: Sequence[str]) -> int:
    """The exit code, see `stjax.command`."""
    parser = argparse.ArgumentParser(
        prog="python -m stjax.tune",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.py")
    parser.add_argument("--trials", type=int, default=50, help="of the whole search (default 50)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="a trial's value is their mean (0)")
    parser.add_argument("--workers", type=int, default=1, help="processes (1)")
    parser.add_argument("--out", type=Path, help="folder of the search (runs/tune-NAME)")
    parser.add_argument("--search-seed", type=int, default=0, help="of the sampler (0)")
    parser.add_argument("--no-pruning", action="store_true", help="train every trial to its end")
    options, overrides = parser.parse_known_args(arguments)
    keep_freed_memory()
    return exit_code(
        lambda: _tune(options, overrides, list(arguments)),
        "interrupted; the same command goes on with the search",
    )


def _tune(options: argparse.Namespace, overrides: list[str], arguments: list[str]) -> None:
    for name in ("trials", "workers"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name} {getattr(options, name)} must be at least 1")
    if min(options.seeds) < 0 or len(set(options.seeds)) < len(options.seeds):
        seeds = " ".join(map(str, options.seeds))
        raise ConfigError(f"--seeds {seeds} must all differ and be at least 0")
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("the search needs the package optuna: pip install 'stjax[tune]'")
    from stjax.tune import report  # here: they import optuna
    from stjax.tune.locks import held
    from stjax.tune.search import Search
    from stjax.tune.trial import Objective

    module = load_module(options.config)
    command = parse([str(options.config), *overrides], options.config, "python -m stjax.tune")
    if command.workdir is not None or command.eval_only:
        raise ConfigError("--workdir and --eval-only are of train.py alone; the search's folder is --out")
    experiment, space = command.experiment, getattr(module, "space", None)
    if space is None:
        raise ConfigError(
            f"config file {options.config} declares no space: add e.g."
            ' space = {"optimizer.learning_rate": Log(1e-3, 1e-2)}, with `from stjax.tune import Log`'
        )
    examples = check(experiment, space, module.__name__)
    stride = max(example.training.epochs for example in examples)

    console = Console(soft_wrap=True, highlight=False)
    use_compilation_cache()
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs what it then raises
    about = {"seeds": options.seeds, "fingerprint": open_dataset(experiment).fingerprint}
    folder, metric = options.out or Path("runs") / f"tune-{experiment.name}", experiment.evaluation.select
    written = shlex.join(["python", "-m", "stjax.tune", *arguments])
    objective = Objective(options.seeds, stride, Console(stderr=True, soft_wrap=True))
    search = Search(folder, experiment, space, about, seed=options.search_seed, prune=not options.no_pruning)
    with search:

        def after(trial) -> None:
            report.write(search, options.config, options.seeds, written)
            console.print(report.told(trial, metric, search.best()))

        others = [_start(k, folder, arguments) for k in range(1, options.workers)]
        try:
            search.work(options.trials, objective, after)
            failed = [log for process, log in others if process.wait() != 0]
        finally:
            for process, _ in others:
                process.terminate()
        search.work(options.trials, objective, after)  # what a worker that failed has left
        with held(folder / ".lock"):  # the last word, with the command that was given
            report.write(search, options.config, options.seeds, written)
        report.draw(search, metric)
        report.show(search, metric, console)
        running = sum(not trial.state.is_finished() for trial in search.trials())
        if running:
            console.print(f"{running} more trials run in other processes")
        for log in failed:
            console.print(f"a worker failed: see {log}")
        if (best := folder / "best.py").exists():
            console.print(f"the best as a config: python train.py {best}")
        else:
            raise ConfigError(f"no trial was completed: see the reasons in {folder / 'trials.jsonl'}")


def _start(k: int, folder: Path, arguments: list[str]) -> tuple[subprocess.Popen[bytes], Path]:
    """Another process of the same search, and where its output goes."""
    log = folder / f"worker-{k}.log"
    command = [sys.executable, "-m", "stjax.tune", *arguments, "--workers", "1"]
    with open(log, "wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT), log


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
