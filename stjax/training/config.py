"""Config files and the command line: from arguments to an Experiment, and to plain data and back to words.

A config is a Python file that defines `experiment = Experiment(...)`. tyro turns the same object into
typed overrides, so no field is declared twice.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import math
import os
import sys
import traceback
import typing
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from flax import linen as nn

from stjax.errors import ConfigError
from stjax.training.experiment import Experiment

USAGE = "[CONFIG.py] [OPTIONS]"


@dataclasses.dataclass(frozen=True)
class Command:
    """Train, evaluate and report one experiment; run again, it goes on where it stopped."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    workdir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Run folder; by default runs/NAME."""
    eval_only: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Evaluate the best checkpoint of the run folder on the test part."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Of several processes: where the first one can be reached."""
    processes: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many processes train together."""
    process: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    """Which of them this is, from 0."""
    detect: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take those three from the environment, as JAX detects it: Slurm, Kubernetes, a TPU pod, MPI."""
    config: tyro.conf.Suppress[Path] = Path()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.workdir or Path("runs") / self.experiment.name


def load_config(path: str | os.PathLike[str]) -> Experiment:
    """Import a config file and return its `experiment`. Raises ConfigError with the remedy."""
    return load_module(path).experiment


def load_module(path: str | os.PathLike[str]) -> Any:
    """Import a config file, of which `experiment` is sure to be there. Raises ConfigError with the remedy."""
    path = Path(path)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        found = f"; {path.parent} holds {', '.join(near)}" if near else ""
        raise ConfigError(f"config file {path} does not exist{found}")
    name = f"config_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config file {path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
    except ConfigError as error:
        raise ConfigError(f"config file {path}: {error}") from error
    except Exception as error:  # whatever a user's file raises is an error of that file
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = lines[-1] if lines else getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else str(path)
        raise ConfigError(
            f"config file {where} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    experiment = getattr(module, "experiment", None)
    if not isinstance(experiment, Experiment):
        what = "no `experiment`" if experiment is None else f"a {type(experiment).__name__}"
        raise ConfigError(f"config file {path} defines {what}: end it with experiment = Experiment(...)")
    return module


def parse(arguments: Sequence[str], default: str | os.PathLike[str], program: str = "train.py") -> Command:
    """Arguments of `train.py` as a Command: an optional config file first, then typed overrides.

    Raises ConfigError for a config that cannot be used; exits as tyro does for `--help` (0) and for
    unknown or ill-typed overrides (2, naming similar ones).
    """
    arguments = list(arguments)
    given = bool(arguments) and not arguments[0].startswith("-")
    config = Path(arguments.pop(0) if given else default)
    command = Command(experiment=load_config(config), config=config)
    offered = _offered(command, arguments)
    # Sources are read for what --help says of fields, which takes long.
    markers = () if {"-h", "--help"} & set(arguments) else (tyro.conf.HelptextFromCommentsOff,)
    with warnings.catch_warnings():
        # tyro takes Linen modules for mutable defaults; they are frozen.
        warnings.filterwarnings("ignore", message="Mutable type", category=UserWarning)
        parsed: Any = tyro.cli(
            tyro.conf.SuppressFixed[tyro.conf.AvoidSubcommands[type(offered)]],
            prog=f"{program} {config if given else '[CONFIG.py]'}",
            default=offered,
            args=arguments,
            config=markers,
        )
    experiment = dataclasses.replace(command.experiment, **vars(parsed.experiment))
    return Command(**{**vars(parsed), "experiment": experiment})


def _offered(command: Command, arguments: Sequence[str]) -> Command:
    """The command with those fields of its experiment alone that options name: tyro reads all it is offered.

    That took 0.15 s of each start. The experiment is whole for --help, and for an option of no field, so that
    the error names similar ones.
    """
    named = {word[2:].split("=")[0].split(".")[0] for word in arguments if word.startswith("-")}
    named = {name.replace("-", "_") for name in named}
    kinds = typing.get_type_hints(Experiment, include_extras=True)
    if named - kinds.keys() - vars(command).keys():
        return command
    fields = [name for name in kinds if name in named]
    part: Any = dataclasses.make_dataclass("Part", [(name, kinds[name]) for name in fields])
    annotated = Annotated[part, tyro.conf.arg(name="")]
    kind: Any = dataclasses.make_dataclass("Few", [("experiment", annotated)], bases=(Command,), frozen=True)
    values = [getattr(command.experiment, name) for name in fields]
    return kind(**{**vars(command), "experiment": part(*values)})


def resolve(value: Any) -> Any:
    """Dataclasses and Linen modules as plain data for JSON: `{"type": class, field: value, ...}`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hidden = {"parent", "name"} if isinstance(value, nn.Module) else set()
        names = [f.name for f in dataclasses.fields(value) if f.name not in hidden]
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return {"type": kind, **{name: resolve(getattr(value, name)) for name in names}}
    if isinstance(value, Mapping):
        return {str(key): resolve(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [resolve(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no sign for it
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "__qualname__"):  # functions and classes, e.g. a dtype or an initializer
        return f"{value.__module__}.{value.__qualname__}"
    return str(value)


def unresolve(saved: Any, like: Any) -> Any:
    """The object of which `resolve` gave `saved`. like: the same before overrides, for what JSON cannot hold.

    Raises ConfigError for a class that can no longer be imported, or has other fields now.
    """
    if resolve(like) == saved:
        return like
    if isinstance(saved, Mapping) and "type" in saved:
        module, _, name = str(saved["type"]).rpartition(".")
        try:
            kind = getattr(importlib.import_module(module), name)
            fields = {n: unresolve(v, getattr(like, n, None)) for n, v in saved.items() if n != "type"}
            return kind(**fields)
        except (ImportError, AttributeError, TypeError) as error:
            raise ConfigError(f"{saved['type']} of a saved config cannot be made again: {error}") from error
    if isinstance(saved, Mapping):
        inner = like if isinstance(like, Mapping) else {}
        return {key: unresolve(value, inner.get(key)) for key, value in saved.items()}
    if isinstance(saved, (list, tuple)):
        old = like if isinstance(like, (list, tuple)) and len(like) == len(saved) else [None] * len(saved)
        return tuple(unresolve(value, before) for value, before in zip(saved, old, strict=True))
    if isinstance(saved, str) and saved in ("inf", "-inf", "nan") and isinstance(like, float):
        return float(saved)
    if isinstance(saved, str) and isinstance(like, Path):
        return Path(saved)
    return saved


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """One line per field that differs between two resolved configs, such as `training.seed: 0 -> 1`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get("type") == new.get("type"):
        names = dict.fromkeys([*old, *new])
        lines = [differences(old.get(n), new.get(n), f"{path}.{n}" if path else str(n)) for n in names]
        return [line for group in lines for line in group]
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    return value["type"].rpartition(".")[2] if isinstance(value, Mapping) and "type" in value else repr(value)
