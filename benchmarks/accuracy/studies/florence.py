"""TripBuilder Florence: one ingredient removed, added or replaced in configs/florence.py."""

from __future__ import annotations

from benchmarks.accuracy.studies._vary import config

base = config("florence")

rows = {
    "configs/florence.py": base,
}
