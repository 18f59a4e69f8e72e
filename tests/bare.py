"""A Python environment with a few of the packages that are installed here, and nothing else."""

from __future__ import annotations

import importlib.metadata
import venv
from collections.abc import Iterable
from pathlib import Path


def environment(folder: Path, packages: Iterable[str]) -> Path:
    """The Python of a new virtual environment, whose packages are links to those of this one."""
    venv.create(folder, symlinks=True, with_pip=False)
    (site,) = folder.glob("lib/*/site-packages")
    for package in packages:
        installed = importlib.metadata.distribution(package)
        for name in {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
            (site / name).symlink_to(str(installed.locate_file(name)))
    return folder / "bin" / "python"
