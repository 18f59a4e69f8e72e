"""Logs at the edge of what can be learnt: a step and an evaluation stay finite."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stjax.data.protocols import VALID, LeaveOneOut
from stjax.data.store import EventStore
from stjax.evaluation import paired
from stjax.nn import ConcatFusion, Pointer, Recommender, Retrieval, SpaceEmbed, TimeEmbed
from stjax.training.report import measure
from stjax.training.setup import Setup
from tests.configs.tiny import experiment
from tests.stores import make_store

N = 11
YEARS_70 = 70 * 365 * 86_400 - 2**30
# users, items, times of the log
LOGS = {
    "one user": ([1] * N, list("abcabcabcab"), range(0, N * 3_600, 3_600)),
    "one item": ([1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3], ["a"] * N, range(N)),
    "all times equal": ([1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2], list("abcdabcdabc"), [5] * N),
    "far apart in time": ([1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2], list("abcdabcdabc"), [0] * 10 + [YEARS_70]),
    "a user with one event": ([1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3], list("abcdabcdabc"), range(N)),
}


@dataclass(frozen=True)
class Log:
    """One of LOGS, with places of which one is unknown and one at a pole."""

    folder: Path
    name: str

    def open(self) -> EventStore:
        users, items, times = LOGS[self.name]
        places = [(40.0 + i, -74.0) for i in range(N)]
        places[3], places[5] = (float("nan"), float("nan")), (90.0, 0.0)
        return make_store(self.folder / "store", users, items, list(times), places=places)


@pytest.mark.parametrize("name", LOGS)
def test_odd_logs_train_and_are_evaluated(tmp_path: Path, name: str) -> None:
    model = Recommender(
        encoders={"time": TimeEmbed(5), "space": SpaceEmbed(5)},
        fusion=ConcatFusion(8),
        head=Retrieval(known=("time", "place"), pointer=Pointer(5, window=7)),
    )
    setup = Setup.of(
        dataclasses.replace(experiment, source=Log(tmp_path, name), protocol=LeaveOneOut(), model=model)
    )
    state, metrics = setup.step(setup.key, setup.initial(), setup.batches[0], setup.catalogue)
    assert np.isfinite(float(metrics["loss"])) and bool(metrics["finite"])
    report = measure(setup.scorer(state), setup.dataset, VALID, experiment.evaluation)
    assert (report.rank >= 1).all()
    same = paired(report, report, "MRR")
    assert same.mean == 0 and (same.standard_error is None) == (len(np.unique(report.user)) == 1)
