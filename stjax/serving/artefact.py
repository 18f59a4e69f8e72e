"""The folder of an export: there whole or not at all."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stjax.errors import UserError
from stjax.serving.durable import make_folder, sync_folder

FORMAT = "stjax export 2"


class ExportError(UserError):
    """A model or a folder that an export cannot be made of; the message names the remedy."""


def check_packages() -> None:
    """Raises ExportError where a package is missing that reads and writes programs."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise ExportError("exports need the package flatbuffers: pip install 'stjax[export]'")


def check_folder(out: Path, overwrite: bool) -> None:
    """Raises ExportError where a new export may not take the place of what is at `out`."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not _is_export(out):
        raise ExportError(f"{out} exists and is no export: choose another folder, or remove it yourself")
    if not overwrite:
        raise ExportError(f"{out} holds an export: choose another folder, or replace it with --overwrite")


@contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, which becomes `out`, durable, at the end, and is removed after an error.

    Raises ExportError where `out` may not be replaced or the disk does not take it.
    """
    check_folder(out, overwrite)
    out = out.absolute()
    partial, old = (out.with_name(f".{out.name}.{os.getpid()}.{what}") for what in ("partial", "old"))
    try:
        make_folder(out.parent)
        partial.mkdir()
        try:
            yield partial
            for path in partial.iterdir():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            sync_folder(partial)
            if out.exists():
                out.rename(old)
            partial.rename(out)
            sync_folder(out.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if old.exists() and not out.exists():
                old.rename(out)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise ExportError(
            f"cannot write the export to {out}: {error.strerror}; choose another folder or free space"
        ) from error


def _is_export(folder: Path) -> bool:
    try:
        return json.loads((folder / "schema.json").read_text())["format"].startswith("stjax export")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
