"""Training again through the parts that were held out: what trains then, what is measured, what is left."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import train
from stjax.baselines import ItemKNN
from stjax.data.dataset import Dataset
from stjax.data.protocols import (
    HISTORY,
    TEST,
    TRAIN,
    VALID,
    GlobalTemporal,
    LeaveOneOut,
    NextInTrip,
    ProtocolError,
    RandomSplit,
    TrajectoryLast,
)
from stjax.errors import ConfigError
from stjax.serving.load import load_run
from stjax.training import Training, load_config
from stjax.training.config import Command
from stjax.training.run import run
from stjax.tune import Log
from stjax.tune.change import check
from tests.stores import make_store
from tests.test_experiment import TINY
from tests.test_protocols import open_log, random_log

PROTOCOLS = [LeaveOneOut(), GlobalTemporal(0.3, 0.2), RandomSplit(0.3, 0.2), TrajectoryLast()]


@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name.split("(")[0])
def test_the_test_part_stays_what_it_is(tmp_path: Path, protocol: Any, seed: int) -> None:
    store, _, order = open_log(tmp_path, log := random_log(seed))
    split = protocol(store)
    refit = split.through(VALID, store)
    np.testing.assert_array_equal(refit.targets(TEST), split.targets(TEST))
    trains, trained = refit.label == TRAIN, split.label == TRAIN
    item = np.asarray(store.columns["item"])
    known = np.isin(item, item[trained])
    assert (trains >= trained).all() and (trains == known)[split.label == VALID].all()
    assert not (refit.label == VALID).any() and refit.parts == {TEST: "test"}
    times = np.asarray(log["times"])[order]
    if isinstance(protocol, GlobalTemporal) and (split.label == TEST).any():
        tested = times[split.label == TEST].min()
        np.testing.assert_array_equal(trains, (times < tested) & known)  # first events of users too
    if isinstance(protocol, TrajectoryLast):  # all of the part's rows, not its targets alone
        words = np.asarray(log["split"], object)[order]
        np.testing.assert_array_equal(trains, known & ((words == "train") | (words == "val")))
    assert refit.notes["train_rows"] == trains.sum() and refit.notes["valid_targets"] == 0
    assert (split.through(TEST, store).label == TRAIN).all() and split.through(TEST, store).parts == {}


def test_trips_that_end_within_the_test_part_do_not_train_past_its_beginning(tmp_path: Path) -> None:
    trips = ["a"] * 3 + ["b"] * 3 + ["c"] * 3 + [None, None]
    times = [0, 1, 2, 10, 11, 21, 20, 22, 23, 12, 24]
    users = ["u"] * 3 + ["v"] * 3 + ["w"] * 5
    items = [0, 1, 2, 0, 1, 2, *range(6, 11)]
    store = make_store(tmp_path / "s", users, items, times, meta={"trip": trips})
    split = NextInTrip(valid=1 / 3, test=1 / 3)(store)
    H, T, V, E = HISTORY, TRAIN, VALID, TEST
    time = np.asarray(store.columns["time"])
    by_time = dict(zip(time.tolist(), split.label.tolist(), strict=True))
    expected = {0: T, 1: T, 2: T, 10: H, 11: V, 21: H, 20: H, 22: E, 23: E, 12: H, 24: H}
    assert by_time == expected
    refit = dict(zip(time.tolist(), split.through(VALID, store).label.tolist(), strict=True))
    assert refit == expected | {10: T, 11: T}


def test_candidates_stay_those_of_training_and_the_part_has_no_targets(tmp_path: Path) -> None:
    users, items = ["u"] * 5 + ["v"] * 5, ["a", "b", "c", "d", "e", "a", "b", "c", "a", "b"]
    store = make_store(tmp_path / "s", users, items, [0, 1, 2, 7, 9, 3, 4, 5, 8, 10])
    split = LeaveOneOut()(store)
    before, after = Dataset(store, split), Dataset(store, split.through(VALID, store))
    assert after.split.label.tolist() == [TRAIN] * 3 + [HISTORY, TEST] + [TRAIN] * 4 + [TEST]
    np.testing.assert_array_equal(after.remap["item"], before.remap["item"])
    np.testing.assert_array_equal(after.targets(TEST), before.targets(TEST))
    assert after.fingerprint != before.fingerprint
    with pytest.raises(ProtocolError, match="the valid part trains"):
        after.targets(VALID)
    whole = Dataset(store, split.through(TEST, store))
    assert whole.schema.items == before.schema.items + 2 and len(whole.train_rows) == 10


@pytest.fixture
def call(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """`train.py` on the tiny config in the folder `run`."""
    shared = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("STJAX_CACHE", str(shared / "cache"))
    words = [str(TINY), "--source.folder", str(shared), "--workdir", str(tmp_path / "run")]
    return lambda *options: train.main([*words, "--training.epochs", "2", *options])


def test_a_run_through_validation_is_measured_on_test_alone(call: Any, tmp_path: Path) -> None:
    assert call("--training.refit", "validation") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    notes = result["protocol"]["notes"]
    assert notes["valid_targets"] == 0 and notes["test_targets"] == result["test"]["targets"] == 41
    assert result["protocol"]["name"].endswith("trained through valid")
    assert result["data"]["train_events"] == notes["train_rows"] > 41
    assert result["best"]["step"] == result["steps"] and result["best"]["validation"] is None
    assert result["stopped"] == "all epochs done"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"train"} and lines[-1]["step"] == result["steps"]
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_through_test_is_for_deployment(
    call: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--training.refit", "test") == 0
    assert "nothing is measured" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["data"]["train_events"] == result["data"]["events"]
    assert "test" not in result and "baselines" not in result
    served = load_run(tmp_path / "run")
    assert served.version is None and served.name.endswith(f"-{result['steps']}")
    assert served.dataset is not None and len(served.dataset.train_rows) == result["data"]["events"]
    assert call("--training.refit", "test", "--eval-only") == 2
    assert "leave out --eval-only" in capsys.readouterr().err


def test_a_baseline_is_fitted_again_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STJAX_CACHE", str(tmp_path / "cache"))
    tiny = load_config(TINY)
    training = Training(refit="validation")
    source = dataclasses.replace(tiny.source, folder=tmp_path)
    knn = dataclasses.replace(tiny, source=source, model=ItemKNN(3), training=training)
    result = run(Command(knn, tmp_path / "run", config=TINY), Console(quiet=True))
    assert result["test"]["targets"] == 41 and "validation" not in result
    assert result["data"]["train_events"] == result["protocol"]["notes"]["train_rows"]


def test_there_is_nothing_left_to_choose_by() -> None:
    with pytest.raises(ConfigError, match=r"training.patience 3 stops by validation.*best epoch"):
        Training(refit="validation", patience=3)
    with pytest.raises(ConfigError, match=r"training\.refit 'all' must be one of none, validation, test"):
        Training(refit="all")  # pyright: ignore[reportArgumentType]
    tiny = load_config(TINY)
    refit = dataclasses.replace(tiny, training=Training(refit="test"))
    with pytest.raises(ConfigError, match=r"training.refit 'test'.*a search chooses"):
        check(refit, {"optimizer.learning_rate": Log(1e-3, 1e-2)})
