"""Other libraries' runs beside ours: which are shown, and how they are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.accuracy import beside, peers, recorded
from stjax.evaluation import InstanceReport, Report
from stjax.metrics import auc

ROW, USER = np.asarray([3, 5, 8]), np.asarray([0, 1, 1])


def line(seed: int, rate: float, valid: float, test: float | None = None) -> dict[str, Any]:
    made = {"model": "GRU4Rec", "seed": seed, "settings": {"rate": rate}, "select": "MRR"}
    made |= {"valid": {"MRR": valid, "HR@10": 0.9}, "versions": {"recbole": "1.2.1"}}
    return made if test is None else made | {"test": {"MRR": test}}


def report(rank: list[int]) -> Report:
    return Report("ours", (), "last", "test", 17, ROW, USER, False, (1, 10), np.asarray(rank, np.int32), {})


def test_the_settings_shown_are_the_best_on_validation_whatever_test_says() -> None:
    lines = [line(1, 0.1, 0.3, 0.2), line(0, 0.1, 0.5, 0.1), line(0, 0.2, 0.3, 0.9), line(2, 0.1, 0.4)]
    (peer,) = peers.choose(lines)
    assert peer.settings == {"rate": 0.1} and peer.tried == 2
    assert peer.seeds == (0, 1) and peer.metrics == {"MRR": (0.1, 0.2)} and peer.valid == (0.5, 0.3)
    assert peer.label == "RecBole 1.2.1 GRU4Rec"


def test_better_settings_without_a_test_figure_are_not_passed_over() -> None:
    with pytest.raises(SystemExit, match=r"0\.2\} is best on validation: run it with --test"):
        peers.choose([line(0, 0.1, 0.3, 0.2), line(0, 0.2, 0.4)])
    assert peers.choose([line(0, 0.1, 0.3)]) == []  # nothing of this model has been looked at


def test_ranks_are_compared_on_the_same_targets() -> None:
    kept = {"row": ROW.tolist(), "rank": [1, 2, 4], "seed": 7}
    ours, theirs = report([1, 1, 2]), beside.like(report([1, 1, 2]), kept, "theirs")
    found = {d.metric: d.mean for d in beside.compared(ours, theirs, "MRR")}
    assert found["MRR"] == pytest.approx((1 + 1 + 0.5) / 3 - (1 + 0.5 + 0.25) / 3)
    assert found["Acc@1"] == pytest.approx(1 / 3)
    (first, *_) = beside.rows("theirs", [7], [beside.compared(ours, theirs, "MRR")])
    assert first["to"] == "theirs" and first["metric"] == "MRR" and first["mean"] == [found["MRR"]]
    with pytest.raises(SystemExit, match="theirs, seed 7: its targets are not ours"):
        beside.like(ours, kept | {"row": [3, 5, 9]}, "theirs")


def test_logits_are_compared_on_the_same_instances() -> None:
    logit = np.asarray([[2.0, -1.0, 0.0], [1.0, 0.5, -2.0], [0.0, 1.0, -1.0]])
    ours = InstanceReport("ours", ("city",), "random", "test", 17, ROW, USER, logit)
    kept = {"row": ROW.tolist(), "logit": (-logit).tolist(), "seed": 0}
    theirs = beside.like(ours, kept, "FM")
    assert isinstance(theirs, InstanceReport) and theirs.label == "FM"
    found = {d.metric: d.mean for d in beside.compared(ours, theirs, "AUC")}
    label = np.asarray([1, 0, 0] * 3)
    assert found["AUC"] == pytest.approx(auc(logit.ravel(), label) - auc(-logit.ravel(), label))
    assert found["logloss"] < 0


def test_every_recorded_difference_is_from_a_peer_of_its_row() -> None:
    files = sorted((recorded.FOLDER / "peers").glob("*-differences.jsonl"))
    for name in (file.stem.removesuffix("-differences") for file in files):
        seeds = {peer.label: set(peer.seeds) for peer in peers.load(name)}
        for one in peers.differences(name):
            assert set(one["seeds"]) <= seeds[one["to"]]
            assert len(one["seeds"]) == len(one["mean"]) == len(one["standard_error"])
