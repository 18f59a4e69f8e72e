"""The direction of imports: every part uses only the parts below it, and heavy packages load late."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# part of stjax: (parts of stjax it may import, packages it may import beside the standard library)
ALLOWED = {
    "__init__": ("events", ""),
    "errors": ("", ""),
    "cache": ("errors", ""),
    "command": ("errors", ""),
    "memory": ("", ""),
    "ops": ("ops", "jax numpy"),
    "events": ("", "jax"),
    "nn": ("ops events nn", "jax numpy flax"),
    "metrics": ("events", "jax numpy"),
    "data": ("errors cache command events data", "numpy polars grain rich tyro"),
    "baselines": ("errors ops events data baselines", "jax numpy scipy"),
    "evaluation": ("errors ops events metrics data evaluation", "jax numpy rich"),
    "training": (
        "errors cache ops events metrics data baselines evaluation training",
        "jax numpy flax optax orbax tyro rich matplotlib tensorboardX",
    ),
    "serving": ("errors cache command events data ops baselines training serving", "jax numpy flax optax"),
    "tune": ("errors command memory data training tune", "jax optuna rich matplotlib"),
}
# The only file that names Grain; what it loads at import is tested below.
GRAIN = ROOT / "stjax" / "data" / "pipeline.py"


def part(path: Path) -> str:
    return path.relative_to(ROOT / "stjax").parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it points"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted((ROOT / "stjax").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    parts, packages = (set(words.split()) for words in ALLOWED[part(path)])
    names = imports(path)
    wrong = {name for name in names if name.startswith("stjax.") and name.split(".")[1] not in parts}
    assert not wrong, f"{part(path)} may import {sorted(parts)} of stjax"
    others = {name.split(".")[0] for name in names} - {"stjax"} - sys.stdlib_module_names
    assert others <= packages, f"{part(path)} may import {sorted(packages)}"
    assert "grain" not in others or path == GRAIN


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("stjax", {"flax", "polars", "grain", "orbax", "optax"}),
        ("stjax.nn", {"polars", "grain", "orbax", "tyro", "matplotlib", "tensorboardX"}),
        ("stjax.data.pipeline", {"polars", "grain", "orbax", "tyro", "flax", "matplotlib", "tensorboardX"}),
        ("stjax.training, stjax.data.sources", {"polars", "grain", "matplotlib", "tensorboardX"}),
        ("stjax.serving", {"grain", "matplotlib", "tensorboardX"}),
        ("jax, stjax.tune", {"optuna", "matplotlib", "flax"}),
    ],
)
def test_heavy_packages_load_only_where_they_are_used(module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "jax" in out.stdout.split()
    assert not unwanted & set(out.stdout.split())
