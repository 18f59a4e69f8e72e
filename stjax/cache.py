"""Where stjax keeps what can be made again: downloaded data, prepared stores, compiled programs."""

from __future__ import annotations

import os
from pathlib import Path

from stjax.errors import UserError


def cache_folder(*parts: str) -> Path:
    """A folder, made if absent, in $STJAX_CACHE, $XDG_CACHE_HOME/stjax or ~/.cache/stjax."""
    if root := os.environ.get("STJAX_CACHE"):
        base = Path(root).expanduser()
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "stjax"
    folder = base.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the cache folder {folder}: {error.strerror}; set STJAX_CACHE to another"
        ) from error
    return folder
