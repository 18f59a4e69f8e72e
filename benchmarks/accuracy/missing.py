"""How accuracy falls as modalities go missing when serving, with and without modality dropout in training.

    python -m benchmarks.accuracy.missing [florence] [--rates 0 0.2] [--fusions concat ...] [--seeds 0 1 2]

Trains configs/NAME.py for each fusion, rate and seed, and evaluates it on validation with nothing absent,
with each encoder absent, with all of them, and with every encoder there but no place known, of events or of
items, to anything that reads places. Prints a JSON line per model and one Markdown table: mean ±
standard error over seeds of the metric that the config selects by.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.accuracy.studies import _vary
from benchmarks.accuracy.study import cell, spread, trained
from stjax.data.protocols import VALID
from stjax.nn import (
    AttentionFusion,
    ConcatFusion,
    ConvolutionFusion,
    GatedFusion,
    HyperFusion,
    Recommender,
)
from stjax.training import Experiment
from stjax.training.report import make_scores, measure
from stjax.training.setup import Setup, use_compilation_cache

NOWHERE = "no place known"
FUSIONS = {
    "concat": ConcatFusion,
    "gates": GatedFusion,
    "attention": AttentionFusion,
    "convolution": ConvolutionFusion,
    "hypernetwork": HyperFusion,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", nargs="?", default="florence")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.2])
    parser.add_argument("--fusions", nargs="+", choices=FUSIONS, default=["concat"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    use_compilation_cache()
    base = _vary.config(args.config)
    assert isinstance(base.model, Recommender)
    names = list(base.model.encoders)
    missing = {"nothing": (), **{name: (name,) for name in names}, "all of them": tuple(names)}
    columns = [*missing, NOWHERE]
    print_later = [f"| missing | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for fusion in args.fusions:
        for rate in args.rates:
            changed = _vary.model(
                base, fusion=FUSIONS[fusion](base.model.fusion.features), modality_dropout=rate
            )
            found = [falls(changed, seed, missing) for seed in args.seeds]
            summary = {name: spread([f[name] for f in found]) for name in columns}
            facts = {"config": args.config, "fusion": fusion, "modality_dropout": rate, "seeds": args.seeds}
            print(json.dumps(facts | {"metric": base.evaluation.select, "missing": summary}), flush=True)
            cells = [cell(*summary[name]) for name in columns]
            print_later.append(f"| {fusion}, modality dropout {rate:g} | {' | '.join(cells)} |")
    print("\n".join(print_later))


def falls(experiment: Experiment, seed: int, missing: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """The metric of one trained model for each set of missing modalities."""
    experiment = replace(experiment, training=replace(experiment.training, seed=seed))
    setup = Setup.of(experiment)
    with tempfile.TemporaryDirectory() as folder:
        state, _, _ = trained(setup, Path(folder))
    found, metric = {}, experiment.evaluation.select
    for name, absent in missing.items():
        scorer = replace(setup.scorer(state), scores=make_scores(experiment.model.clone(absent=absent)))
        found[name] = measure(scorer, setup.dataset, VALID, experiment.evaluation).mean(metric)
    scorer = setup.scorer(state)
    nowhere = jnp.full_like(setup.catalogue.place, jnp.nan)
    without = replace(
        scorer,
        catalogue=replace(setup.catalogue, place=nowhere),
        scores=lambda params, history, *rest: scorer.scores(
            params, history.replace(place=jnp.full_like(history.place, jnp.nan)), *rest
        ),
    )
    found[NOWHERE] = measure(without, setup.dataset, VALID, experiment.evaluation).mean(metric)
    jax.clear_caches()
    return found


if __name__ == "__main__":
    main()
