"""Meshes of 8 virtual devices give what one device gives, and no device holds or receives a whole table."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.quick import environment

ROOT = Path(__file__).parents[1]
USERS_TABLE = [216, 16]  # of 211 users, PADDING and UNSEEN, up to a multiple of 8
MORE = [("gru", "8x1"), ("gru", "2x4"), ("gru", "1x8"), ("hstu", "2x4"), ("rows", "2x4")]
BY_ALL = [("gru", "4x2:all"), ("hstu", "8x1:all")]
TABLES = ("items/table", "users/embedding", "head/bias/bias")


def follow(model: str, *meshes: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.meshes", model, *meshes]
    done = subprocess.run(command, cwd=ROOT, env=environment(8), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("model", "mesh"),
    [
        ("gru", "4x2"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE + BY_ALL),
    ],
)
def test_a_mesh_gives_what_one_device_gives(model: str, mesh: str) -> None:
    (found,) = follow(model, mesh)
    data, parts = found["mesh"]
    holders = data * parts if mesh.endswith(":all") else parts
    assert found["loss"] < 1e-5 and max(found["gradient"]) < 1e-5, found
    assert found["largest"] > 1e-2 and found["moved"] > 1e-2  # there was something to differ in
    assert found["ranks"] > 0.99  # a near tie may fall the other way

    # Every big array is shared: tables and their moments by `model`, dense weights and theirs by `data`.
    shares, sizes = found["shares"], found["sizes"]
    assert sum(name.startswith("params") for name in shares) > 20
    for name, share in shares.items():
        if name.endswith(TABLES):
            assert share == 1 / holders, name
        elif sizes[name] >= 256:
            assert share == 1 / data, name
    # Itself, its gradient, and two moments or one sum of each row.
    assert sum(name.endswith("users/embedding") for name in shares) == (3 if model == "rows" else 4)

    # No gather makes a table whole, nor its gradient; rows that are looked up are summed instead.
    table = math.prod(USERS_TABLE)
    assert all(math.prod(shape) < table for shape in found["gathered"]), found["gathered"]
    assert found["reduced"]
    assert (USERS_TABLE in found["reduced"]) == (holders == 1)  # a gradient of a table that all have whole
    assert bool(found["gathered"]) == (data > 1)  # of the dense weights that `data` shares
