"""The direction of imports: every part uses only the parts below it, and heavy packages load late."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# part of stjax: the parts of stjax that it may import
ALLOWED = {
    "ops": {"ops"},
    "errors": set(),
    "events": set(),
    "cache": {"errors"},
    "nn": {"ops", "events", "nn"},
    "metrics": {"events"},
    "data": {"events", "errors", "cache", "data"},
    "baselines": {"events", "errors", "data", "baselines"},
    "evaluation": {"ops", "events", "errors", "metrics", "data", "evaluation"},
    "training": {
        "events",
        "errors",
        "cache",
        "metrics",
        "data",
        "baselines",
        "evaluation",
        "training",
    },
}
# part of stjax: packages that it must not import at all
FORBIDDEN = {
    "ops": {"flax", "optax", "numpy", "polars", "grain", "orbax"},
    "events": {"flax", "optax", "numpy", "polars", "grain", "orbax"},
    "nn": {"optax", "polars", "grain", "orbax", "tyro", "rich"},
    "data": {"flax", "optax", "orbax"},
}


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
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted((ROOT / "stjax").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    allowed = {"events"} if path == ROOT / "stjax" / "__init__.py" else ALLOWED[part(path)]
    names = imports(path)
    ours = {name.split(".")[1] for name in names if name.startswith("stjax.")}
    assert ours <= allowed, f"imports {sorted(ours - allowed)} of stjax"
    packages = {name.split(".")[0] for name in names}
    assert not packages & (FORBIDDEN.get(part(path), set()) | {"tests", "configs", "benchmarks"})


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("stjax", {"flax", "polars", "grain", "orbax", "optax"}),
        ("stjax.nn", {"polars", "grain", "orbax", "tyro", "matplotlib", "tensorboardX"}),
        ("stjax.data.dataset", {"grain", "orbax", "tyro", "flax", "matplotlib"}),
        ("stjax.training", {"matplotlib", "tensorboardX"}),
    ],
)
def test_heavy_packages_load_only_where_they_are_used(module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not unwanted & set(out.stdout.split())
