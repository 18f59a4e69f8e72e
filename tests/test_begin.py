"""The start of training: what is compiled before the first step is what the first step runs."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from stjax.training import Sharding
from stjax.training.checkpoint import Checkpoints
from stjax.training.compilations import compilations
from stjax.training.setup import Setup
from tests import meshes
from tests.configs.tiny import TinyLog


def test_the_first_step_compiles_nothing_again(tmp_path: Path) -> None:
    TinyLog(tmp_path, users=meshes.USERS).open()
    made = Setup.of(meshes.experiment(tmp_path, "gru", Sharding()))
    state = made.begin()()
    expected = made.initial()
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    before = compilations()
    after, _ = made.step(made.key, state, made.placed(made.batches[0]), made.catalogue)
    assert compilations() == before
    assert int(after.step) == 1


def test_what_cannot_be_compiled_is_said_where_the_state_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TinyLog(tmp_path, users=meshes.USERS).open()
    made = Setup.of(meshes.experiment(tmp_path, "gru", Sharding()))

    def fails(*_args: object, **_options: object) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fails)
    with pytest.raises(MemoryError, match="too large"):
        made.begin()()


def test_a_folder_without_checkpoints_is_not_opened_before_a_save(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "none") as checkpoints:
        assert checkpoints.latest is None and checkpoints.record() is None
        checkpoints.wait()
    assert not (tmp_path / "none").exists()
