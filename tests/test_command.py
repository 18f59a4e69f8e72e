"""How commands end. Output whose reader has gone, as with `| head`, brings no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("command", [("train.py", "--help"), ("-m", "stjax.data", "prepare", "--help")])
def test_a_reader_that_has_gone(command: tuple[str, ...]) -> None:
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()
