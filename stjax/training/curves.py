"""curves.png: the loss, and the validation metric beside the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_curves(
    file: Path,
    lines: Sequence[Mapping[str, Any]],
    metric: str,
    baselines: Mapping[str, float],
    title: str,
) -> None:
    """Draw the lines of a metrics.jsonl; where none is of a validation, the loss alone.

    metric: the validation metric to show. baselines: its value by baseline, on the same targets.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: slow to import
    from matplotlib.figure import Figure

    train = [line for line in lines if line["kind"] == "train"]
    valid = [line for line in lines if line["kind"] == "validation"]
    figure = Figure(figsize=(10 if valid else 5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, *right = figure.subplots(1, 2 if valid else 1, squeeze=False)[0]
    left.plot([x["step"] for x in train], [x["loss"] for x in train], color="tab:blue")
    left.set(xlabel="step", ylabel="training loss (nats per target)")
    for axes in right:
        axes.plot(
            [x["step"] for x in valid], [x[metric] for x in valid], "o-", color="tab:blue", label="model"
        )
        for k, (name, value) in enumerate(sorted(baselines.items(), key=lambda item: -item[1])):
            axes.axhline(value, linestyle="--", linewidth=1, color=f"C{k + 1}", label=name)
        axes.set(xlabel="step", ylabel=f"validation {metric}", ylim=(0, None))
        axes.legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(file, dpi=120)
