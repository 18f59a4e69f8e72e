"""Recorded results: found again for the config that made them, and for no other."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest

from benchmarks.accuracy import recorded
from benchmarks.accuracy.study import seeded
from stjax.training import load_config

ROOT = Path(__file__).parents[1]


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


def test_settings_are_what_is_not_a_default() -> None:
    experiment = load_config(ROOT / "configs" / "nyc.py")
    kept = recorded.settings(experiment)
    assert "seed" not in str(kept) and kept["batching"]["length"] == 512
    seed = dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, seed=3))
    assert recorded.settings(seed) != kept
    other = dataclasses.replace(experiment, name="other", baselines=())
    assert recorded.settings(other) == kept  # neither decides what comes out


@pytest.mark.parametrize("file", sorted(recorded.FOLDER.glob("*.jsonl")), ids=lambda f: f.stem)
def test_recorded_rows_belong_to_rows_of_their_study(file: Path) -> None:
    """Else `--recorded only` would leave them out of a published table."""
    study, part = file.stem.rsplit("-", 1)
    rows = importlib.import_module(f"benchmarks.accuracy.studies.{study}").rows
    results = recorded.load(study, part)
    assert results
    for name, seed in results:
        settings = recorded.settings(seeded(rows[name], seed))
        assert recorded.holds(results, (name, seed), settings), (name, seed)
