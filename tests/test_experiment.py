"""Config files, overrides and the checks of an experiment."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flax import linen as nn

import train
from stjax.errors import ConfigError
from stjax.training import (
    Batching,
    Evaluation,
    Experiment,
    Optimizer,
    Training,
    load_config,
    parse,
)
from stjax.training.config import differences, resolve

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "configs" / "tiny.py"

NESTED = '''
"""Modules in modules: a base class as annotation, an optional one, a mapping, a tuple of names."""
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
import jax.numpy as jnp
from flax import linen as nn
from stjax.data.protocols import GlobalTemporal
from stjax.training import Experiment

@dataclass(frozen=True)
class Log:
    path: str = "log"
    def open(self): ...

class Interest(nn.Module):
    pass

class Stack(Interest):
    layers: int = 2
    """How deep."""
    kind: Literal["pre", "post"] = "pre"

class Clock(nn.Module):
    periods: tuple[str, ...] = ("day", "week")

class Encoder(nn.Module):
    clock: Clock = Clock()
    rate: float = 0.5

class Model(nn.Module):
    encoders: Mapping[str, nn.Module] = field(default_factory=lambda: {"time": Encoder()})
    place: Encoder | None = None
    user: Encoder | None = Encoder(rate=0.1)
    interest: Interest = Stack()
    known: tuple[str, ...] = ()
    dtype: Any = jnp.float32
    normalise: bool = True

experiment = Experiment("nested", Log(), GlobalTemporal(), Model())
'''


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    file = tmp_path / "nested.py"
    file.write_text(NESTED)
    return file


def test_overrides_reach_every_depth(nested: Path) -> None:
    words = """--name other --protocol.valid 0.2 --model.encoders.time.clock.periods year day hour
      --model.user.rate 0.3 --model.interest.layers 5 --model.interest.kind post --model.known time place
      --model.no-normalise --training.epochs 3 --evaluation.ks 1 2 --workdir here --eval-only"""
    command = parse([str(nested), *words.split()], default="absent.py")
    model: Any = command.experiment.model
    assert command.experiment.name == "other"
    assert command.experiment.protocol.valid == 0.2
    assert model.encoders["time"].clock.periods == ("year", "day", "hour")
    assert (model.user.rate, model.place, model.encoders["time"].rate) == (0.3, None, 0.5)
    assert (type(model.interest).__name__, model.interest.layers) == ("Stack", 5)
    assert (model.interest.kind, model.known, model.normalise) == ("post", ("time", "place"), False)
    assert command.experiment.training == Training(epochs=3)
    assert command.experiment.evaluation.ks == (1, 2)
    assert (command.folder, command.eval_only, command.config) == (Path("here"), True, nested)


def test_without_overrides_the_config_is_the_experiment(nested: Path) -> None:
    command = parse([], default=nested)
    assert resolve(command.experiment) == resolve(load_config(nested))
    assert command.folder == Path("runs/nested")
    assert not command.eval_only


def test_help_lists_the_fields_and_hides_flax(nested: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        parse([str(nested), "--help"], default="absent.py")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for word in ("--model.interest.layers INT", "How deep.", "--training.patience", "--workdir"):
        assert word in text
    assert ".parent" not in text
    assert "model.name" not in text


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--model.interest.layrs", "3"], "--model.interest.layers"),
        (["--trainin.epochs", "3"], "--training.epochs"),
        (["--training.epochs", "many"], "--training.epochs"),
        (["--optimizer.schedule", "step"], "cosine"),
        (["--optimizer.learning-rate", "-1"], "optimizer.learning_rate -1.0 must be above 0"),
    ],
)
def test_bad_overrides(nested: Path, capsys: Any, words: list[str], names: str) -> None:
    with pytest.raises(SystemExit) as stop:
        parse([str(nested), *words], default="absent.py")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert names in " ".join(error.replace("│", " ").split())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "defines no `experiment`"),
        ("experiment = 3", "defines a int"),
        ("import no_such_module", "line 1 cannot be imported: ModuleNotFoundError"),
        ("x = 1\ny = (", "line 2 cannot be imported: SyntaxError"),
        (
            "from stjax.training import Training\nTraining(epochs=0)",
            "training.epochs 0 must be at least 1",
        ),
    ],
)
def test_bad_configs_say_what_and_where(tmp_path: Path, capsys: Any, text: str, says: str) -> None:
    file = tmp_path / "bad.py"
    file.write_text(text)
    assert train.main([str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: config file {file}")
    assert error.count("\n") == 1
    assert says in error


def test_missing_config_names_those_that_are_there(nested: Path, capsys: Any) -> None:
    assert train.main([str(nested.with_name("nest.py"))]) == 2
    assert "does not exist" in (error := capsys.readouterr().err)
    assert "nested.py" in error


def test_a_real_process_exits_with_2() -> None:
    done = subprocess.run([sys.executable, "train.py", "absent.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: config file absent.py does not exist")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (lambda: Batching(length=0), "batching.length 0"),
        (lambda: Batching(length=5, overlap=5), "batching.overlap 5"),
        (lambda: Batching(length=5, buckets=(3, 5)), "batching.buckets (3, 5)"),
        (lambda: Optimizer(learning_rate=float("nan")), "optimizer.learning_rate nan"),
        (lambda: Optimizer(weight_decay=float("nan")), "optimizer.weight_decay nan"),
        (lambda: Optimizer(b2=1.0), "optimizer.b2 1.0"),
        (lambda: Optimizer(schedule="linear"), "constant, cosine"),  # pyright: ignore
        (lambda: Optimizer(tables_rate=0.1), "optimizer.tables_rate 0.1"),
        (lambda: Training(patience=-1), "training.patience -1"),
        (lambda: Evaluation(ks=()), "evaluation.ks ()"),
        (lambda: Evaluation(ks=(1, 5), select="HR@10"), "Acc@1, HR@5, NDCG@5, MRR"),
        (lambda: Evaluation(negatives=2, select="AUC", filter_seen=True), "evaluation.negatives 2"),
    ],
)
def test_impossible_values_are_refused(settings: Any, says: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        settings()
    assert says in str(refusal.value)


def test_impossible_parts_are_refused() -> None:
    good = load_config(TINY)
    for change, says in (
        ({"name": "a/b"}, "'a/b' becomes a folder"),
        ({"model": 3}, "model must be a Module or a baseline (stjax.baselines), not int"),
        ({"training": Batching()}, "training must be a Training, not Batching"),
        ({"source": "log.csv"}, "has no open()"),
        ({"protocol": "leave-one-out"}, "is not callable"),
    ):
        with pytest.raises(ConfigError) as refusal:
            dataclasses.replace(good, **change)
        assert says in str(refusal.value)


def test_resolved_configs_are_plain_and_differ_by_field(nested: Path) -> None:
    old = resolve(load_config(nested))
    assert json.loads(json.dumps(old)) == old
    words = ["--model.interest.layers", "9", "--name", "b"]
    new = resolve(parse([str(nested), *words], default=nested).experiment)
    assert differences(old, old) == []
    assert differences(old, new) == ["name: 'nested' -> 'b'", "model.interest.layers: 2 -> 9"]

    class Other(nn.Module):
        layers: int = 2

    model: Any = load_config(nested).model
    swapped = old | {"model": resolve(model.clone(interest=Other()))}
    assert differences(old, swapped) == ["model.interest: Stack -> Other"]


@pytest.mark.parametrize(
    "section", [Batching, Optimizer, Training, Evaluation, Experiment], ids=lambda c: c.__name__
)
def test_every_field_is_read(section: type) -> None:
    """A setting that no code reads is a lie: look for `.field` outside the file that declares it."""
    files = [f for f in (ROOT / "stjax" / "training").glob("*.py") if f.name != "experiment.py"]
    text = "\n".join(f.read_text() for f in files)
    for field in dataclasses.fields(section):
        assert f".{field.name}" in text, field.name
