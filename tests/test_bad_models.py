"""Models that cannot be built from their settings: one clear message before anything is trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest

from stjax.errors import ConfigError
from stjax.nn import (
    GRU,
    HSTU,
    LSTM,
    AttentionFusion,
    CellEmbed,
    ConcatFusion,
    Ensemble,
    GapEmbed,
    HomeEmbed,
    HyperFusion,
    ItemEmbed,
    NextTime,
    Pointer,
    Recommender,
    Retrieval,
    RhythmEmbed,
    SelfAttention,
    SpaceEmbed,
    SpatioTemporalBias,
    StateSpace,
    TimeEmbed,
    UserEmbed,
)
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
        ({"encoders": {"item": TimeEmbed()}}, "choose another name"),
        ({"head": Retrieval(known=("weather",))}, "weather"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        setup(tmp_path, **fields)


def test_numbers_that_are_no_counts(tmp_path: Path) -> None:
    """Of every part that has layers, heads, widths or windows: no TypeError from within, nothing accepted."""

    def encoder(module: Any) -> dict[str, Any]:
        return {"encoders": {"own": module}}

    for fields, says in (
        ({"fusion": ConcatFusion(0)}, "features=0 must be at least 1, a whole number, in ConcatFusion"),
        ({"fusion": ConcatFusion(-8)}, "features=-8 must be at least 1, .* in ConcatFusion"),
        ({"fusion": HyperFusion(8, rank=0)}, "rank=0 must be at least 1"),
        ({"fusion": AttentionFusion(8, heads=-2)}, "heads=-2 must be at least 1"),
        ({"items": ItemEmbed(-3)}, "features=-3 must be at least 1, .* in ItemEmbed"),
        ({"items": ItemEmbed(compression="hashed", rows=1.5)}, r"rows=1\.5 must be .* a whole number"),  # pyright: ignore
        ({"head": Retrieval(pointer=Pointer(window=0))}, "window=0 must be at least 1, .* in Pointer"),
        ({"head": Retrieval(pointer=Pointer(-4))}, "features=-4 must be at least 1, .* in Pointer"),
        ({"when": NextTime(hidden=0)}, "hidden=0 must be at least 1, .* in NextTime"),
        ({"interest": GRU(layers=-1)}, "layers=-1 must be at least 1, .* in GRU"),
        ({"interest": GRU(layers=1.5)}, r"layers=1\.5 must be at least 1, a whole number"),  # pyright: ignore
        ({"interest": LSTM(layers=0)}, "layers=0 must be at least 1, .* in LSTM"),
        ({"interest": StateSpace(modes=0)}, "modes=0 must be at least 1, .* in StateSpace"),
        ({"interest": StateSpace(layers=-2)}, "layers=-2 must be at least 1"),
        ({"interest": StateSpace(shortest=0)}, "shortest=0, longest=.* must be seconds, ascending"),
        ({"interest": HSTU(heads=0)}, "heads=0 must be at least 1, .* in HSTU"),
        ({"interest": HSTU(bias=SpatioTemporalBias(-1))}, "gap_buckets=-1 must be at least 0"),
        ({"interest": SelfAttention(window=0)}, "window=0 must be at least 1, .* in SelfAttention"),
        ({"interest": SelfAttention(layers=-1)}, "layers=-1 must be at least 1"),
        ({"interest": SelfAttention(expansion=0)}, "expansion=0 must be at least 1"),
        (encoder(TimeEmbed(-5)), "features=-5 must be at least 1, .* in TimeEmbed"),
        (encoder(TimeEmbed(week_harmonics=-1)), "week_harmonics=-1 must be at least 0"),
        (encoder(RhythmEmbed(day_harmonics=-1)), "day_harmonics=-1 must be at least 0"),
        (encoder(GapEmbed(clip=-1)), "clip=-1 must be at least 1"),
        (encoder(CellEmbed(buckets=0)), "buckets=0 must be at least 1"),
        (encoder(SpaceEmbed(scales=0)), "scales=0 must be at least 1"),
        (encoder(HomeEmbed(0)), "features=0 must be at least 1, .* in HomeEmbed"),
        (encoder(UserEmbed(-1)), "features=-1 must be at least 1, .* in UserEmbed"),
    ):
        with pytest.raises(ConfigError, match=says):
            setup(tmp_path, **fields)
    with pytest.raises(ConfigError, match="members=-1 must be at least 1"):
        setup(tmp_path, members=-1)


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
