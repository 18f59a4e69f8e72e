"""How far a long fit is: lines of a logger, which nobody sees unless a program asks for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

LOGGER = logging.getLogger("stjax.baselines")  # info: silent by default
EVERY = 2.0  # seconds between lines


def counted(name: str, total: int, unit: str) -> Iterator[int]:
    """0..total-1, with a line every few seconds on how many are done."""
    began = said = time.monotonic()
    for k in range(total):
        yield k
        if (now := time.monotonic()) - said >= EVERY:
            LOGGER.info("%s: %d of %d %s, %.0f s", name, k + 1, total, unit, now - began)
            said = now
