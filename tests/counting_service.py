"""`python -m tests.counting_service FOLDER`: the engine that counts, as a service that is to be ended."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from examples.service.app import make_app
from examples.service.bodies import Limits
from examples.service.city import City
from examples.service.server import serve
from stjax.events import FIRST
from tests.counting import ITEMS, TEXTS, counting


def city() -> City:
    """Where the items of the engine that counts are; one is nowhere."""
    places = np.random.default_rng(0).normal((40.7, -74.0), 0.05, (FIRST + ITEMS, 2))[FIRST:]
    places[3] = np.nan
    return City(TEXTS["item"].texts, places.astype(np.float32), np.arange(ITEMS) % 3 - 1, ("a", "b"))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    engine = counting(folder, snapshot_every=23)
    serve(make_app(engine, city(), limits=Limits(), state=folder), port=0, grace=10)
