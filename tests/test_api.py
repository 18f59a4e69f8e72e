"""What `import stjax` offers: a small contract, and parts that load when they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import stjax


def test_parts_load_when_they_are_first_used() -> None:
    code = (
        "import sys, stjax; assert 'flax' not in sys.modules; stjax.nn.GRU(layers=2); "
        "assert 'flax' in sys.modules; assert stjax.training.Experiment; assert 'grain' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_is_there_and_no_other() -> None:
    for name in dir(stjax):
        assert getattr(stjax, name) is not None
    for name in stjax.nn.__all__:
        assert getattr(stjax.nn, name).__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no attribute 'serving_'"):
        stjax.serving_  # noqa: B018 (to read it is the test)


def test_a_folder_of_the_same_name_beside_a_script_hides_nothing(tmp_path: Path) -> None:
    """Such as the clone itself, beside scripts that use it."""
    (tmp_path / "stjax").mkdir()
    code = "from importlib.util import find_spec; print(find_spec('stjax').origin)"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout.strip() == stjax.__file__, found.stderr
