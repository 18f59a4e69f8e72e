"""Experiments that differ from another in a part of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from stjax.nn import (
    GRU,
    HSTU,
    LSTM,
    AttentionFusion,
    ConvolutionFusion,
    Encoder,
    GatedFusion,
    HyperFusion,
    Recommender,
    SelfAttention,
    SpatioTemporalBias,
    StateSpace,
)
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


def other_fusions(experiment: Experiment) -> dict[str, Experiment]:
    """A row for each fusion that could take the place of concatenation."""
    assert isinstance(experiment.model, Recommender)
    d = experiment.model.fusion.features
    return {
        "gates": model(experiment, fusion=GatedFusion(d)),
        "attention over modalities": model(experiment, fusion=AttentionFusion(d)),
        "convolution": model(experiment, fusion=ConvolutionFusion(d)),
        "hypernetwork": model(experiment, fusion=HyperFusion(d)),
    }


def other_interests(experiment: Experiment, window: int) -> dict[str, Experiment]:
    """A row for each interest model, of one layer, that could take the place of a GRU."""
    everywhere = SpatioTemporalBias()
    interests = {
        "GRU with time and distance gates": GRU(gates=("time", "distance")),
        "LSTM": LSTM(),
        "self-attention": SelfAttention(layers=1, window=window),
        "self-attention, spatiotemporal bias": SelfAttention(layers=1, window=window, bias=everywhere),
        "HSTU": HSTU(layers=1, window=window),
        "state space": StateSpace(layers=1),
    }
    return {name: model(experiment, interest=interest) for name, interest in interests.items()}
