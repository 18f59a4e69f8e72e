"""Recorded results: found again for the config that made them, and for no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy import recorded


def test_results_are_added_replaced_and_found_by_their_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "FOLDER", tmp_path / "results")
    assert recorded.load("nyc", "valid") == {}
    old = {"row": "- time", "seed": 1, "metrics": {"MRR": 0.1}, "config": {"b": 2, "a": 1}}
    other = {"row": "GRU", "seed": 0, "metrics": {"MRR": 0.3}, "config": {"a": 7}}
    recorded.save("nyc", "valid", [old, other])
    recorded.save("nyc", "valid", [old | {"metrics": {"MRR": 0.2}}])
    found = recorded.load("nyc", "valid")
    assert {key: r["metrics"]["MRR"] for key, r in found.items()} == {("- time", 1): 0.2, ("GRU", 0): 0.3}
    assert recorded.holds(found, ("- time", 1), {"a": 1, "b": 2})  # whatever the order of the settings
    assert not recorded.holds(found, ("- time", 1), {"a": 1, "b": 3})
    assert not recorded.holds(found, ("- time", 2), {"a": 1, "b": 2})
    recorded.save("nyc", "valid", found.values())  # what was read can be written again
    assert recorded.load("nyc", "valid") == found
    assert not list((tmp_path / "results").glob("*.partial"))
