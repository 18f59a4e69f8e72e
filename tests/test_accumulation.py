"""What a step keeps alive: of a batch that is read in parts one part, and a single state."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from stjax.errors import ConfigError
from stjax.nn import GRU
from stjax.training import Sharding, Training
from stjax.training.setup import Setup
from tests import meshes
from tests.configs.tiny import TinyLog


def setup(folder: Path, parts: int, rows: int, donate: bool = True) -> Setup:
    made = meshes.experiment(folder, "gru", Sharding())
    model = made.model.clone(dropout=0.0, interest=GRU())
    batching = dataclasses.replace(made.batching, batch_size=rows)
    training = Training(epochs=4, accumulate=parts, donate=donate)
    return Setup.of(dataclasses.replace(made, model=model, batching=batching, training=training))


def temporary(made: Setup) -> int:
    step: Any = made.step
    lowered = step.lower(made.key, made.initial(), made.batches[0], made.catalogue)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_parts_give_the_gradient_of_the_whole(tmp_path: Path) -> None:
    TinyLog(tmp_path, users=meshes.USERS).open()
    whole, parts = setup(tmp_path, 1, 37), setup(tmp_path, 3, 37)
    assert whole.batches[0].weight.shape == (37, 13) and parts.batches[0].weight.shape == (39, 13)
    a, b = whole.initial(), parts.initial()
    for k in range(7):
        assert whole.batches[k].weight.sum() == parts.batches[k].weight.sum()
        a, one = whole.step(whole.key, a, whole.batches[k], whole.catalogue)
        b, three = parts.step(parts.key, b, parts.batches[k], parts.catalogue)
        for name in one:
            np.testing.assert_allclose(one[name], three[name], rtol=2e-5, atol=1e-7, err_msg=name)
    assert temporary(parts) < 0.6 * temporary(whole)


@pytest.mark.parametrize("donate", [True, False])
def test_a_state_that_is_donated_leaves_no_second_copy(donate: bool, tmp_path: Path) -> None:
    """The compiled step writes each parameter and moment where the old one lay, or beside it."""
    TinyLog(tmp_path, users=meshes.USERS).open()
    made = setup(tmp_path, 1, 37, donate=donate)
    state, step = made.initial(), made.step
    compiled = step.lower(made.key, state, made.batches[0], made.catalogue).compile()  # pyright: ignore
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes == (size if donate else 0)
    assert memory.output_size_in_bytes >= size  # without, so much comes on top of the arguments
    jax.block_until_ready(compiled(made.key, state, made.batches[0], made.catalogue))
    assert all(leaf.is_deleted() == donate for leaf in jax.tree.leaves(state))


def test_there_is_at_least_one_part() -> None:
    with pytest.raises(ConfigError, match=r"training.accumulate 0"):
        Training(accumulate=0)
