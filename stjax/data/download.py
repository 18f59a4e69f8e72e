"""Public data that is published inside a Python package: fetched with pip, verified, kept in the cache."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from stjax.cache import cache_folder
from stjax.errors import UserError

_log = logging.getLogger(__name__)
_SECONDS = 180  # for all of pip's work; a slower network is treated as none


class SourceError(UserError):
    """Data that cannot be had; the message names the folder or package, and the remedy."""


def fetch_wheel(requirement: str, wheel: str, sha256: str, otherwise: str) -> Path:
    """The path of a package's wheel file, downloaded on the first call by pip, without dependencies.

    requirement: as for pip, with an exact version. wheel: the file's name. otherwise: what to do
    without it, for the error message.
    Raises SourceError where pip or the network fails or the file is not the expected one.
    """
    folder = cache_folder("downloads")
    kept = folder / wheel
    if kept.is_file() and _sha256(kept) == sha256:
        return kept
    _log.info("downloading %s into %s", requirement, folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as scratch:
        _pip_download(requirement, scratch, otherwise)
        files = sorted(path.name for path in Path(scratch).iterdir())
        if wheel not in files:
            raise SourceError(f"pip downloaded {files} instead of {wheel}; {otherwise}")
        if (found := _sha256(Path(scratch, wheel))) != sha256:
            raise SourceError(
                f"{wheel} has SHA-256 {found}, expected {sha256}: the file was changed on its way, "
                f"so it is not used; {otherwise}"
            )
        os.replace(Path(scratch, wheel), kept)
    return kept


def _pip_download(requirement: str, folder: str, otherwise: str) -> None:
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--timeout", "15", "--retries", "2"]
    try:
        done = subprocess.run(
            [*command, "--dest", folder, requirement],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise SourceError(
            f"{requirement} was not downloaded within {_SECONDS} s: is there a network? {otherwise}"
        ) from error
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise SourceError(
            f"{sys.executable} has no pip to download {requirement} with: run "
            f"`{sys.executable} -m ensurepip`; {otherwise}"
        )
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    reason = lines[-1] if lines else done.stderr.strip()[-300:]
    raise SourceError(f"pip could not download {requirement} ({reason}): is there a network? {otherwise}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
