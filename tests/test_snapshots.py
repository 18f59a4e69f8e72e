"""Snapshots: whole or absent, whatever happens to the process that saves them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from stjax.serving.snapshots import Snapshot, SnapshotError, Snapshots

ABOUT = {"model": "Zürich", "settings": {"decay": 0.1, "sizes": [3, 5, None]}, "exact": 1 / 3}
ARRAYS = {
    "float32": np.arange(35, dtype=np.float32).reshape(5, 7) / 3,
    "float16": np.ones((0, 3), np.float16),
    "strided": np.arange(77).reshape(7, 11)[::2, ::-3],
    "transposed": np.arange(6, dtype=np.uint16).reshape(2, 3).T,
    "bool": np.array([True, False, True]),
    "scalar": np.array(-7, np.int8),
    "other order": np.arange(3, dtype=">i4"),
    "layer/kernel 50%": np.full((2, 2), np.nan),
    "..": np.arange(2),
    "large": np.random.default_rng(0).integers(0, 255, (3 << 20) + 5).astype(np.uint8),
}


def save(snapshots: Snapshots, *sequences: int) -> list[Path]:
    return [snapshots.save(k, {"a": np.full(7, k), "b": np.zeros(3)}, {"of": k}) for k in sequences]


def latest(snapshots: Snapshots) -> Snapshot:
    found = snapshots.latest()
    assert found is not None
    assert found.about == {"of": found.sequence}
    assert (found.arrays["a"] == np.full(7, found.sequence)).all()
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_round_trip(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "some" / "folder")
    assert (snapshots.latest(), snapshots.oldest, snapshots.damaged) == (None, None, [])
    path = snapshots.save(41, ARRAYS, ABOUT)
    assert path == tmp_path / "some" / "folder" / "snapshot-41"
    for reader in (snapshots, Snapshots(snapshots.folder)):
        found = reader.latest()
        assert found is not None
        assert (found.sequence, found.about) == (41, ABOUT)
        assert list(found.arrays) == list(ARRAYS)
        for name, array in ARRAYS.items():
            again = found.arrays[name]
            assert (again.dtype, again.shape) == (array.dtype, array.shape)
            assert np.array_equal(again, array, equal_nan=array.dtype.kind == "f")
            assert again.flags.writeable and not isinstance(again, np.memmap)
        assert (reader.oldest, reader.damaged) == (41, [])
    assert all(p.parent == path for p in path.rglob("*"))


def test_the_newest_are_kept(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, keep=3)
    save(snapshots, 0, 9, 10, 100, 101)
    assert sorted(os.listdir(tmp_path)) == ["snapshot-10", "snapshot-100", "snapshot-101"]
    assert (latest(snapshots).sequence, snapshots.oldest) == (101, 10)
    save(Snapshots(tmp_path, keep=1), 102)
    assert os.listdir(tmp_path) == ["snapshot-102"]
    with pytest.raises(SnapshotError, match="keep=0 would keep no snapshot"):
        Snapshots(tmp_path, keep=0)


def test_the_same_sequence_number_again(tmp_path: Path) -> None:
    """The older one stays until the new one is whole, and as one of the two that are kept."""
    snapshots = Snapshots(tmp_path)
    for k in range(12):
        snapshots.save(5, {"a": np.array(k)}, {})
    assert sorted(os.listdir(tmp_path)) == ["snapshot-5.10", "snapshot-5.11"]
    found = snapshots.latest()
    assert found is not None
    assert (found.sequence, found.arrays["a"], snapshots.oldest) == (5, 11, 5)
    save(snapshots, 6)
    assert sorted(os.listdir(tmp_path)) == ["snapshot-5.11", "snapshot-6"]


def test_an_earlier_sequence_number(tmp_path: Path) -> None:
    """It would be the first to be removed."""
    snapshots = Snapshots(tmp_path)
    save(snapshots, 5, 6)
    with pytest.raises(SnapshotError, match=r"snapshot 4 to .*: snapshot-6 is there, of another journal"):
        save(snapshots, 4)
    assert sorted(os.listdir(tmp_path)) == ["snapshot-5", "snapshot-6"]


def test_what_is_accepted(tmp_path: Path) -> None:
    """What `accept` raises is not taken for damage, and no array is read before."""
    snapshots = Snapshots(tmp_path)
    _, path = save(snapshots, 1, 2)
    (path / "a.npy").unlink()
    seen = []

    def refuse(about: dict[str, Any]) -> None:
        seen.append(about)
        raise SnapshotError("of another model")

    with pytest.raises(SnapshotError, match="of another model"):
        snapshots.latest(refuse)
    assert (seen, snapshots.damaged) == ([{"of": 2}], [])
    found = snapshots.latest(seen.append)
    assert found is not None and found.sequence == 1
    assert seen == [{"of": 2}, {"of": 2}, {"of": 1}]


# Damage.


def test_every_damaged_byte(tmp_path: Path) -> None:
    """In any file of the newest one: it is passed over, and stays where it is."""
    old, new = save(Snapshots(tmp_path), 7, 8)
    for file in new.iterdir():
        whole = file.read_bytes()
        for at in range(0, len(whole), 3):
            for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x04]) + whole[at + 1 :]):
                file.write_bytes(damaged)
                snapshots = Snapshots(tmp_path)
                if file.suffix == ".json" and json_of(damaged) == json_of(whole):
                    continue  # the last line break
                assert latest(snapshots).sequence == 7
                assert snapshots.damaged == [new]
                assert snapshots.oldest == 7
        file.write_bytes(whole + b"x")
        assert latest(Snapshots(tmp_path)).sequence == 7
        file.write_bytes(whole)
    assert latest(Snapshots(tmp_path)).sequence == 8
    assert old.exists()


def json_of(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def test_the_oldest_whole_one(tmp_path: Path) -> None:
    """A damaged one says nothing about how much of the journal is needed."""
    one, two = save(Snapshots(tmp_path), 1, 2)
    (one / "a.npy").write_bytes(b"")
    snapshots = Snapshots(tmp_path)
    assert (snapshots.oldest, snapshots.damaged) == (2, [one])
    (two / "b.npy").unlink()
    snapshots = Snapshots(tmp_path)
    assert (snapshots.oldest, snapshots.latest()) == (None, None)
    assert set(snapshots.damaged) == {one, two}


def test_a_damaged_one_is_not_among_those_kept(tmp_path: Path) -> None:
    one, two = save(Snapshots(tmp_path), 1, 2)
    (two / "b.npy").unlink()
    snapshots = Snapshots(tmp_path)
    assert latest(snapshots).sequence == 1
    [three] = save(snapshots, 3)
    assert one.exists() and two.exists() and three.exists()
    assert snapshots.oldest == 1
    save(snapshots, 4)
    assert sorted(os.listdir(tmp_path)) == ["snapshot-3", "snapshot-4"]


def test_another_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not damaged, and must not be passed over in silence."""
    save(Snapshots(tmp_path), 1)
    monkeypatch.setattr("stjax.serving.snapshots.FORMAT", 2)
    save(Snapshots(tmp_path), 2)
    monkeypatch.undo()
    with pytest.raises(SnapshotError, match="snapshot-2 has snapshot format 2, this version reads 1"):
        Snapshots(tmp_path).latest()


def test_a_renamed_one(tmp_path: Path) -> None:
    save(Snapshots(tmp_path), 1, 2)[1].rename(tmp_path / "snapshot-3")
    snapshots = Snapshots(tmp_path)
    assert latest(snapshots).sequence == 1
    assert snapshots.damaged == [tmp_path / "snapshot-3"]


# What cannot be saved.


@pytest.mark.parametrize(
    "array", [np.array(["text"]), np.array([None]), np.zeros(3, ml_dtypes.bfloat16), np.zeros(2, "i4,f4")]
)
def test_types_that_are_not_kept(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(SnapshotError, match=r"array 'x' is of type .*: give a view of it as integers"):
        Snapshots(tmp_path).save(1, {"a": np.zeros(3), "x": array}, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, np.zeros(2)])
def test_about_must_be_json(tmp_path: Path, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="JSON"):
        Snapshots(tmp_path).save(1, {"a": np.zeros(3)}, {"value": value})
    assert os.listdir(tmp_path) == []


class Limited:
    """A disk that takes so many bytes and calls, and is full from then on."""

    def __init__(self, patch: pytest.MonkeyPatch, calls: int) -> None:
        self.left = calls
        for name in ("fsync", "rename", "mkdir"):
            patch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, call: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **options)

        return counted


def test_a_full_disk_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "snapshots"
    save(Snapshots(folder), 1, 2)
    before = files(folder)
    failures = 0
    for calls in range(100):
        with pytest.MonkeyPatch.context() as patch:
            snapshots = Snapshots(folder)
            Limited(patch, calls)
            try:
                save(snapshots, 3)
                break
            except SnapshotError as error:
                assert "snapshot 3" in str(error)
                assert "No space left on device" in str(error)
                assert "free space" in str(error)
        failures += 1
        now = files(folder)
        if any("snapshot-3" in name for name in now):  # complete, but its name may not be on the disk
            assert latest(Snapshots(folder)).sequence == 3
            shutil.rmtree(folder)
            save(Snapshots(folder), 1, 2)
        else:
            assert now == before
            assert sorted(os.listdir(folder)) == ["snapshot-1", "snapshot-2"]
            assert latest(Snapshots(folder)).sequence == 2
    assert failures >= 6
    assert sorted(os.listdir(folder)) == ["snapshot-2", "snapshot-3"]


def test_a_disk_that_fills_up_within_an_array(tmp_path: Path) -> None:
    """With a device that is always full: numpy's own writing would name no cause."""
    snapshots = Snapshots(tmp_path)
    save(snapshots, 1)
    before = files(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.open", full_for("large.npy"))
        with pytest.raises(SnapshotError, match="No space left on device; the older ones are whole"):
            snapshots.save(2, ARRAYS, {})
    assert files(tmp_path) == before
    assert os.listdir(tmp_path) == ["snapshot-1"]
    snapshots.save(2, ARRAYS, {})
    assert snapshots.oldest == 1


def full_for(name: str) -> Any:
    """`open`, but with /dev/full for the file of that name."""
    usual = open

    def opened(file: Any, mode: str = "r", **options: Any) -> Any:
        if Path(file).name == name:
            return usual("/dev/full", "wb", **options)
        return usual(file, mode, **options)

    return opened


def test_killed_at_every_step(tmp_path: Path) -> None:
    """Processes killed before each call that makes something durable, each saving the next snapshot."""
    command = [sys.executable, "-m", "tests.killed_servers", "snapshots", str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [tuple(map(int, line.split())) for line in said.splitlines()]
    assert len(lines) > 9
    newest, kept = 1, {0, 1}
    for n, latest, oldest, damaged in lines:
        assert damaged == 0
        assert latest in (newest, n)  # the one that was there, or the one that was being saved
        assert oldest in kept
        newest, kept = latest, kept | {latest}
    assert lines[-1][1] == lines[-1][0]
    left = Snapshots(tmp_path)
    left.save(1000, {}, {})
    assert len(os.listdir(tmp_path)) == 2


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SnapshotError, match="cannot use the snapshot folder"):
        Snapshots(tmp_path / "file")
