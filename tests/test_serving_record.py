"""What was acknowledged is in the state after any end of the process, once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stjax.errors import UserError
from stjax.serving import Event, Item, Request
from stjax.serving.journal import JournalError
from stjax.serving.snapshots import SnapshotError, Snapshots
from tests.counting import counting, counts, expected, last, stream
from tests.quick import environment
from tests.serving import ALL, START, assert_equal, parts, plain, request, start
from tests.serving import stream as rich_stream

ROOT = Path(__file__).parents[1]
WHO = [f"u{k}" for k in range(8)]


def assert_holds(engine, events) -> None:
    for user in WHO:
        assert counts(engine, user) == expected(events, user)
        own = [event.item for event in events if event.user == user]
        assert last(engine, user) == (own[-1] if own else None)


def test_an_engine_goes_on_where_the_one_before_stood(tmp_path: Path) -> None:
    events = stream(101)
    for at in range(0, 100, 20):
        engine = counting(tmp_path, snapshot_every=33)
        assert engine.status()["events"] == at
        for k in range(at, at + 20, 5):
            engine.observe(events[k : k + 5])
        assert_holds(engine, events[: at + 20])
        engine.close()
    with counting(tmp_path) as engine:
        assert_holds(engine, events[:100])
        assert 0 < engine.status()["counts"]["events read again at the start"] < 67
        engine.observe(events[100:])
        assert_holds(engine, events)


def test_states_pending_events_and_what_was_seen_are_restored(tmp_path: Path) -> None:
    """With a snapshot in the middle, events that wait for late ones, and evicted users."""
    made, events = parts(plain(known=("time", "scene"))), rich_stream(90, ties=0.4)
    engine = start(made, folder=tmp_path, capacity=3, lateness=3600)
    engine.observe(events[:50])
    engine.save()
    engine.observe(events[50:70])
    before = engine.recommend([request(f"user{k}", exclude_seen=True) for k in range(2, 9)])
    engine.close()
    with start(made, folder=tmp_path, capacity=3, lateness=3600) as engine:
        after = engine.recommend([request(f"user{k}", exclude_seen=True) for k in range(2, 9)])
        for one, two in zip(before, after, strict=True):
            assert one.items == two.items
            np.testing.assert_allclose(one.scores, two.scores, atol=1e-5)
        engine.observe(events[70:])
        assert_equal(engine, made, events, [request(f"user{k}", k) for k in range(2, 10)])


def test_fewer_may_wait_than_before(tmp_path: Path) -> None:
    """What waited beyond that is read, whether some may still wait or none."""
    made, asked = parts(plain(known=("time",))), [request("user2", 1)]
    events = [Event("user2", f"item{3 + k}", START + k) for k in range(8)]
    with start(made, folder=tmp_path, lateness=3600, waiting=9) as engine:
        engine.observe(events)
        engine.save()
    for settings, left in (({"lateness": 3600, "waiting": 3}, 3), ({"lateness": 0}, 0)):
        with start(made, folder=tmp_path, **settings) as engine:
            assert engine.status()["waiting"] == left
            assert_equal(engine, made, events, asked)


def test_the_last_known_place_is_that_of_a_late_event_too(tmp_path: Path) -> None:
    """At once, after the journal is read again, and after a snapshot."""
    here = {"u": (40.7, -74.0), "v": (40.72, -74.01)}

    def near(engine) -> list[list[str]]:
        return [one.items for one in engine.recommend([Request(u, within_km=5.0) for u in here], 11)]

    with counting(tmp_path, lateness=60) as engine:
        engine.observe([Event("u", "i1", 100), Event("v", "i1", 100)])
        engine.observe([Event(u, "i2", 50, place=place) for u, place in here.items()])
        engine.observe([Event(u, "i2", 45, place=(50.0, 9.0)) for u in here])  # before that
        expected = engine.recommend([Request(u, within_km=5.0, place=p) for u, p in here.items()], 11)
        assert near(engine) == [one.items for one in expected] != [[], []]
    for _ in range(2):
        with counting(tmp_path, lateness=60) as engine:
            assert near(engine) == [one.items for one in expected]
            engine.save()


def test_numbers_of_numpy_are_kept(tmp_path: Path) -> None:
    """In the journal and in snapshots, as the numbers that they are."""
    made, place, near = parts(plain(known=("time",))), (np.float32(40.7), np.float32(-74.1)), np.float32(9)
    context = {"mood": np.arange(3, dtype=np.float32) / 7, "rating": np.float32(0.7)}
    item = Item("new", place, {"text": np.arange(4) / 7, "price": np.float64(3), "genres": ("genres3",)})
    engine = start(made, folder=tmp_path, spare_items=1)
    engine.add_items([item])
    for k, name in enumerate(("new", "item4")):  # the last is in the journal alone
        one = Event("user2", name, np.int64(START + k), place=place, context=context)
        assert engine.observe([one]).accepted == 1
        if k == 0:
            engine.save()
    before = engine.recommend([request("user2", within_km=near)], ALL)[0]
    engine.close()
    with start(made, folder=tmp_path, spare_items=1) as engine:
        after = engine.recommend([request("user2", within_km=near)], ALL)[0]
    assert len(after.items) > 5 and after.items == before.items
    np.testing.assert_allclose(after.scores, before.scores, atol=1e-5)


def test_no_snapshot_is_ahead_of_a_journal_without_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a loss of power the states would be whole, but the engine could not go on with them."""
    synced, fsync = [], os.fsync

    def told(file: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{file}")).suffix)
        fsync(file)

    with counting(tmp_path, sync=False) as engine:
        engine.observe(stream(5))
        monkeypatch.setattr(os, "fsync", told)
        engine.save()
    assert synced.index(".segment") < synced.index(".npy")
    (tmp_path / "model.json").write_text("")  # lost likewise
    with counting(tmp_path) as engine:
        assert engine.status()["events"] == 5
    with pytest.raises(SnapshotError, match="the engine is closed"):
        engine.save()
    (tmp_path / "model.json").write_text('{"schema"')
    with pytest.raises(UserError, match=r"model.json is damaged .*: remove it"):
        counting(tmp_path)


def test_who_saves_waits_for_who_is_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the snapshot that is being written does not hold is in the next one."""
    begun, go, save = threading.Event(), threading.Event(), Snapshots.save

    def slow(*arguments) -> Path:
        begun.set()
        assert go.wait(30)
        return save(*arguments)

    with counting(tmp_path) as engine, ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(Snapshots, "save", slow)
        engine.observe(stream(5))
        first = pool.submit(engine.save)
        assert begun.wait(30)
        engine.observe(stream(7)[5:])
        second = pool.submit(engine.save)
        go.set()
        first.result(), second.result()
    assert {path.name for path in (tmp_path / "snapshots").iterdir()} == {"snapshot-5", "snapshot-7"}


def test_it_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    acknowledged, own = 0, environment(PYTHONPATH=str(ROOT))
    random = np.random.default_rng(5)
    for _ in range(6):
        command = [sys.executable, "-m", "tests.counting", str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=own) as process:
            assert process.stdout is not None
            began = int(process.stdout.readline())
            assert began >= acknowledged
            for _ in range(int(random.integers(20, 60))):
                acknowledged = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *map(int, process.stdout.read().split("\n")[:-1])])
    with counting(tmp_path) as engine:
        total = engine.status()["events"]
        assert total >= acknowledged > 300
        assert_holds(engine, stream(total))


def test_a_full_disk_accepts_nothing_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, engine, write = stream(30), counting(tmp_path), os.write
    engine.observe(events[:10])

    def full(file: int, data) -> int:
        write(file, bytes(data)[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(JournalError, match="space"):
            engine.observe(events[10:20])
        assert_holds(engine, events[:10])  # it answers on
    engine.observe(events[10:])
    assert_holds(engine, events)
    engine.close()
    with counting(tmp_path) as engine:
        assert_holds(engine, events)


def test_events_are_acknowledged_where_there_is_no_space_for_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever sent them would send them again, and they would be read twice."""
    events = stream(60)

    def full(*arguments) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with counting(tmp_path, snapshot_every=10) as engine:
        engine.observe(events[:10])
        with monkeypatch.context() as patch:
            patch.setattr("stjax.serving.snapshots._save", full)
            for at in range(10, 40, 5):
                assert engine.observe(events[at : at + 5]).accepted == 5
            assert engine.status()["counts"]["snapshots not written"] == 3
            with pytest.raises(SnapshotError, match=r"No space left.* the older ones are whole"):
                engine.save()
        assert_holds(engine, events[:40])
    with counting(tmp_path, snapshot_every=10) as engine:
        assert engine.status()["counts"]["events read again at the start"] == 30
        assert_holds(engine, events[:40])
        engine.observe(events[40:])
        assert "snapshots not written" not in engine.status()["counts"]
    with counting(tmp_path) as engine:
        assert_holds(engine, events)


def test_a_torn_last_record_is_cut_off(tmp_path: Path) -> None:
    events, engine = stream(30), counting(tmp_path)
    engine.observe(events[:20])
    engine.observe(events[20:])
    engine.close()
    segment = max((tmp_path / "journal").glob("*[0-9]*"))
    with open(segment, "r+b") as file:
        file.truncate(segment.stat().st_size - 3)
    with counting(tmp_path) as engine:
        assert_holds(engine, events[:20])
        assert engine.status()["counts"]["journal bytes cut off: not acknowledged"] > 0


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    engine = start(parts(plain()), folder=tmp_path)
    engine.observe(rich_stream(5))
    engine.save()
    engine.close()
    with pytest.raises(UserError, match=r"another model.*version is 'model@.*choose another folder"):
        start(parts(plain(), seed=1), folder=tmp_path)


def test_states_of_another_form_are_refused(tmp_path: Path) -> None:
    """As another version of the model's code may have written them, from the same parameters."""
    made = parts(plain())
    with start(made, folder=tmp_path) as engine:
        engine.observe(rich_stream(5))
        sequence, arrays, about = engine._take()
        del arrays["state_000"]
        assert engine._record is not None
        engine._record.save(sequence, arrays, about)
    with pytest.raises(UserError, match=r"states of another form.*begin with an empty folder"):
        start(made, folder=tmp_path)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with counting(tmp_path) as engine:
        with pytest.raises(UserError, match=str(os.getpid())):
            counting(tmp_path)
        engine.observe([Event("u1", "i1", 5e5)])
        assert counts(engine, "u1") == {"i1": 1}
