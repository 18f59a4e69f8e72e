"""What the README shows runs, and gives what it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from stjax.training import Experiment, load_config
from stjax.tune.change import check

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def run_blocks(*words: str) -> dict:
    """The names that the blocks with these words define, one after the other."""
    names: dict = {}
    for word in words:
        (block,) = (block for block in BLOCKS if word in block)
        exec(compile(block, "README.md", "exec"), names)
    return names


def test_the_config_for_ones_own_log_builds_an_experiment() -> None:
    assert isinstance(run_blocks("StoreFolder")["experiment"], Experiment)


def test_modules_work_in_other_code_and_so_do_parts_of_ones_own() -> None:
    """The second block asserts itself that its parts' forms agree."""
    names = run_blocks("schema = Schema(", "class Fading(Interest)")
    assert names["features"].shape == (4, 16, 32)
    whole, stepped = np.asarray(names["read_at_once"]), np.asarray(names["stepped"])
    assert whole.shape == (4, 1_000)
    np.testing.assert_allclose(whole[:, 2:], stepped[:, 2:], atol=1e-4)


def test_the_space_to_search_fits_the_config_it_is_shown_for() -> None:
    check(load_config(ROOT / "configs" / "nyc.py"), run_blocks("stjax.tune")["space"], "README.md")


def test_the_test_command_is_what_continuous_integration_runs() -> None:
    commands = re.findall(r"^python -m venv .*pytest$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("path", re.findall(r"`(stjax/[\w/.]+)`", (ROOT / "README.md").read_text()))
def test_paths_that_are_named_exist(path: str) -> None:
    assert (ROOT / path).exists()
