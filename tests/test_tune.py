"""The search: it finds what is planted, loses nothing when killed, shares its trials, never reads test."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from rich.console import Console

import train
from stjax.baselines import IALS
from stjax.data.dataset import Dataset
from stjax.data.protocols import TEST
from stjax.errors import ConfigError
from stjax.nn import LSTM, Pointer
from stjax.training import Experiment, load_config, load_module
from stjax.training.checkpoint import Checkpoints
from stjax.training.config import resolve
from stjax.training.logging import Clock
from stjax.training.loop import STOPPED, fit
from stjax.training.setup import Setup
from stjax.tune import Choice, Integers, Log, Uniform
from stjax.tune.__main__ import main
from stjax.tune.best import write_best
from stjax.tune.change import changed, check, value_at
from stjax.tune.search import Search
from tests.configs.tiny import Tanh, TinyLog, experiment
from tests.quick import environment
from tests.searching import BEST, SPACE, planted, search

ROOT = Path(__file__).parents[1]
CONFIG = "tests/configs/searched.py"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name, value in environment(STJAX_CACHE=str(tmp_path / "cache")).items():
        monkeypatch.setenv(name, value)


def slowly(*arguments: Any) -> list[float]:
    """As long as the trials of other processes take."""
    time.sleep(0.05)
    return planted(*arguments)


def nothing(trial: Any) -> None:
    """What is to be done after a trial."""


def test_it_finds_a_planted_optimum(tmp_path: Path) -> None:
    with search(tmp_path) as found:
        found.work(60, planted, nothing)
        best = found.best()
        assert best is not None and best.value is not None
        values = {path: float(value) for path, value in best.user_attrs["values"].items()}
        # Of 60 draws at random none is expected so near: a tenth of the values lie above .94.
        assert best.value > 0.975
        assert 0.003 < values["optimizer.learning_rate"] < 0.03
        assert values["batching.overlap"] == BEST["batching.overlap"]
        assert planted(found.experiment_of(best), tmp_path, lambda *_: False) == [best.value]


def history(folder: Path, **settings: Any) -> list[Any]:
    with search(folder, **settings) as found:
        return [(t.user_attrs["values"], t.value) for t in found.trials() if t.state == TrialState.COMPLETE]


def test_the_same_command_gives_the_same_answer_and_an_interruption_changes_nothing(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with search(tmp_path / name) as found:
            found.work(25, planted, nothing)
    assert history(tmp_path / "one") == history(tmp_path / "two")

    def interrupted(*arguments: Any) -> list[float]:
        raise KeyboardInterrupt

    for stop in (0, 7, 15, 25):
        with search(tmp_path / "three") as found:
            found.work(stop, planted, nothing)
            if stop == 15:  # while a trial is chosen: it has no values yet
                found.study.ask()
            elif stop < 25:
                with pytest.raises(KeyboardInterrupt):
                    found.work(25, interrupted, nothing)
        with open(tmp_path / "three" / "journal.jsonl", "a") as journal:
            journal.write('{"op_code": 4, "worker_')  # as a writer leaves it that was killed
    assert history(tmp_path / "three") == history(tmp_path / "one")
    with search(tmp_path / "four", seed=1) as found:
        found.work(25, planted, nothing)
    one, four = history(tmp_path / "one"), history(tmp_path / "four", seed=1)
    assert len(one) == len(four) == 25
    assert not any(values in [v for v, _ in one] for values, _ in four[1:])


def test_the_config_itself_is_the_first_trial(tmp_path: Path) -> None:
    with search(tmp_path) as found:
        found.work(1, planted, nothing)
        assert resolve(found.experiment_of(found.trials()[0])) == resolve(experiment)


def test_a_repeated_choice_is_not_trained_again(tmp_path: Path) -> None:
    trained = []

    def objective(experiment: Experiment, folder: Path, report: Any) -> list[float]:
        trained.append(experiment.batching.overlap)
        return [float(experiment.batching.overlap)]

    with Search(tmp_path, experiment, {"batching.overlap": Choice(0, 1, 2)}, {}) as found:
        found.work(12, objective, nothing)
        assert sorted(trained) == [0, 1, 2]
        assert len(found.done()) == 12
        again = [t for t in found.done() if "same as" in t.user_attrs]
        assert len(again) == 9
        assert all(t.value == found.trials()[t.user_attrs["same as"]].value for t in again)


def test_pruning_stops_bad_trials(tmp_path: Path) -> None:
    """A trial's curve is its learning rate; the rates of later trials are known to be bad."""
    lengths: dict[float, int] = {}

    def objective(experiment: Experiment, folder: Path, report: Any) -> list[float]:
        rate = experiment.optimizer.learning_rate
        for step in range(1, 11):
            lengths[rate] = step
            if report(step, rate):
                raise ConfigError("pruned")
        return [rate]

    space = {"optimizer.learning_rate": Uniform(0.1, 0.9)}
    for prune in (True, False):
        lengths.clear()
        with Search(tmp_path / str(prune), experiment, space, {}, prune=prune) as found:
            found.study.enqueue_trial({"optimizer.learning_rate": 0.9})
            found.work(6, objective, nothing)
            found.study.enqueue_trial({"optimizer.learning_rate": 0.1})
            found.work(7, objective, nothing)
            pruned = [t for t in found.done() if t.state == TrialState.PRUNED]
            assert len(pruned) >= 1 if prune else not pruned
            assert lengths[0.1] == (2 if prune else 10)
            assert lengths[0.9] == 10
            best = found.best()
            assert best is not None and best.value == 0.9


def test_an_impossible_experiment_is_a_bad_trial_not_the_end(tmp_path: Path) -> None:
    space = {"batching.length": Choice(7, 13), "batching.overlap": Choice(0, 11)}

    def objective(experiment: Experiment, folder: Path, report: Any) -> list[float]:
        return [experiment.batching.overlap / experiment.batching.length]

    with Search(tmp_path, experiment, space, {}) as found:
        found.work(12, objective, nothing)
        best = found.best()
        assert best is not None and best.value == 11 / 13
        reasons = [t.user_attrs["reason"] for t in found.done() if t.state == TrialState.PRUNED]
        assert reasons and all("overlap 11 must be below batching.length 7" in r for r in reasons)


def test_processes_share_the_trials_and_take_up_those_of_one_that_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.searching", str(tmp_path), "9"]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    killed, living = processes
    with search(tmp_path) as found:
        found.work(2, planted, nothing)  # theirs are the only trials, and both live
        assert not found.done()
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        mine: list[int] = []
        found.work(3, planted, lambda trial: mine.append(trial.number))
        assert mine[0] in (0, 1) and mine[1:] == [2] and mine == [t.number for t in found.done()]
        (tmp_path / "go").touch()
        found.work(9, slowly, lambda trial: mine.append(trial.number))
        theirs = [int(n) for n in living.communicate(timeout=60)[0].split()]
    assert living.returncode == 0 and theirs and len(mine) > 2
    assert sorted(mine + theirs) == list(range(9))
    assert len(history(tmp_path)) == 9


def arguments(tmp_path: Path, out: str, trials: int) -> list[str]:
    words = [CONFIG, "--trials", str(trials), "--out", str(tmp_path / out)]
    return [*words, "--source.folder", str(tmp_path)]


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "trials.jsonl").read_text()
    return [json.loads(line) | {"seconds": None} for line in text.splitlines()]


def test_a_killed_search_goes_on_from_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    TinyLog(tmp_path).open()
    command = [sys.executable, "-m", "stjax.tune", *arguments(tmp_path, "killed", 3)]
    killed, second = tmp_path / "killed", tmp_path / "killed" / "trials" / "0001" / "0"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (second / "checkpoints" / "5").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(lines(killed)) == 1
    assert not (killed / "trials" / "0000" / "0" / "checkpoints").exists()

    assert main(arguments(tmp_path, "killed", 3)) == 0
    captured = capsys.readouterr()
    assert "going on from step" in captured.err
    assert [line["trial"] for line in lines(killed)] == [0, 1, 2]
    assert "3 trials" in captured.out
    assert not list(killed.glob("trials/*/*/checkpoints"))
    assert (killed / "history.png").read_bytes().startswith(b"\x89PNG")
    assert not list((killed / "workers").iterdir())

    # Never killed, and blind to the test part: the same.
    read, parts = Dataset.questions, Counter()

    def blind(self: Dataset, part: int, *rest: Any, **more: Any) -> Any:
        parts[part] += 1
        assert part != TEST
        return read(self, part, *rest, **more)

    monkeypatch.setattr(Dataset, "questions", blind)
    assert main(arguments(tmp_path, "whole", 3)) == 0
    assert parts.total() >= 6
    assert lines(tmp_path / "whole") == lines(killed)

    best = max(lines(killed), key=lambda line: line["value"])
    module = load_module(CONFIG)
    chosen = {
        "optimizer.learning_rate": float(best["values"]["optimizer.learning_rate"]),
        "model.dropout": float(best["values"]["model.dropout"]),
        "model.layer": {"Tanh()": Tanh(), "Tanh(width=7)": Tanh(7), "Wide()": module.Wide()}[
            best["values"]["model.layer"]
        ],
        "source.folder": tmp_path,
        "name": "searched_tuned",
    }
    assert resolve(load_config(killed / "best.py")) == resolve(changed(module.experiment, chosen))
    text = (killed / "best.py").read_text()
    assert f"Validation MRR {best['value']:.4f}" in text
    assert not (killed / "best_partial.py").exists()

    # The search goes on with more trials, not with another space or other data.
    capsys.readouterr()
    assert main([*arguments(tmp_path, "killed", 3), "--seeds", "1"]) == 2
    assert "seeds: [0] -> [1]" in capsys.readouterr().err
    assert main([*arguments(tmp_path, "killed", 3), "--source.seed", "5"]) == 2
    error = capsys.readouterr().err
    assert "experiment.source.seed: 0 -> 5" in error and "choose another --out" in error
    monkeypatch.undo()


def test_workers_share_a_search_and_its_best_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    TinyLog(tmp_path).open()
    words = [*arguments(tmp_path, "two", 4), "--workers", "2", "--training.epochs", "1"]
    assert main(words) == 0
    assert [line["trial"] for line in lines(tmp_path / "two")] == [0, 1, 2, 3]
    assert (tmp_path / "two" / "worker-1.log").exists()
    assert "--workers 2 --training.epochs 1\n" in (tmp_path / "two" / "best.py").read_text()
    best = max(line["value"] for line in lines(tmp_path / "two"))
    run = ["--workdir", str(tmp_path / "run")]
    assert train.main([str(tmp_path / "two" / "best.py"), *run]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["name"] == "searched_tuned"
    assert result["best"]["validation"] == pytest.approx(best, abs=1e-6)


def test_a_training_stops_where_the_caller_says(tmp_path: Path) -> None:
    source = dataclasses.replace(experiment.source, folder=tmp_path)
    setup = Setup.of(dataclasses.replace(experiment, source=source))
    seen: list[int] = []

    def look(epoch: int, value: float) -> bool:
        seen.append(epoch)
        assert 0 < value < 1
        return epoch == 4

    for _ in range(2):  # the second time nothing is left to do
        with Checkpoints(tmp_path / "checkpoints") as checkpoints:
            record = fit(setup, checkpoints, tmp_path, Clock(), Console(quiet=True), look)
            assert checkpoints.latest == 4 * setup.batches.per_epoch
        assert record.stopped == STOPPED
        assert seen == [2, 4]


HEAD = "from stjax.tune import Choice, Integers, Log, Uniform\nfrom tests.configs.tiny import *\n"


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ("", "declares no space: add e.g. space = "),
        ("space = {}", "`space` is empty"),
        ("space = {'model.dropout': [0, 1]}", "must be a mapping from paths to Log, Uniform"),
        (
            "space = {'model.dropot': Uniform(0, 1)}",
            "'model.dropot' leads nowhere: at 'dropot', TinyModel has",
        ),
        ("space = {'model.dropout.x': Uniform(0, 1)}", "at 'x', float has no fields"),
        ("space = {'model.dropout': Uniform(1, 1)}", "Uniform(low=1, high=1) must have a finite low below"),
        ("space = {'model.dropout': Choice(0.5)}", "Choice(0.5) must have at least two values"),
        ("space = {'model.dropout': Choice(0.5, 0.5)}", "at least two values, all different"),
        ("space = {'model.dropout': Log(0, 1)}", "must begin above 0; use Uniform"),
        ("space = {'model.layer.width': Integers(2, 4.5)}", "must have whole numbers as its ends"),
        ("space = {'model.layer.width': Uniform(2, 4)}", "model.layer.width cannot be 2.0: it must be int"),
        ("space = {'model.layer': Choice(Tanh(), 3)}", "model.layer cannot be 3: it must be Tanh; now it is"),
        (
            "space = {'evaluation.select': Choice('MRR', 'HR@7')}",
            "evaluation.select 'HR@7' must be one of Acc@1",
        ),
        ("space = {'optimizer.schedule': Choice('cosine', 'step')}", 'cannot be "step"'),
        ("space = {'model.layer': Choice(Tanh(), object())}", "cannot be written into a config file"),
    ],
)
def test_impossible_spaces_are_refused(tmp_path: Path, capsys: Any, space: str, says: str) -> None:
    file = tmp_path / "bad.py"
    file.write_text(HEAD + space)
    assert main([str(file), "--out", str(tmp_path / "out"), "--source.folder", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error
    assert not (tmp_path / "out").exists()


def test_what_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert main([CONFIG, "--trials", "0"]) == 2
    assert "--trials 0 must be at least 1" in capsys.readouterr().err
    assert main([CONFIG, "--seeds", "3", "5", "3"]) == 2
    assert "--seeds 3 5 3 must all differ" in capsys.readouterr().err
    assert main([CONFIG, "--workdir", str(tmp_path)]) == 2
    assert "the search's folder is --out" in capsys.readouterr().err
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="choose another --out"):
        search(tmp_path / "file")
    with search(tmp_path / "out"), pytest.raises(ConfigError, match=r"space.model.dropout.high: 1.0 -> 0.5"):
        Search(tmp_path / "out", experiment, {**SPACE, "model.dropout": Uniform(0, 0.5)}, {"seeds": [0]})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([CONFIG]) == 2
    assert "pip install 'stjax[tune]'" in capsys.readouterr().err


def test_configs_with_a_space_do_not_need_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the import of stjax.tune (test_layers), which they need."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    load_config(CONFIG)


def test_paths_reach_every_kind_of_part() -> None:
    values = {"model.layer": Tanh(3), "model.layer.width": 5, "evaluation.ks.1": 7, "training.epochs": 2}
    new: Any = changed(experiment, dict(reversed(values.items())))  # a part comes before its own fields
    assert (new.model.layer.width, new.evaluation.ks, new.training.epochs) == (5, (1, 7), 2)
    assert value_at(new, "model.layer.width") == 5
    assert resolve(changed(new, {"model.layer": Tanh(), "evaluation.ks": (1, 5)})) == resolve(
        changed(experiment, {"training.epochs": 2})
    )
    # together, where one after the other would pass by an overlap beyond the length
    batching: Any = changed(experiment, {"batching.overlap": 11, "batching.length": 13}).batching
    assert (batching.length, batching.overlap, experiment.batching.length) == (13, 11, 7)
    with pytest.raises(ConfigError, match=r"batching.overlap 17 must be below batching.length 13"):
        changed(experiment, {"batching.overlap": 17, "batching.length": 13})
    examples = check(experiment, {"model.layer": Choice(Tanh(3), Tanh(5)), "training.epochs": Integers(1, 9)})
    assert [(e.model.layer.width, e.training.epochs) for e in examples] == [(3, 1), (5, 1), (3, 1), (3, 9)]


@pytest.mark.parametrize("name", ["nyc", "movielens", "synthetic", "movielens_knn"])
def test_what_is_found_is_written_as_changes_that_give_it(tmp_path: Path, name: str) -> None:
    """For the shipped configs: modules in mappings, tuples of modules, optional parts, another class."""
    config = ROOT / "configs" / f"{name}.py"
    base = load_config(config)
    values: dict[str, Any] = {"optimizer.learning_rate": 0.00123, "training.seed": 7}
    if name == "movielens_knn":
        values |= {"model": IALS(factors=5)}
    else:
        values |= {
            "model.encoders.time.features": 13,
            "model.interest": LSTM(gates=("time",)),
            "model.head.pointer": Pointer(window=11),
            "model.head.known": ("time",),
        }
    made = changed(base, values)
    file = write_best(tmp_path, config, made, 'It says "C:\\new".')
    assert resolve(load_config(file)) == resolve(made)
    assert load_module(file).__doc__.strip() == 'It says "C:\\new".'
    text = file.read_text()
    assert "warmup_steps" not in text and "Evaluation" not in text  # what has not changed is not repeated
    assert max(map(len, text.splitlines())) <= 110
    if name != "movielens_knn":
        assert 'LSTM(gates=("time",))' in text and "from stjax.nn import LSTM" in text


def test_drawn_numbers_are_short_and_within_the_ends() -> None:
    assert Log(1e-3, 1.23456e-2).value(0.00123456) == 0.001235
    assert Log(1e-3, 1.23456e-2).value(0.0123456) == 0.0123456  # 0.01235 lies beyond
    assert Integers(1, 9).stored(3) == 3
    assert Integers(1, 9).stored(True) is None and Integers(1, 9).stored(2.5) is None
    assert Uniform(0, 1).stored(True) is None and Uniform(0, 1).stored(1.5) is None
    assert Choice(Tanh(), Tanh(3)).stored(Tanh(3)) == "Tanh(width=3)"
    assert Choice(Tanh(), Tanh(3)).stored(object()) is None
