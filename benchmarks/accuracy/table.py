"""The tables of results in the READMEs, made from what is recorded: no number in them is typed.

    python -m benchmarks.accuracy.table [--check]

Between `<!-- results -->` and `<!-- /results -->` stand all recorded rows beside targets and published
figures; between `<!-- results NAME -->` and `<!-- /results -->` stands one row beside all its baselines. A
row is recorded by `python -m benchmarks.accuracy.seeds CONFIG --record`. --check writes nothing and exits
with 1 where a README is not what it would be.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.accuracy import peers, recorded
from benchmarks.accuracy.figures import paired, shown
from benchmarks.accuracy.seeds import model, over_seeds
from stjax.evaluation import markdown

ROOT = Path(__file__).parents[2]
READMES = (ROOT / "README.md", ROOT / "benchmarks" / "accuracy" / "README.md")
NEW, SEEN = "new to the user", "seen before"
MARKED = re.compile(r"(<!-- results(?: (\S+))? -->\n).*?(<!-- /results -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """What stands beside a recorded row.

    data: and protocol, in words. metrics: of the row, with the target of each where there is one. new: target
    of the MRR on items that are new to the user. baseline: label of the one that differences are taken to.
    published: by metric. remark: how the published protocol differs.
    """

    data: str
    metrics: Mapping[str, float | None]
    baseline: str
    published: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""
    new: float | None = None


NYC = (
    "the training file is rebuilt from the log (84,298 check-ins, the published one has about 83,228),"
    " validation and test are the published files; the published tables allow the history of training and of"
    " the target's own trajectory"
)
LOG = (
    "they read, beside the check-ins of the published split, the 42,888 of the same log that it leaves out,"
    " nearly all alone or in twos within a day; 28,319 of these, before the end of the training part, are"
    " trained on. Targets and candidates are the same 1,433 and 4,980; what is published had not these"
    " check-ins"
)
REFIT = (
    "`training.refit validation` trains again on the validation part too, for so many epochs as were best"
    " without, and tests once. So parameters and counts are of the first 90% of the published split, not of"
    " the first 80% as in what is published; targets and candidates are the same 1,433 and 4,980"
)
OF_SPLIT = {
    "nyc": Row(
        "Foursquare NYC, last of trajectory, all earlier history, target's time not read",
        {"Acc@1": 0.335, "MRR": 0.475},
        "Markov with back-off",
        {"Acc@1": "STHGCN .2625", "MRR": "STHGCN .3798"},
        f"STHGCN (Yan et al., SIGIR 2023), 10 runs: {NYC}",
        new=0.06,
    ),
    "nyc_time": Row(
        "the same, target's time read",
        {"Acc@1": 0.435, "MRR": 0.55},
        "Markov with back-off (reads time)",
        {"Acc@1": "ROTAN .3106, GA-LLM .4070", "MRR": "ROTAN .4104"},
        "ROTAN (Feng et al., KDD 2024), GA-LLM (3 billion parameters): data and history as above",
        new=0.06,
    ),
    "nyc_training": Row(
        "the same, history of the training part and of the own trajectory, target's time not read",
        {"Acc@1": 0.295, "MRR": 0.435},
        "Markov with back-off",
        {"Acc@1": "GETNext .2435", "MRR": "GETNext .3621"},
        "GETNext (Yang et al., SIGIR 2022): the history is the published one, the training file is rebuilt",
        new=0.06,
    ),
}
OF_LOG = {name.replace("nyc", "nyc_log"): replace(row, remark="") for name, row in OF_SPLIT.items()}
OF_LOG["nyc_log"] = replace(
    OF_SPLIT["nyc"],
    data="Foursquare NYC, last of trajectory, all earlier check-ins of the log, target's time not read",
    remark=f"the rows named nyc_log: {LOG}",
)
OF_REFIT = {
    "nyc_refit": replace(
        OF_SPLIT["nyc"],
        data="Foursquare NYC, last of trajectory, all earlier history, trained through the validation"
        " part, target's time not read",
        remark=f"the rows named nyc_refit: {REFIT}",
    ),
    "nyc_refit_time": replace(OF_SPLIT["nyc_time"], remark=""),
}
ROWS: dict[str, Row] = {
    **OF_SPLIT,
    **OF_REFIT,
    **OF_LOG,
    "movielens": Row(
        "MovieLens-100K, leave-one-out, full ranking, seen filtered",
        {"NDCG@10": 0.085, "HR@10": 0.165},
        "Item k nearest neighbours",
        {"NDCG@10": "HSTU .0775", "HR@10": "HSTU .1527"},
        "the public PyTorch HSTU, 50 epochs, run beside: it holds out one item, not two",
    ),
    "florence": Row(
        "TripBuilder Florence, next place within a trip",
        {"MRR": None, "Acc@1": None},
        "Markov with back-off",
    ),
    "frappe": Row(
        "Frappe, which app in a context, without order, each target beside two others",
        {"AUC": None, "logloss": None},
        "Markov with back-off",
        remark="the FM reads the items' attributes, as the model does: **it is as good in both, within the"
        " errors**",
    ),
}


def main(arguments: list[str]) -> int:
    rows, stale = recorded.load_rows(), False
    for name in sorted(set(ROWS) - set(rows)):
        print(f"not recorded: {name}", file=sys.stderr)
    for name in sorted(set(rows) - set(ROWS)):
        print(f"recorded, but not declared in ROWS, so only in its own table: {name}", file=sys.stderr)
    for file in READMES:
        old = file.read_text()
        new = filled(old, rows)
        if old != new:
            print(
                f"{file}: {'not what it would be' if '--check' in arguments else 'written'}", file=sys.stderr
            )
            stale = True
            if "--check" not in arguments:
                file.write_text(new)
    return int(stale and "--check" in arguments)


def filled(text: str, rows: Mapping[str, dict[str, Any]]) -> str:
    """A text with its marked parts made anew."""

    def part(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        if name is None:
            body = summary(rows)
        else:
            body = detail(rows[name]) if name in rows else "Not recorded yet.\n"
        return f"{begin}\n{body}\n{end}"

    return MARKED.sub(part, text)


def summary(rows: Mapping[str, dict[str, Any]]) -> str:
    """All recorded rows, in the order of ROWS, and what is to be said of the published figures."""
    lines = [
        "| data, protocol | metric | stjax | target | counting baseline | paired difference"
        " | published, run |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    remarks = []
    for name, row in ROWS.items():
        if name in rows:
            lines += _lines(name, row, rows[name])
            said = peers.remark(name, list(row.metrics))
            remarks += [f"- {remark}." for remark in (row.remark, said) if remark]
    words = (
        "Test figures, chosen on validation, full ranking, ties counted against the target; stjax: mean ±"
        " standard error over seeds; baseline: ± standard error over users; paired difference: on the same"
        " targets, ± bootstrap standard error over users, both averaged over seeds."
    )
    return "\n".join([*lines, "", words, *(["", *remarks] if remarks else [])]) + "\n"


def _lines(name: str, row: Row, made: dict[str, Any]) -> list[str]:
    """One line a metric, and one each for revisits and new items where a part has both."""
    baseline = next((b["metrics"] for b in made["baselines"] if b["label"] == row.baseline), None)
    if baseline is None:
        there = [b["label"] for b in made["baselines"]]
        raise SystemExit(f"{made['name']}: no baseline {row.baseline!r} is recorded, only {there}: mend ROWS")
    lines, others = [], peers.load(name)
    for metric, target in row.metrics.items():
        theirs = f"{shown(**baseline[metric])} ({row.baseline})" if metric in baseline else ""
        apart = [d for d in made["differences"] if d["to"] == row.baseline and d["metric"] == metric]
        difference = paired(apart[0]) if apart else ""
        run = [
            f"{p.label} {shown(*over_seeds(list(p.metrics[metric])))}" for p in others if metric in p.metrics
        ]
        published = ", ".join(filter(None, [row.published.get(metric), *run]))
        lines.append([metric, *ours(made["metrics"][metric], target), theirs, difference, published])
    if {NEW, SEEN} <= set(made["novelty"]):
        for band, words, target in ((SEEN, "revisits", None), (NEW, "new to the user", row.new)):
            part = made["novelty"][band]
            figures = ours(part["metrics"]["MRR"], target)
            lines.append([f"MRR, {part['targets']:,} {words}", *figures, "", "", ""])
    how = f"`{made['command']}`, {fmean(made['train_seconds']):,.0f} s of training a seed"
    heads = [row.data, how, *[""] * len(lines)] if len(lines) > 1 else [f"{row.data}: {how}"]
    return [f"| {head} | {' | '.join(cells)} |" for head, cells in zip(heads, lines, strict=False)]


def ours(values: list[float], target: float | None) -> tuple[str, str]:
    """The mean over seeds, in bold where it reaches the target, and the target."""
    mean, error = over_seeds(values)
    if target is None:
        return shown(mean, error), ""
    return f"**{shown(mean, error)}**" if mean >= target else shown(mean, error), shown(target)


def detail(made: dict[str, Any]) -> str:
    """One row beside all its baselines, with its command and what it was made with."""
    baselines = [(b["label"], b["metrics"]) for b in made["baselines"]]
    label = f"{made['label']}, {len(made['seeds'])} seed{'s' if len(made['seeds']) > 1 else ''}"
    reads = ", ".join(made["query"]) or "nothing"
    metric = made["differences"][0]["metric"]
    apart = [f"{paired(d)} from {d['to']}" for d in made["differences"] if d["metric"] == metric]
    versions, hardware = made["versions"], made["hardware"]
    made_with = ", ".join(f"{name} {versions[name]}" for name in ("python", "jax", "flax", "optax"))
    train, total = (fmean(made[name]) for name in ("train_seconds", "total_seconds"))
    return "\n".join(
        [
            f"    {made['command']}",
            "",
            markdown([*baselines, (label, model(made))], f"{made['title']}; of the target {reads} is read:"),
            f"Paired difference in {metric} (± bootstrap standard error over users, averaged over seeds):"
            f" {'; '.join(apart)}.",
            "",
            f"{peers.table(made['name'])}{train:,.0f} s of training and {total:,.0f} s in all a seed;"
            f" {hardware['cpus']} CPUs,"
            f" {hardware['devices']} x {hardware['device']}; {made_with}; commit {made['commit']}; data"
            f" {made['fingerprint']}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
