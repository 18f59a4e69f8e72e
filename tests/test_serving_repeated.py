"""Events that are sent again after a lost answer are read once: after a restart, and after a kill."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stjax.errors import ConfigError
from stjax.serving import Event, Settings, record
from stjax.serving.codec import KEY_BYTES
from stjax.serving.journal import JournalError
from stjax.serving.snapshots import Snapshots
from stjax.serving.users import Users
from tests.counting import counting, counts, expected, named, stream
from tests.quick import environment

ROOT = Path(__file__).parents[1]
WHO = [f"u{k}" for k in range(7)]
T = 10**6


def told(k: int, user: str = "u1", time: int | None = None, item: str = "i1") -> Event:
    return Event(user, item, T + k if time is None else time, id=f"id {k}")


def assert_read_once(engine, events) -> None:
    for user in WHO:
        assert counts(engine, user) == expected(events, user)


def test_what_was_accepted_is_acknowledged_and_not_read_again() -> None:
    """In the same call, in a later one, and where it would now be late; another user's id is another id."""
    engine = counting()
    done = engine.observe([told(1), told(1, "u2"), told(1), told(2)])
    assert (done.accepted, done.refused, list(done.repeated)) == (3, {}, [2])
    done = engine.observe([told(3), told(1), told(2, "u2", item="i2"), told(1, item="i5")])
    assert (done.accepted, done.refused, list(done.repeated)) == (2, {}, [1, 3])
    assert counts(engine, "u1") == {"i1": 3} and counts(engine, "u2") == {"i1": 1, "i2": 1}
    done = engine.observe([dataclasses.replace(told(1), id=None), told(9, time=T)])
    assert (done.accepted, sorted(done.refused), list(done.repeated)) == (0, [0, 1], [])
    assert engine.observe([told(9)]).accepted == 1, "what was refused may come again"
    status = engine.status()
    assert status["counts"]["repeated"] == 3 and status["events"] == status["counts"]["accepted"] == 6
    twice = [Event("u3", "i1", T), Event("u3", "i1", T)]
    assert engine.observe(twice).accepted == 2 and counts(engine, "u3") == {"i1": 2}


@pytest.mark.parametrize("kept", [0, 1, 7])
def test_so_many_ids_of_a_user_are_kept(kept: int, tmp_path: Path) -> None:
    """After a restart with a snapshot and events behind it, too."""
    with counting(tmp_path, ids_kept=kept, lateness=1_000) as engine:
        engine.observe([told(k) for k in range(5)])
        engine.save()
        for k in range(5, 13):
            engine.observe([told(k), told(k, "u2")])
        keys = engine._core.users.keys
        assert [len(keys.get(user, b"")) for user in (0, 1)] == [KEY_BYTES * kept] * 2
    with counting(tmp_path, ids_kept=kept, lateness=1_000) as engine:
        assert engine._core.users.keys == keys
        known = [k for k in range(12, 4, -1) if engine.observe([told(k, "u2")]).repeated]
        assert known == list(range(12, 12 - kept, -1))
        assert len(engine.observe([told(12), told(13)]).repeated) == min(kept, 1)


def test_keys_are_compared_whole() -> None:
    """What lies across two keys is none."""
    users, random = Users(3, 7, ids_kept=3), np.random.default_rng(0)
    user, keys = users.add("a"), [random.bytes(KEY_BYTES) for _ in range(5)]
    for key in keys:
        users.remember(user, key)
    assert [users.knows(user, key) for key in keys] == [False, False, True, True, True]
    across = (keys[2] + keys[3])[5 : 5 + KEY_BYTES]
    assert across in users.keys[user] and not users.knows(user, across)
    users.remember(user, across)
    assert users.knows(user, across) and not users.knows(user, keys[2])
    assert not users.knows(users.add("b"), keys[4])


def test_events_that_were_not_accepted_may_be_sent_again(tmp_path: Path, monkeypatch) -> None:
    events = named(stream(30))
    with counting(tmp_path) as engine:
        engine.observe(events[:10])
        with monkeypatch.context() as patch:

            def full(*_) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(os, "write", full)
            with pytest.raises(JournalError, match="space"):
                engine.observe(events[10:20])
        assert engine.observe(events[5:20]).accepted == 10
    with counting(tmp_path) as engine:
        done = engine.observe(events[12:])
        assert (done.accepted, list(done.repeated)) == (10, list(range(8)))
        assert_read_once(engine, events)


def test_a_killed_engine_reads_what_is_sent_again_once(tmp_path: Path) -> None:
    """Its client sends all again from somewhat before the last acknowledged event, as after lost answers."""
    acknowledged, own = 0, environment(PYTHONPATH=str(ROOT))
    random = np.random.default_rng(5)
    for _ in range(4):
        first = max(0, acknowledged - int(random.integers(1, 17)))
        command = [sys.executable, "-m", "tests.counting", str(tmp_path), str(first)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=own) as process:
            assert process.stdout is not None
            for _ in range(int(random.integers(20, 60))):
                acknowledged = max(acknowledged, int(process.stdout.readline()))
            process.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *map(int, process.stdout.read().split("\n")[:-1])])
    with counting(tmp_path) as engine:
        total = engine.status()["events"]
        assert total >= acknowledged > 150
        assert_read_once(engine, stream(total))


def test_snapshots_and_journals_of_before_events_had_ids_are_read(tmp_path: Path, monkeypatch) -> None:
    events, save, written = stream(40), Snapshots.save, record._written

    def old_save(self, sequence, arrays, about):
        kept = {name: array for name, array in arrays.items() if not name.startswith("keys")}
        assert len(kept) == len(arrays) - 2
        return save(self, sequence, kept, about)

    def old_written(entry) -> bytes:
        *fields, last = json.loads(written(entry))
        assert last is None
        return json.dumps(fields).encode()

    with monkeypatch.context() as patch, counting(tmp_path) as engine:
        patch.setattr(Snapshots, "save", old_save)
        patch.setattr(record, "_written", old_written)
        engine.observe(events[:20])
        engine.save()
        engine.observe(events[20:])
    with counting(tmp_path) as engine:
        assert engine.status()["counts"]["events read again at the start"] == 20
        assert_read_once(engine, events)


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="ids_kept=-1 must be at least 0"):
        Settings(ids_kept=-1)
