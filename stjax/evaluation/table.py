"""Results side by side: one row per scorer, one column per metric, the best in bold."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from stjax.evaluation.report import Summary

Rows = Sequence[tuple[str, Summary]]

LOWER = ("logloss",)  # is better; of all other metrics higher is
HEADLINE = ("Acc@1", "HR@10", "NDCG@10", "MRR")  # what fits a terminal of 80 columns


def render(rows: Rows, title: str, metrics: Sequence[str] | None = None) -> Table:
    """A table for the terminal.

    rows: (name, summary), see `Report.label` and `Report.summary`. metrics: the columns; if None those
    of HEADLINE that the rows have, or all where they have none of these.
    """
    there = _metrics(rows)
    metrics = metrics or [name for name in HEADLINE if name in there] or there
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("")
    for name in metrics:
        table.add_column(name, justify="right", no_wrap=True)
    best = _best(rows, metrics)
    for label, summary in rows:
        cells = [
            Text(_cell(summary, m), style="bold" if _mean(summary, m) == best[m] else "") for m in metrics
        ]
        table.add_row(Text(label), *cells)  # Text, so that no name is read as markup
    return table


def markdown(rows: Rows, title: str, metrics: Sequence[str] | None = None) -> str:
    """The same as Markdown text, with its title as the first paragraph; all metrics by default."""
    metrics = metrics or _metrics(rows)
    best = _best(rows, metrics)
    lines = [title, "", f"| | {' | '.join(metrics)} |", f"|---|{'---:|' * len(metrics)}"]
    for label, summary in rows:
        cells = [_cell(summary, m) for m in metrics]
        cells = [
            f"**{cell}**" if _mean(summary, m) == best[m] else cell
            for m, cell in zip(metrics, cells, strict=True)
        ]
        lines.append(f"| {label.replace('|', '&#124;')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _metrics(rows: Rows) -> list[str]:
    """Every metric that any row has, in the order of first mention."""
    return list(dict.fromkeys(name for _, summary in rows for name in summary))


def _mean(summary: Summary, name: str) -> float | None:
    return summary[name]["mean"] if name in summary else None


def _best(rows: Rows, metrics: Sequence[str]) -> dict[str, float | None]:
    """The best mean of each metric."""
    means = {name: [_mean(summary, name) for _, summary in rows] for name in metrics}
    return {
        name: (min if name in LOWER else max)((mean for mean in column if mean is not None), default=None)
        for name, column in means.items()
    }


def _cell(summary: Summary, name: str) -> str:
    if name not in summary:
        return "-"
    mean, error = summary[name]["mean"], summary[name].get("standard_error")
    return f"{mean:.3f}" if error is None else f"{mean:.3f} ±{error:.3f}"
