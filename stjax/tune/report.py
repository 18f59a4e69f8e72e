"""What a search has found: trials.jsonl, history.png, best.py and a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stjax.tune.best import wrapped, write_best
from stjax.tune.search import Search

ROWS = 10


def line(trial: FrozenTrial) -> dict[str, Any]:
    """A trial that ended, as JSON holds it. value: of a pruned trial the last that it reported."""
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        **{name: x for name, x in trial.user_attrs.items() if name != "worker"},
        "reported": {str(step): value for step, value in sorted(trial.intermediate_values.items())},
    }


def told(trial: FrozenTrial, metric: str, best: FrozenTrial | None) -> str:
    """A trial that ended, in a line."""
    value = "" if trial.value is None else f" {metric} {trial.value:.4f}"
    extra = f" (as trial {trial.user_attrs['same as']})" if "same as" in trial.user_attrs else ""
    reason = trial.user_attrs.get("reason", "")
    reason = f": {reason}" if reason not in ("", "pruned") else ""
    values = ", ".join(f"{path} = {value}" for path, value in trial.user_attrs["values"].items())
    record = f"; best {best.value:.4f} of trial {best.number}" if best is not None else ""
    return f"trial {trial.number} {trial.state.name.lower()}{extra}{reason}{value}{record}; {values}"


def write(search: Search, config: Path, seeds: list[int], command: str) -> None:
    """Write trials.jsonl and, where a trial is complete, best.py: each whole or not at all."""
    done, best = search.done(), search.best()
    partial = search.folder / ".trials.partial"
    partial.write_text("".join(json.dumps(line(trial)) + "\n" for trial in done))
    partial.rename(search.folder / "trials.jsonl")
    if best is None:
        return
    experiment = search.experiment_of(best)
    metric, pruned = experiment.evaluation.select, sum(t.state == TrialState.PRUNED for t in done)
    by_seed = best.user_attrs["by seed"]
    single = [f"{value:.4f}" for value in by_seed]
    over = (
        f", mean of the seeds {', '.join(map(str, seeds))} ({', '.join(single)})" if len(by_seed) > 1 else ""
    )
    own = next((t for t in done if "fixed_params" in t.system_attrs and t.value is not None), None)
    before = (
        f" The config as it was: {own.value:.4f} (trial {own.number})."
        if own and own.number != best.number
        else ""
    )
    paragraphs = [
        f"{experiment.name}, tuned: trial {best.number} of {len(done)}, {pruned} of them pruned.",
        wrapped(
            f"Validation {metric} {best.value:.4f}{over}.{before} The highest of many is flattered by chance;"
            " the test part was not read."
        ),
        "\n".join(f"    {path} = {value}" for path, value in best.user_attrs["values"].items()),
        f"    {command}\n    python train.py {search.folder / 'best.py'}",
    ]
    experiment = type(experiment)(**{**vars(experiment), "name": f"{experiment.name}_tuned"})
    write_best(search.folder, config, experiment, "\n\n".join(paragraphs))


def draw(search: Search, metric: str) -> None:
    """history.png: the value of every trial, and the best so far."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: slow to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for state, style, label in ((TrialState.COMPLETE, "o", "complete"), (TrialState.PRUNED, "x", "pruned")):
        mine = [(t.number, t.value) for t in search.done() if t.state == state and t.value is not None]
        if mine:
            axes.plot(*zip(*mine, strict=True), style, label=label)
    complete = [t for t in search.done() if t.state == TrialState.COMPLETE]
    best = [max(t.value or 0.0 for t in complete[: k + 1]) for k in range(len(complete))]
    axes.step([t.number for t in complete], best, where="post", label="best so far")
    axes.set(xlabel="trial", ylabel=f"validation {metric}", title=str(search.folder))
    axes.legend(fontsize="small")
    partial = search.folder / ".history.png"
    figure.savefig(partial, dpi=120, format="png")
    partial.rename(search.folder / "history.png")


def show(search: Search, metric: str, console: Console) -> None:
    """Print the best trials."""
    complete = [t for t in search.done() if t.state == TrialState.COMPLETE]
    complete.sort(key=lambda trial: (-(trial.value or 0.0), trial.number))
    done = len(search.done())
    table = Table(
        title=f"{search.folder}: {done} trials, {done - len(complete)} pruned; validation {metric}",
        title_justify="left",
        box=box.SIMPLE,
    )
    for name in ("trial", metric, *search.space):
        table.add_column(name.replace(".", ".\n"), justify="right", overflow="fold")
    for trial in complete[:ROWS]:
        cells = [str(trial.number), f"{trial.value:.4f}", *trial.user_attrs["values"].values()]
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
