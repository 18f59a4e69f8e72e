"""The result of a run: model and baselines on the same targets, with all that the numbers depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from rich.console import Console

from stjax.baselines import all_baselines, reading
from stjax.data.dataset import Dataset
from stjax.data.protocols import TEST, VALID
from stjax.errors import ConfigError
from stjax.evaluation import (
    InstanceReport,
    Report,
    evaluate,
    evaluate_instances,
    paired_each,
    paired_instances,
    render,
)
from stjax.events import FIRST, Catalogue, Events, Query
from stjax.ops import devices
from stjax.training.experiment import Evaluation, Experiment
from stjax.training.sharding import Layout

Scores = Callable[[Any, Events, Query, Catalogue], jax.Array]
Rank = Callable[[Any, Events, Query, Any, Catalogue], jax.Array]
Measured = Report | InstanceReport
COMPARED = ("Acc@1", "HR@10", "NDCG@10", "MRR")  # in all rankings, whichever metric selects


def make_scores(model: nn.Module, mesh: Mesh | None = None) -> Scores:
    """The jitted function (params, history, query, catalogue) -> (B, V): one compilation per shape.

    mesh: of the devices, where there are several.
    """

    def scores(params: Any, history: Events, query: Query, catalogue: Catalogue) -> Any:
        with devices.within(mesh):
            return model.apply({"params": params}, history, query, catalogue, method="scores")

    return jax.jit(scores)


def make_rank(model: nn.Module, mesh: Mesh | None = None) -> Rank:
    """The jitted function (params, history, query, candidates, catalogue) -> (B, C): logits of the choice.

    mesh: of the devices, where there are several.
    Raises ConfigError for a model without one.
    """
    choice = getattr(getattr(model, "ranking", None), "choice", None)
    if choice is None:
        raise ConfigError(
            "evaluation.negatives asks for the odds of candidates: give the model a ranking head whose tasks"
            " hold a Choice, or set evaluation.negatives 0"
        )

    def rank(params: Any, history: Events, query: Query, candidates: Any, catalogue: Catalogue) -> Any:
        with devices.within(mesh):
            found = model.apply({"params": params}, history, query, candidates, catalogue, method="rank")
        return found[choice.name]

    return jax.jit(rank)


@dataclass(frozen=True)
class ModelScorer:
    """A model with its parameters, as the evaluator takes it."""

    name: str
    known: tuple[str, ...]
    scores: Scores
    params: Any
    catalogue: Catalogue
    layout: Layout | None = None

    def __call__(self, history: Events, query: Query, rows: np.ndarray) -> jax.Array:
        """Scores (B, V); `rows` is not read: a model sees the history that it is given."""
        size, (history, query) = len(rows), self._placed((history, query))
        scores = self.scores(self.params, history, query, self.catalogue)
        return scores if len(scores) == size else scores[:size]

    def _placed(self, asked: Any) -> Any:
        return asked if self.layout is None else self.layout.rows(asked)


@dataclass(frozen=True)
class RankingScorer(ModelScorer):
    """A model that also gives the odds of single candidates."""

    odds: Rank = field(kw_only=True)

    def rank(self, history: Events, query: Query, candidates: np.ndarray) -> jax.Array:
        """Logits (B, C) of the candidates (B, C)."""
        size = len(candidates)
        history, query, candidates = self._placed((history, query, candidates))
        logits = self.odds(self.params, history, query, candidates, self.catalogue)
        return logits if len(logits) == size else logits[:size]


def measure(scorer: Any, dataset: Dataset, part: int, settings: Evaluation) -> Measured:
    """Evaluate any scorer as the experiment says; a validation may be of fewer targets."""
    asked: dict[str, Any] = {
        "block": settings.block,
        "length": settings.length,
        "buckets": settings.buckets or None,
        "limit": (settings.validation_targets or None) if part == VALID else None,
    }
    if settings.negatives:
        return evaluate_instances(scorer, dataset, part, count=settings.negatives, **asked)
    return evaluate(scorer, dataset, part, ks=settings.ks, filter_seen=settings.filter_seen, **asked)


def measure_baselines(experiment: Experiment, dataset: Dataset) -> tuple[list[Measured], dict[str, float]]:
    """Reports of all baselines on the test part, and their selection metric on validation, where that is
    held out."""
    settings = experiment.evaluation
    known = tuple(experiment.model.known)
    compared = (*all_baselines(known), *(reading(baseline, known) for baseline in experiment.baselines))
    scorers = [baseline.fit(dataset) for baseline in compared if baseline != experiment.model]
    tests = [measure(scorer, dataset, TEST, settings) for scorer in scorers]
    if VALID not in dataset.split.parts:
        return tests, {}
    valid = [measure(scorer, dataset, VALID, settings) for scorer in scorers]
    return tests, {report.label: report.mean(settings.select) for report in valid}


def describe(experiment: Experiment, dataset: Dataset) -> dict[str, Any]:
    """Data, protocol and query switches, as JSON holds them: what is known before anything is measured."""
    source, known = type(experiment.source).__name__, tuple(experiment.model.known)
    return {
        "name": experiment.name,
        "title": f"{source}, {dataset.split.name}",
        "data": {
            "source": source,
            "fingerprint": dataset.fingerprint,
            "events": len(dataset.store),
            "users": dataset.store.users,
            "train_events": len(dataset.train_rows),
            "train_items": dataset.schema.items - FIRST,
        },
        "protocol": {"name": dataset.split.name, "notes": dict(dataset.notes)},
        "query": {
            "known": list(known),
            "reads_target_time": "time" in known,
            "reads_target_place": "place" in known,
        },
        "filter_seen": experiment.evaluation.filter_seen,
    }


def summarise(
    experiment: Experiment, dataset: Dataset, report: Measured, baselines: list[Measured]
) -> dict[str, Any]:
    """What a table needs, as JSON holds it: what `describe` says, metrics, baselines.

    differences: to each baseline, on the same targets, by bootstrap over users, of the selection metric first
    and then of the common ones; difference: that of the selection metric to the best of them.
    """
    metric = experiment.evaluation.select
    best = max(range(len(baselines)), key=lambda k: baselines[k].mean(metric))
    differences = [_differences(report, baseline, metric) for baseline in baselines]
    return describe(experiment, dataset) | {
        "title": f"{type(experiment.source).__name__}, {report.title}",
        "test": report.as_dict() | {"label": report.label},
        "baselines": [
            {"name": r.name, "label": r.label, "known": list(r.known), "metrics": r.summary()}
            for r in baselines
        ],
        "difference": differences[best][0],
        "differences": [one for each in differences for one in each],
    }


def _differences(report: Measured, baseline: Measured, select: str) -> list[dict[str, Any]]:
    """To one baseline, of the selection metric first; of the log loss where both give odds."""
    if isinstance(report, InstanceReport) and isinstance(baseline, InstanceReport):
        odds = report.probabilities and baseline.probabilities
        names = (select, "logloss") if odds else (select,)
        found = [paired_instances(report, baseline, name) for name in names]
    else:
        assert isinstance(report, Report) and isinstance(baseline, Report)
        found = paired_each(report, baseline, list(dict.fromkeys((select, *COMPARED))))
    return [{"metric": d.metric, "to": baseline.label} | dataclasses.asdict(d) for d in found]


def print_result(result: dict[str, Any], console: Console) -> None:
    """The table of a result.json: baselines, the model, and their difference, where anything was measured."""
    known = result["query"]["known"]
    reads = f"query: {', '.join(known)}" if known else "query: nothing of the target"
    if "test" not in result:
        console.print(f"{result['title']}\n{reads}\nnothing is measured: every event trains", highlight=False)
        return
    reports = [*result["baselines"], result["test"]]
    rows = [(report["label"], report["metrics"]) for report in reports]
    console.print(render(rows, f"{result['title']}\n{reads}"))
    d = result["difference"]
    spread = " (one user: no standard error)"
    if d["standard_error"] is not None:
        spread = f" ± {d['standard_error']:.4f}, 95% interval {d['low']:+.4f} to {d['high']:+.4f}"
    console.print(f"{d['metric']} against {d['to']}: {d['mean']:+.4f}{spread}", highlight=False)
