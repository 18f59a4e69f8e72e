"""The journal: what was acknowledged is there, once and in order, whatever happens to its writer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.serving.journal import Journal, JournalError
from tests import journals
from tests.journals import content, records
from tests.killed_servers import batch_of

no_fsync, folder = journals.no_fsync, journals.folder


def test_round_trip(folder: Path) -> None:
    with Journal(folder) as journal:
        assert (journal.last, records(journal)) == (0, [])
        assert journal.append([b"one", b"", b"three\0\n"]) == 3
        assert journal.append([]) == 3
        assert journal.append([bytes(100_000)]) == 4
        assert records(journal, 2) == [b"three\0\n", bytes(100_000)]
        size = journal.bytes
    assert size == sum(map(len, content(folder).values()))
    with Journal(folder) as journal:
        assert (journal.last, journal.bytes, journal.repaired_bytes) == (4, size, 0)
        assert records(journal) == [b"one", b"", b"three\0\n", bytes(100_000)]
        assert journal.append([b"five"]) == 5
        assert records(journal, 4) == [b"five"]
        assert records(journal, 5) == []


batches = st.lists(st.binary(max_size=40), max_size=6)


@settings(max_examples=60)
@given(
    work=st.lists(st.one_of(batches, st.just("reopen"), st.integers(0, 60)), max_size=25),
    segment_bytes=st.integers(1, 400),
    sync=st.booleans(),
)
def test_against_a_list(
    work: list[Any], segment_bytes: int, sync: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Appends (lists), discards (numbers) and reopening, in any order, on segments of any size."""
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder, sync=sync, segment_bytes=segment_bytes)
    expected: list[bytes] = []
    upto = 0
    for step in work:
        if step == "reopen":
            journal.close()
            journal = Journal(folder, sync=sync, segment_bytes=segment_bytes)
        elif isinstance(step, int):
            journal.discard(step)
            upto = max(upto, min(step, len(expected)))
        else:
            expected += step
            assert journal.append(step) == len(expected)
        assert journal.last == len(expected)
        assert journal.bytes == sum(map(len, content(folder).values()))
    for after in range(upto, len(expected) + 1):
        assert records(journal, after) == expected[after:]
    journal.close()
    shutil.rmtree(folder)


def test_reading_while_the_journal_grows(folder: Path) -> None:
    with Journal(folder, segment_bytes=100) as journal:
        journal.append([b"a", b"b"])
        reader = journal.read()
        assert next(reader) == (1, b"a")
        for k in range(10):
            journal.append([b"c" * 10 * k])
        assert list(reader) == [(2, b"b")]


@pytest.mark.parametrize("sync", [True, False])
def test_what_is_synced(folder: Path, sync: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each append writes once and syncs once; without `sync` only ends of segments are synced."""
    calls: list[str] = []
    write = os.write
    with Journal(folder, sync=sync, segment_bytes=200) as journal:
        monkeypatch.setattr(os, "write", lambda *a: (calls.append("write"), write(*a))[1])
        monkeypatch.setattr(os, "fsync", lambda _: calls.append("fsync"))
        journal.append([b"first", b"second"])
        assert calls == ["write", "fsync"][: 1 + sync]
        calls.clear()
        journal.append([bytes(150)])  # in a segment of its own, of which the name is synced, too
        new = ["write", "fsync", "fsync"]
        assert calls == ([*new, "write", "fsync"] if sync else ["fsync", *new, "write"])
        calls.clear()
    assert calls == ([] if sync else ["fsync"])


# What a kill leaves behind.


def test_every_length_of_the_last_frame(folder: Path, tmp_path: Path) -> None:
    """Cut anywhere, the last frame is gone as a whole, the others are there, and the journal goes on."""
    with Journal(folder) as journal:
        journal.append([b"first", b"second"])
        before = journal.bytes
        journal.append([b"third", b"", b"fifth"])
    [(name, whole)] = content(folder).items()
    for length in range(before, len(whole)):
        other = tmp_path / str(length)
        other.mkdir()
        (other / name).write_bytes(whole[:length])
        with Journal(other) as journal:
            assert (journal.last, journal.bytes) == (2, before)
            assert journal.repaired_bytes == length - before
            assert content(other) == {name: whole[:before]}
            assert journal.append([b"new"]) == 3
            assert records(journal) == [b"first", b"second", b"new"]
        with Journal(other) as journal:
            assert journal.repaired_bytes == 0
            assert records(journal) == [b"first", b"second", b"new"]


@pytest.mark.parametrize("behind", [0, 1, 31, 32, 33, 5000])
def test_zeros_at_the_end(folder: Path, tmp_path: Path, behind: int) -> None:
    """A file system may keep a file's length and not its last blocks, which are then zeros."""
    with Journal(folder) as journal:
        journal.append([b"first"])
        before = journal.bytes
        journal.append([b"second"])
    [(name, whole)] = content(folder).items()
    for written in range(before, len(whole)):
        torn = whole[:written].ljust(len(whole), b"\0") + bytes(behind)
        (folder / name).write_bytes(torn)
        with Journal(folder) as journal:
            assert (journal.last, records(journal)) == (1, [b"first"])
            assert journal.repaired_bytes == len(torn) - before
    (folder / name).write_bytes(whole + bytes(behind))
    with Journal(folder) as journal:
        assert records(journal) == [b"first", b"second"]
        assert journal.repaired_bytes == behind


def test_a_torn_frame_with_images_of_frames_in_it(folder: Path, tmp_path: Path) -> None:
    """Its header being lost, frames are searched for in its records; those of other segments do not count."""
    with Journal(tmp_path / "other") as other:
        for _ in range(9):
            other.append([b"of the other journal"])
    [image] = content(tmp_path / "other").values()
    with Journal(folder) as journal:
        journal.append([b"first"])
        before = journal.bytes
        journal.append([image, image])
    [(name, whole)] = content(folder).items()
    (folder / name).write_bytes(whole[:before] + bytes(16) + whole[before + 16 :])
    with Journal(folder) as journal:
        assert records(journal) == [b"first"]
        assert journal.repaired_bytes == len(whole) - before


def test_killed_writers(folder: Path) -> None:
    """20 writers go on with one journal, each is killed: each batch is there whole, once and in order."""
    command = [sys.executable, "-m", "tests.killed_servers", "journal", str(folder), "20"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    acknowledged = [tuple(map(int, line.split())) for line in said.splitlines()]
    assert len({run for _, run, _, _, _ in acknowledged}) > 8
    assert any(repaired for *_, repaired in acknowledged)
    with Journal(folder) as journal:
        found = records(journal)
        segments = len(content(folder))
    assert segments > 5

    batches, at = {}, 0
    while at < len(found):
        run, batch, _, size = map(int, found[at].split(b" ")[:4])
        assert found[at : at + size] == batch_of(run, batch, size)
        assert (run, batch) not in batches
        at += size
        batches[run, batch] = (at, size)
    assert list(batches) == sorted(batches)
    for last, run, batch, size, _ in acknowledged:
        assert batches.pop((run, batch)) == (last, size)
    runs = [run for run, _ in batches]  # of the batches that were written but not acknowledged any more
    assert len(runs) == len(set(runs))


# Damage.


def test_every_damaged_byte_of_the_active_segment(folder: Path) -> None:
    """Any byte ahead of the last frame: the journal does not open, and nothing is changed."""
    with Journal(folder) as journal:
        journal.append([b"first"])
        journal.append([b"second", b"", b"fourth"])
        before = journal.bytes
        journal.append([b"fifth"])
    [(name, whole)] = content(folder).items()
    for at in range(before):
        for flip in (0x01, 0xFF):
            damaged = whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
            (folder / name).write_bytes(damaged)
            with pytest.raises(JournalError, match=name):
                Journal(folder)
            assert content(folder) == {name: damaged}
    (folder / name).write_bytes(whole)
    with Journal(folder) as journal:
        assert len(records(journal)) == 5


def test_damage_says_where(folder: Path) -> None:
    with Journal(folder) as journal:
        journal.append([b"first"])
        at = journal.bytes
        journal.append([b"second"])
        journal.append([b"third"])
    [(name, whole)] = content(folder).items()
    (folder / name).write_bytes(whole.replace(b"second", b"sacond"))
    with pytest.raises(JournalError) as error:
        Journal(folder)
    assert f"{folder / name} is damaged at byte {at}: " in str(error.value)
    assert "the frame with record 2" in str(error.value)
    assert "bring the file back" in str(error.value)


def test_damage_ahead_of_a_torn_frame(folder: Path) -> None:
    """The begun frame shows that the one before it was whole once."""
    with Journal(folder) as journal:
        journal.append([b"first"])
        journal.append([b"second"])
        end = journal.bytes
        journal.append([b"third"])
    [(name, whole)] = content(folder).items()
    for length in range(end + 1, len(whole)):
        (folder / name).write_bytes(whole[:length].replace(b"second", b"sacond"))
        with pytest.raises(JournalError, match="is damaged at byte"):
            Journal(folder)


def test_every_damaged_byte_of_an_earlier_segment(folder: Path) -> None:
    """Also of its last frame, which cannot be torn: the next segment was begun after it."""
    with Journal(folder, segment_bytes=1) as journal:
        journal.append([b"first"])
        journal.append([b"second"])
    whole = content(folder)
    earlier = folder / min(whole)
    for at in range(len(whole[earlier.name])):
        damaged = bytearray(whole[earlier.name])
        damaged[at] ^= 0x10
        earlier.write_bytes(damaged)
        with Journal(folder) as journal:
            assert journal.last == 2
            with pytest.raises(JournalError, match=earlier.name):
                list(journal.read())
            assert records(journal, 1) == [b"second"]  # behind the damage
    with Journal(folder) as journal, pytest.raises(JournalError, match="is damaged at byte 28: "):
        list(journal.read())
    for length in range(len(whole[earlier.name])):
        earlier.write_bytes(whole[earlier.name][:length])
        with Journal(folder) as journal, pytest.raises(JournalError, match=r"missing|damaged"):
            list(journal.read())
    assert set(content(folder)) == set(whole)


def test_a_missing_segment(folder: Path) -> None:
    with Journal(folder, segment_bytes=1) as journal:
        for k in range(4):
            journal.append([b"%d" % k, b"more"])
    names = sorted(content(folder))
    (folder / names[1]).unlink()
    with Journal(folder) as journal:
        assert records(journal, 4) == [b"2", b"more", b"3", b"more"]
        with pytest.raises(JournalError, match="records 3 to 4 are missing behind the segment"):
            list(journal.read())


def test_a_renamed_segment_and_another_format(folder: Path) -> None:
    with Journal(folder) as journal:
        journal.append([b"first"])
    [name] = content(folder)
    (folder / name).rename(folder / name.replace("1", "7"))
    with pytest.raises(JournalError, match=f"begins with record 1: give it its name {name} back"):
        Journal(folder)
    whole = (folder / name.replace("1", "7")).rename(folder / name).read_bytes()
    (folder / name).write_bytes(whole[:8] + b"\x02" + whole[9:])
    with pytest.raises(JournalError, match="journal format 2, this version reads 1"):
        Journal(folder)


# Discarding.


def test_discard_and_reopen(folder: Path) -> None:
    with Journal(folder, segment_bytes=1) as journal:
        for k in range(5):
            journal.append([b"%d" % k, b"more"])
        size = journal.bytes
        journal.discard(5)  # record 6 is in a segment with record 5
        assert len(content(folder)) == 3
        assert journal.bytes < size
        assert records(journal, 4) == [b"2", b"more", b"3", b"more", b"4", b"more"]
        with pytest.raises(JournalError, match="begins with record 5: records 4 to 4 were discarded"):
            journal.read(3)
        journal.discard(1000)
        assert len(content(folder)) == 1  # the active one stays
        assert records(journal, 8) == [b"4", b"more"]
    with Journal(folder, segment_bytes=1) as journal:
        assert journal.last == 10
        assert journal.append([b"next"]) == 11
        journal.discard(10)
        assert records(journal, 10) == [b"next"]
    with Journal(folder) as journal:
        assert journal.last == 11
        with pytest.raises(JournalError, match="start from a snapshot at 10 or later"):
            journal.read()


def test_a_place_behind_the_end(folder: Path) -> None:
    """A snapshot that is ahead of the journal: new records would get numbers that it already counts."""
    with Journal(folder) as journal:
        journal.append([b"first"])
        with pytest.raises(JournalError, match="ends with record 1, those after 2 are asked for"):
            journal.read(2)


# Failing disks.


def test_an_interrupted_append(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def interrupted(file: int, content: bytes) -> int:
        write(file, content[:40])
        raise KeyboardInterrupt

    with Journal(folder) as journal:
        journal.append([b"first"])
        monkeypatch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.append([b"second"])
        monkeypatch.undo()
        assert journal.append([b"second"]) == 2
        assert records(journal) == [b"first", b"second"]


# One process at a time.


def test_a_journal_in_use(folder: Path) -> None:
    command = [sys.executable, "-m", "tests.killed_servers", "hold", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        pid = int(other.stdout.readline())
        assert pid == other.pid
        with pytest.raises(JournalError, match=f"{folder} is in use by process {pid}; end it"):
            Journal(folder)
        other.kill()
    with Journal(folder) as journal:
        assert journal.append([b"first"]) == 1
        with pytest.raises(JournalError, match=f"in use by process {os.getpid()}"):
            Journal(folder)
    with pytest.raises(JournalError, match="takes no records: it is closed"):
        journal.append([b"second"])
    with Journal(folder) as journal:
        assert journal.last == 1


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=f"cannot use the journal {tmp_path / 'file'}: File exists"):
        Journal(tmp_path / "file")
