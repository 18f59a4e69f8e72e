"""What goes wrong in a run: each failure has one clear message, and what was saved is never lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import train
from stjax.training.checkpoint import Checkpoints
from tests.test_experiment import TINY

Main = Callable[..., tuple[int, str]]


@pytest.fixture
def main(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Main:
    """`train.py` on the tiny config in the folder `run`: its exit code and what it said."""
    shared = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("STJAX_CACHE", str(shared / "cache"))

    def call(*options: str) -> tuple[int, str]:
        words = [str(TINY), "--source.folder", str(shared), "--workdir", str(tmp_path / "run")]
        code = train.main([*words, *options])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs."""
    shared = tmp_path_factory.getbasetemp()
    run = tmp_path_factory.mktemp("finished") / "run"
    words = ["--source.folder", str(shared), "--workdir", str(run), "--training.epochs", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STJAX_CACHE", str(shared / "cache"))
        assert train.main([str(TINY), *words]) == 0
    return run


TWO = ("--training.epochs", "2")


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Path:
    """A copy of the finished run, where `main` works."""
    return shutil.copytree(finished, tmp_path / "run")


def saved(run: Path) -> list[int]:
    return sorted(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdecimal())


def test_what_a_finished_run_leaves(run: Path, main: Main) -> None:
    result = json.loads((run / "result.json").read_text())
    assert result["best"]["step"] in saved(run)
    assert result["protocol"]["notes"]["test_targets"] == result["test"]["targets"] == 41
    assert result["query"] == {"known": [], "reads_target_time": False, "reads_target_place": False}
    assert set(result["test"]["metrics"]) == {"Acc@1", "HR@5", "NDCG@5", "MRR"}
    assert result["test"]["metrics"]["MRR"]["standard_error"] > 0
    assert len(result["baselines"]) >= 5
    assert result["parameters"] == 25 * 11 + 11 * 11 + 11
    assert {"data", "train", "validation", "checkpoint", "test", "baselines"} <= set(result["seconds"])
    assert result["versions"]["jax"] == json.loads((run / "versions.json").read_text())["jax"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if x["kind"] == "validation"] == [26]
    assert [x["step"] for x in lines if x["kind"] == "train"][:4] == [3, 5, 6, 9]
    best = next(x for x in lines if x["kind"] == "validation")
    assert best["MRR"] == result["best"]["validation"]
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").glob("*.tfevents.*"))
    assert (run / "config.py").read_text() == TINY.read_text()

    code, said = main(*TWO)
    assert code == 0
    assert "is finished" in said
    assert "Most popular" in said


def test_other_settings_in_the_same_folder(run: Path, main: Main) -> None:
    code, said = main(*TWO, "--model.layer.width", "13", "--training.seed", "7")
    assert code == 2
    assert "model.layer.width: 11 -> 13" in said
    assert "training.seed: 0 -> 7" in said
    assert "training.epochs" not in said
    assert "--workdir" in said


def test_a_checkpoint_of_another_model(run: Path, main: Main) -> None:
    config = json.loads((run / "config.json").read_text())
    config["model"]["layer"]["width"] = 13  # as if the folder had been tampered with
    (run / "config.json").write_text(json.dumps(config))
    code, said = main(*TWO, "--model.layer.width", "13", "--eval-only")
    assert code == 2
    assert "is of another model" in said
    assert "params/items/embedding: float32(25, 11) saved, float32(25, 13) in the model" in said
    assert "params/layer/Dense_0/kernel: float32(11, 11) saved, float32(13, 13)" in said
    assert "optimizer/" not in said


def test_a_damaged_checkpoint(run: Path, main: Main) -> None:
    (run / "result.json").unlink()
    for file in (run / "checkpoints" / str(saved(run)[-1]) / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    code, said = main(*TWO)
    assert code == 2
    assert f"cannot read the checkpoint {run / 'checkpoints' / str(saved(run)[-1])}" in said


def test_changed_data(run: Path, main: Main, tmp_path: Path) -> None:
    (run / "result.json").unlink()
    config = json.loads((run / "config.json").read_text())
    config["source"]["seed"] = 1
    (run / "config.json").write_text(json.dumps(config))
    code, said = main(*TWO, "--source.seed", "1")
    assert code == 2
    assert "the data have changed" in said


def test_evaluating_again_with_other_settings(run: Path, main: Main) -> None:
    code, said = main(*TWO, "--eval-only", "--evaluation.filter-seen", "--evaluation.ks", "1", "3")
    assert code == 0
    assert "seen items filtered" in said
    evaluation = json.loads((run / "evaluation.json").read_text())
    result = json.loads((run / "result.json").read_text())
    assert evaluation["filter_seen"] and not result["filter_seen"]
    assert set(evaluation["test"]["metrics"]) == {"Acc@1", "HR@3", "NDCG@3", "MRR"}
    ranks = [r["test"]["metrics"]["MRR"]["mean"] for r in (evaluation, result)]
    assert ranks[0] >= ranks[1]  # with fewer candidates no rank gets worse


def test_nothing_to_evaluate(main: Main, tmp_path: Path) -> None:
    code, said = main("--eval-only")
    assert code == 2
    assert "holds no run to evaluate" in said
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use(run: Path, main: Main) -> None:
    with open(run / ".lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write("4711")
        lock.flush()
        code, said = main(*TWO)
        assert code == 2
        assert "in use by process 4711" in said
    code, said = main(*TWO)
    assert code == 0


def test_a_folder_that_cannot_be(main: Main, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    code, said = main()
    assert code == 2
    assert f"cannot use the run folder {tmp_path / 'run'}" in said


def test_a_loss_that_is_not_finite(main: Main, tmp_path: Path) -> None:
    wild = ("--optimizer.learning-rate", "1e30", "--optimizer.warmup-steps", "0")
    code, said = main(*wild)
    assert code == 2
    assert "error: at step 2 the loss is" in said
    assert "no checkpoint was saved yet" in said
    assert not (tmp_path / "run" / "checkpoints" / "5").exists()

    code, again = main(*wild)  # the same command meets the same end, in the same place
    assert code == 2
    assert "error: at step 2 the loss is" in again


def test_a_full_disk_while_saving(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, run = os.rename, tmp_path / "run"

    def full(source: Any, target: Any, **rest: Any) -> None:
        if "/15.orbax-checkpoint-tmp" in str(source):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        rename(source, target, **rest)

    monkeypatch.setattr(os, "rename", full)
    code, said = main(*TWO)
    assert code == 2
    error = next(line for line in said.splitlines() if line.startswith("error:"))
    assert f"cannot write a checkpoint to {run / 'checkpoints'}: no space left" in error
    assert "the last good checkpoint is step 10" in error
    assert saved(run) == [10]
    assert not (run / "result.json").exists()

    monkeypatch.setattr(os, "rename", rename)
    code, said = main(*TWO)
    assert code == 0
    assert "going on from step 10 of 26" in said


def test_a_full_disk_while_logging(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("stjax.training.logging.TensorBoard.write", full)
    code, said = main(*TWO)
    assert code == 2
    assert f"no space left for the run folder {tmp_path / 'run'}" in said


def test_a_query_field_that_the_data_lack(main: Main, tmp_path: Path) -> None:
    code, said = main("--model.known", "time", "weather")
    assert code == 2
    assert "asks to know ['weather'] of the request; these data have ['time']" in said
    code, said = main(
        "--model.known", "place"
    )  # nor has the log any; and nothing was saved that is in its way
    assert code == 2
    assert "asks to know ['place'] of the request; these data have ['time']" in said
    (tmp_path / "run" / "checkpoints" / "5").mkdir(parents=True)
    code, said = main("--model.known", "time")
    assert code == 2
    assert "model.known: ['place'] -> ['time']" in said


@pytest.mark.parametrize(("users", "says"), [("0", "no training events"), ("1", "no valid targets")])
def test_too_little_data_is_said_before_training(main: Main, tmp_path: Path, users: str, says: str) -> None:
    code, said = main("--source.users", users)
    assert code == 2
    assert f"leave-one-out {'leaves' if users == '0' else 'gives'} {says}" in said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_patience(main: Main, tmp_path: Path) -> None:
    """With a learning rate of next to nothing the ranking never changes, so nothing improves."""
    still = ("--optimizer.learning-rate", "1e-30", "--training.eval-every", "1")
    code, _ = main(*still, "--training.patience", "2")
    assert code == 0
    run = tmp_path / "run"
    result = json.loads((run / "result.json").read_text())
    assert result["stopped"] == "no improvement in 2 validations"
    assert (result["steps"], result["best"]["step"]) == (39, 13)
    assert saved(run) == [13, 39]

    with Checkpoints(run / "checkpoints") as checkpoints:
        record = checkpoints.record()
    assert record is not None
    assert (record["best_step"], record["waited"]) == (13, 2)
