"""Models that cannot be built from their settings: one clear message before anything is trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest

from stjax.errors import ConfigError
from stjax.nn import ConcatFusion, Ensemble, Recommender, Retrieval, SelfAttention, TimeEmbed
from stjax.training import Batching
from stjax.training.optimizer import decay_mask
from stjax.training.setup import Setup
from tests.configs.tiny import TinyLog, experiment


def setup(folder: Path, members: int = 0, **fields: Any) -> Setup:
    model: Any = Recommender(**({"fusion": ConcatFusion(8), "interest": SelfAttention(heads=2)} | fields))
    model = Ensemble(model, members) if members else model
    return Setup.of(dataclasses.replace(experiment, source=TinyLog(folder), model=model))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"interest": SelfAttention(heads=3)}, "heads=3 does not divide the 8 features"),
        ({"interest": SelfAttention(heads=2, positions="sinus")}, "positions='sinus' must be 'learned' or"),  # pyright: ignore
        ({"dropout": 1.5}, "dropout=1.5 must be at least 0 and below 1"),
        ({"fusion": ConcatFusion(0)}, "cannot be built"),
        ({"encoders": {"item": TimeEmbed()}}, "choose another name"),
        ({"head": Retrieval(known=("weather",))}, "weather"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        setup(tmp_path, **fields)


@pytest.mark.parametrize("members", [0, 2])
def test_what_goes_by_an_order_that_means_nothing(tmp_path: Path, members: int) -> None:
    model: Any = Recommender(ordered=False)
    unordered = dataclasses.replace(
        experiment, source=TinyLog(tmp_path), model=Ensemble(model, members) if members else model
    )
    for batching, says in (
        (Batching(within="trip"), r"batching\.within 'trip' goes by .*ordered=False: set it to None"),
        (Batching(length=7, overlap=3), r"batching\.overlap 3 goes by .*: set it to 0"),
    ):
        with pytest.raises(ConfigError, match=says):
            Setup.of(dataclasses.replace(unordered, batching=batching))


@pytest.mark.parametrize("members", [0, 3])
def test_weight_decay_spares_tables_norms_and_biases(tmp_path: Path, members: int) -> None:
    params = jax.eval_shape(setup(tmp_path, members).initial).params
    spared, decayed = set(), set()
    for path, decay in jax.tree_util.tree_leaves_with_path(decay_mask(params)):
        (decayed if decay else spared).add(str(path[-1].key))
    assert decayed == {"kernel"}
    assert {"bias", "lag_bias", "scale", "table", "embedding"} <= spared
