"""What other libraries reach on the same targets, as it is recorded under results/peers.

NAME.jsonl: a line per run, as `benchmarks/peers/recbole_run.py` and `benchmarks/peers/fm.py` print it.
NAME-differences.jsonl: a line per peer and metric, as `benchmarks.accuracy.beside` takes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmarks.accuracy import recorded
from benchmarks.accuracy.figures import paired, shown
from benchmarks.accuracy.seeds import over_seeds

NAMES = {"fm": "FM", "deepfm": "DeepFM"}


@dataclass(frozen=True)
class Peer:
    """A model with the settings that were best on validation. seeds and the lists of metrics go together."""

    model: str
    label: str
    settings: dict[str, Any]
    tried: int
    seeds: tuple[int, ...]
    valid: tuple[float, ...]
    metrics: dict[str, tuple[float, ...]]


def load(name: str) -> list[Peer]:
    """The recorded peers of a row of the table, in the order of their names."""
    return choose(_lines(f"{name}.jsonl"))


def choose(lines: Sequence[dict[str, Any]]) -> list[Peer]:
    """Of each model the settings with the best mean on validation, and its runs with a test figure.

    A model without any such run is left out. Raises SystemExit where others of its settings have one, but not
    the best: they are to be run with --test.
    """
    models: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for line in lines:
        settings = json.dumps(line["settings"], sort_keys=True)
        models.setdefault(line["model"], {}).setdefault(settings, []).append(line)
    tested = {line["model"] for line in lines if "test" in line}
    return [_peer(model, tried) for model, tried in sorted(models.items()) if model in tested]


def _peer(model: str, tried: dict[str, list[dict[str, Any]]]) -> Peer:
    def on_validation(runs: list[dict[str, Any]]) -> tuple[float, ...]:
        return tuple(run["valid"][run.get("select", "AUC")] for run in runs)

    best = max(tried.values(), key=lambda runs: fmean(on_validation(runs)))
    runs = sorted((run for run in best if "test" in run), key=lambda run: run["seed"])
    if not runs:
        raise SystemExit(f"{model} with {best[0]['settings']} is best on validation: run it with --test")
    library = runs[0]["versions"].get("recbole")
    return Peer(
        model,
        NAMES.get(model, model) if library is None else f"RecBole {library} {model}",
        runs[0]["settings"],
        len(tried),
        tuple(run["seed"] for run in runs),
        on_validation(runs),
        {metric: tuple(run["test"][metric] for run in runs) for metric in runs[0]["test"]},
    )


def differences(name: str) -> list[dict[str, Any]]:
    """Of our model from the peers of a row: {to, metric, seeds, mean, standard_error}, lists by seed."""
    return _lines(f"{name}-differences.jsonl")


def save_differences(name: str, found: Sequence[dict[str, Any]]) -> None:
    """Record all of a row, in the place of what was there."""
    text = "".join(json.dumps(one) + "\n" for one in found)
    (recorded.FOLDER / "peers" / f"{name}-differences.jsonl").write_text(text)


def remark(name: str, metrics: Sequence[str]) -> str:
    """What is to be said of the libraries that were run beside a row, or nothing."""
    said = [
        f"{p.label} (the best on validation of {p.tried} setting{'s' * (p.tried > 1)}, {len(p.seeds)}"
        f" seed{'s' * (len(p.seeds) > 1)}"
        + "".join(
            f", paired difference in {d['metric']} {paired(d, digits=5 if d['metric'] == 'AUC' else 4)}"
            for d in differences(name)
            if d["to"] == p.label and d["metric"] in metrics
        )
        + ")"
        for p in load(name)
    ]
    return f"run on the same split and targets as {name}: {'; '.join(said)}" if said else ""


def table(name: str) -> str:
    """The libraries that were run beside a row: settings, and all metrics on test."""
    others = load(name)
    if not others:
        return ""
    metrics = list(others[0].metrics)
    lines = [
        "Run beside on the same targets, settings chosen on validation, ± standard error over seeds:",
        "",
        f"| | settings | tried | seeds | {' | '.join(metrics)} |",
        f"|---|---|---:|---:|{'---:|' * len(metrics)}",
    ]
    for p in others:
        settings = ", ".join(f"{key} {json.dumps(value)}" for key, value in p.settings.items())
        values = " | ".join(shown(*over_seeds(list(p.metrics[m])), digits=4) for m in metrics)
        lines.append(f"| {p.label} | {settings} | {p.tried} | {len(p.seeds)} | {values} |")
    apart = [f"{d['metric']} {paired(d, digits=5)} from {d['to']}" for d in differences(name)]
    if apart:
        lines += ["", f"Paired differences from them, seed beside seed: {'; '.join(apart)}."]
    return "\n".join([*lines, "", ""])


def _lines(file: str) -> list[dict[str, Any]]:
    path = recorded.FOLDER / "peers" / file
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
