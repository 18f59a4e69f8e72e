"""Experiments that differ from another in a part of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from stjax.nn import Encoder, Recommender
from stjax.training import Experiment, load_config

CONFIGS = Path(__file__).parents[3] / "configs"


def config(name: str) -> Experiment:
    """The experiment of a file in `configs`."""
    return load_config(CONFIGS / f"{name}.py")


def model(experiment: Experiment, **changes: Any) -> Experiment:
    """With other fields of the model."""
    return replace(experiment, model=experiment.model.clone(**changes))


def head(experiment: Experiment, **changes: Any) -> Experiment:
    """With other fields of the model's head."""
    assert isinstance(experiment.model, Recommender)
    return model(experiment, head=experiment.model.head.clone(**changes))


def encoders(experiment: Experiment, **changes: Encoder | None) -> Experiment:
    """With further encoders, others in their place, or (None) without them."""
    assert isinstance(experiment.model, Recommender)
    merged = dict(experiment.model.encoders) | changes
    return model(experiment, encoders={name: e for name, e in merged.items() if e is not None})
