"""Bad and extreme logs: one clear message and status 2, or a counted repair; killed writers leave nothing."""

from __future__ import annotations

import errno
import gzip
import json
import math
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from stjax.data.__main__ import main
from stjax.data.log import LogColumns, LogError
from stjax.data.prepare import prepare
from stjax.data.store import EventStore, StoreError

GOOD = b"user,item,time\nu,i,1\nu,j,2\n"


def log(**columns: list) -> pl.DataFrame:
    rows = len(next(iter(columns.values())))
    return pl.DataFrame({"user": ["u"] * rows, "item": ["i"] * rows, "time": list(range(rows))} | columns)


# ---- logs that cannot be read ----

BROKEN = {
    "more fields than the header": (
        "log.csv",
        b"user,item,time\n1,2,3,4\n",
        "cannot be read: found more fields",
    ),
    "open quote": ("log.csv", b'user,item,time\n1,"2,3\n4,5,6\n', "cannot be read"),
    "not UTF-8": (
        "log.csv",
        b"user,item,time\n\xff,2,3\n",
        r"cannot be read: invalid utf-8[^;]*; save it as UTF-8",
    ),
    "nothing": ("log.csv", b"", "is empty"),
    "a header only": ("log.csv", b"user,item,time\n", "is empty"),
    "nothing in JSON lines": ("log.jsonl", b"", "is empty"),
    "column missing": ("log.csv", b"who,item,time\n1,2,3\n", r"no column 'user'.*\['who', 'item', 'time'\]"),
    "JSON broken": ("log.jsonl", b'{"user": 1,\n', "cannot be read"),
    "JSON with no objects": ("log.jsonl", b"[1]\n", "cannot be read"),
    "JSON without a key": ("log.jsonl", b'{"item": 1, "time": 2}\n', "no column 'user'"),
    "not Parquet": ("log.parquet", b"user,item,time", "cannot be read"),
    "cut gzip": ("log.csv.gz", gzip.compress(GOOD)[:-12], "cannot be read"),
    "unknown kind": ("log.xlsx", b"", "no known kind"),
    "a name twice": ("log.csv", b"user,item,time,time\nu,i,1,2\n", "two columns 'time'"),
    "an object for an id": ("log.jsonl", b'{"user": {"id": 1}, "item": 1, "time": 2}\n', "'user' is Struct"),
    "days as numbers": ("log.csv", b"user,item,time\nu,i,20130131\nu,j,20130201\n", "20130131, look like"),
    "nothing left": ("log.csv", b"user,item,time\nu,i,soon\n,i,3\n", "unparsable time: 1; times are Unix"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_log_is_one_message_and_status_2(tmp_path, capsys, case):
    name, content, message = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LogError, match=message) as caught:
        prepare([tmp_path / name], LogColumns(), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert main(["prepare", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {caught.value}"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(LogError, match=r"nope\.csv does not exist"):
        prepare([tmp_path / "nope.csv"], LogColumns(), tmp_path / "out")
    with pytest.raises(LogError, match="is not a file"):
        prepare([tmp_path], LogColumns(), tmp_path / "out")
    with pytest.raises(LogError, match="no log"):
        prepare([], LogColumns(), tmp_path / "out")


def test_files_of_different_types_are_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(GOOD)
    log(time=[3]).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(LogError, match=r"'time' is Int64 in .*b\.parquet and String in"):
        prepare([tmp_path / "a.csv", tmp_path / "b.parquet"], LogColumns(), tmp_path / "out")


def test_the_command_ends_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "stjax.data", "prepare", "nope.csv", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "error: nope.csv does not exist\n"


# ---- columns that cannot be ----


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"latitude": "lat"}, "both latitude and longitude"),
        ({"categorical": ("a",), "meta": ("a",)}, r"\['a'\] has two roles"),
        ({"numeric": ("time",)}, "'time' clashes"),
        ({"numeric": ("a/b",)}, "'a/b' cannot be a file name"),
        ({"utc_offset": 90_000}, "not below 86400"),
        ({"utc_offset": 60, "utc_offset_unit": "minutes"}, "utc_offset=60 of the whole log is in seconds"),
        ({"user": "id", "item": "id"}, "user='id', item='id' and time='time' must be three different"),
        ({"categorical": "device"}, r"categorical='device' must be a tuple of names, as \('device',\)"),
    ],
)
def test_columns_that_clash(names, message):
    with pytest.raises(LogError, match=message):
        LogColumns(**names)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.toml", 'user = "a"\nusr = "b"', r"unknown names \['usr'\]"),
        ("s.toml", "user = 3", "user = 3 should be"),
        ("s.toml", 'categorical = "device"', "categorical = 'device' should be"),
        ("s.toml", 'time_format = "days"', "time_format = 'days' should be"),
        ("s.toml", "user =", "is not valid"),
        ("s.json", "{", "is not valid"),
        ("s.json", "[]", "must hold names"),
    ],
)
def test_schema_files_that_cannot_be(tmp_path, capsys, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(LogError, match=message):
        LogColumns.from_file(tmp_path / name)
    assert main(["prepare", "x.csv", "--out", "y", "--schema", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.startswith("error: schema file")


def test_schema_file_and_options(tmp_path, capsys):
    columns = LogColumns(user="who", utc_offset="zone", categorical=("a", "b"), missing=("-1",))
    given = {"user": "who", "utc_offset": "zone", "categorical": ["a", "b"], "missing": ["-1"]}
    (tmp_path / "s.json").write_text(json.dumps(given))
    (tmp_path / "s.toml").write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in given.items()))
    assert LogColumns.from_file(tmp_path / "s.json") == columns == LogColumns.from_file(tmp_path / "s.toml")

    (tmp_path / "log.csv").write_text("who,what,time,zone,a,b\nu,i,1,-18000,x,-1\nu,i,2,-18000,-2,y\n")
    arguments = ["prepare", str(tmp_path / "log.csv"), "--out", str(tmp_path / "out")]
    arguments += ["--schema", str(tmp_path / "s.toml"), "--item", "what", "--missing", "-1", "-2"]
    assert main(arguments) == 0
    store = EventStore.open(tmp_path / "out")
    assert store.columns["a"].tolist() == [2, 0]
    assert store.columns["b"].tolist() == [0, 2]
    assert store.columns["utc_offset"].tolist() == [-18000, -18000]
    printed = capsys.readouterr()
    assert "rows read" in printed.out and store.fingerprint in printed.out
    assert "read and parse" in printed.err
    assert main(["show", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "categorical" in printed.out and "rows read" in printed.out


def test_an_offset_in_seconds_on_the_command_line(tmp_path):
    (tmp_path / "log.csv").write_bytes(GOOD)
    arguments = ["prepare", str(tmp_path / "log.csv"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--utc-offset", "-18000"]) == 0
    assert EventStore.open(tmp_path / "out").columns["utc_offset"].tolist() == [-18000, -18000]


def test_an_unknown_option(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["prepare", "x.csv", "--out", "y", "--usr", "z"])
    assert caught.value.code == 2
    assert "--usr" in capsys.readouterr().err


# ---- extremes that must work ----


@pytest.mark.parametrize(
    ("frame", "users", "items", "ties"),
    [
        (log(time=[5]), 1, 1, 0),  # one event
        (log(user=["a", "b", "c"]), 3, 1, 0),  # one item; each user with one event
        (log(item=["a", "b", "c"]), 1, 3, 0),  # one user
        (log(item=["a", "b", "c"], time=[7, 7, 7]), 1, 3, 2),  # all times equal
    ],
)
def test_the_smallest_logs(tmp_path, frame, users, items, ties):
    store = prepare(frame, LogColumns(), tmp_path / "out")
    assert (store.quality["users"], store.quality["items"], store.quality["ties"]) == (users, items, ties)
    assert len(store) == len(frame)


def test_ids_are_text_as_written(tmp_path):
    ids = ["7", "007", " 7", "7 ", '"7"', "a,b", "\u00e9", "e\u0301", "日本", "1e3", "NULL", "nan"]
    log(user=ids).write_csv(tmp_path / "log.csv")
    store = prepare([tmp_path / "log.csv"], LogColumns(), tmp_path / "out")
    assert store.vocabulary("user").to_list() == sorted(ids)


def test_impossible_coordinates_are_counted_repairs(tmp_path):
    nan = math.nan
    places = [(0.0, 0.0), (91.0, 5.0), (5.0, -181.0), (nan, 5.0), (5.0, None), (None, 5.0), (None, None)]
    places += [(math.inf, 0.0), (-90.0, 180.0)]
    frame = log(lat=[p[0] for p in places], lon=[p[1] for p in places])
    store = prepare(frame, LogColumns(latitude="lat", longitude="lon"), tmp_path / "out")
    assert list(store.quality["repaired"].values()) == [4, 2]
    expected = np.full((9, 2), nan, np.float32)
    expected[0], expected[8] = (0, 0), (-90, 180)
    np.testing.assert_array_equal(store.columns["place"], expected)
    np.testing.assert_array_equal(store.items["place"][:2], np.full((2, 2), nan))
    assert store.quality["missing"]["events"]["place"] == pytest.approx(7 / 9)


def test_what_means_missing_does_so_in_columns_of_numbers_as_in_text(tmp_path):
    typed = log(
        time=[-1, 5, 6, 7], lat=[1.0, 0.0, 40.5, None], lon=[1.0, 0.0, -74.0, 3.0], hours=[0, 60, -1, 0]
    )
    columns = LogColumns(
        latitude="lat",
        longitude="lon",
        utc_offset="hours",
        utc_offset_unit="minutes",
        missing=("none", "-1", "0.0"),
    )
    text = prepare(typed.cast(pl.String), columns, tmp_path / "text")
    assert (
        text.quality["dropped"]["missing time"] == 1 and text.quality["missing"]["events"]["place"] == 2 / 3
    )
    assert prepare(typed, columns, tmp_path / "typed").fingerprint == text.fingerprint


def test_numbers_that_float32_cannot_hold(tmp_path):
    store = prepare(log(price=["1e39", "-inf", "2"]), LogColumns(numeric=("price",)), tmp_path / "out")
    assert store.quality["repaired"] == {"price: not a number": 2}
    np.testing.assert_array_equal(store.columns["price"], np.float32([math.nan, math.nan, 2]))


def test_times_of_absurd_size(tmp_path):
    times = ["1", "1e300", "-1e300", "9" * 40, "inf", "nan"]
    store = prepare(log(time=times), LogColumns(time_format="seconds"), tmp_path / "out")
    assert len(store) == 1
    assert store.quality["dropped"]["time out of range"] == 4
    assert store.quality["dropped"]["unparsable time"] == 1


# ---- strict ----


def test_strict_names_causes_counts_and_rows(tmp_path):
    frame = log(
        user=["u", None, "u", "u", None], time=["1", "2", "soon", "4", "5"], lat=["1"] * 5, lon=["200"] * 5
    )
    columns = LogColumns(latitude="lat", longitude="lon")
    with pytest.raises(LogError) as caught:
        prepare(frame, columns, tmp_path / "out", strict=True)
    for part in ("missing user: 2 (row 2, 5)", "unparsable time: 1 (row 3)", "impossible: 5 (row 1, 2, 3)"):
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()
    prepare(log(time=[1, 2]), LogColumns(), tmp_path / "out", strict=True)


def test_strict_still_filters_by_the_counts_asked_for(tmp_path):
    frame = log(user=["a", "a", "b"])
    store = prepare(frame, LogColumns(), tmp_path / "out", strict=True, min_user_events=2)
    assert store.quality["dropped"]["user below the minimum count"] == 1


# ---- writing ----

KILLED = """
import os, signal, sys
import numpy as np
from stjax.data.log import LogColumns
from stjax.data.prepare import prepare

save, left = np.save, [int(sys.argv[3])]
def dying(*arguments):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    save(*arguments)
np.save = dying
prepare([sys.argv[1]], LogColumns(), sys.argv[2], overwrite=True)
"""


def test_a_killed_writer_leaves_no_store_and_the_next_one_cleans_up(tmp_path):
    (tmp_path / "log.csv").write_bytes(GOOD)
    out = tmp_path / "store"

    def killed() -> None:
        command = [sys.executable, "-c", KILLED, str(tmp_path / "log.csv"), str(out), "3"]
        assert subprocess.run(command).returncode == -signal.SIGKILL
        assert len(list(tmp_path.glob(".store.partial-*"))) == 1

    killed()
    assert not out.exists()
    with pytest.raises(StoreError, match="not an event store"):
        EventStore.open(out)
    first = prepare([tmp_path / "log.csv"], LogColumns(), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "store"]
    killed()  # while replacing a store: the old one is whole
    assert EventStore.open(out).fingerprint == first.fingerprint


def test_a_store_that_a_killed_writer_had_moved_aside_comes_back(tmp_path, monkeypatch):
    first = prepare(log(time=[1, 2]), LogColumns(), tmp_path / "store")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "store").rename(tmp_path / f".store.old-{dead.pid}")  # killed between the two renames

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StoreError, match="No space left"):
        prepare(log(time=[3]), LogColumns(), tmp_path / "store", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert EventStore.open(tmp_path / "store").fingerprint == first.fingerprint


def test_the_partial_folder_of_a_living_process_is_left_alone(tmp_path):
    living = tmp_path / f".out.partial-{os.getppid()}"
    living.mkdir()
    prepare(log(time=[1]), LogColumns(), tmp_path / "out")
    assert living.is_dir()


def test_a_place_that_cannot_be_written_is_a_store_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/out cannot be written: .*choose another folder"):
        prepare(log(time=[1]), LogColumns(), tmp_path / "file" / "out")


def test_threads_that_write_one_store_do_not_mix_it(tmp_path):
    def write(_: int) -> str:
        return prepare(log(time=[1, 2]), LogColumns(), tmp_path / "out", overwrite=True).fingerprint

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(write, range(8)))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk(tmp_path, monkeypatch, capsys):
    (tmp_path / "log.csv").write_bytes(GOOD)
    save, saved = np.save, []

    def full(file: Path, array: np.ndarray) -> None:
        saved.append(file)
        if len(saved) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(file, array)

    monkeypatch.setattr(np, "save", full)
    assert main(["prepare", str(tmp_path / "log.csv"), "--out", str(tmp_path / "out")]) == 2
    assert "No space left" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_nothing_is_overwritten_unasked(tmp_path):
    prepare(log(time=[1, 2]), LogColumns(), tmp_path / "out")
    with pytest.raises(StoreError, match="exists"):
        prepare(log(time=[3]), LogColumns(), tmp_path / "out")
    assert len(prepare(log(time=[3]), LogColumns(), tmp_path / "out", overwrite=True)) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match="exists"):
        prepare(log(time=[3]), LogColumns(), tmp_path / "mine", overwrite=True)


def test_arguments_that_cannot_be(tmp_path):
    with pytest.raises(LogError, match="min_user_events=0"):
        prepare(log(time=[1]), LogColumns(), tmp_path / "out", min_user_events=0)
    with pytest.raises(LogError, match="years"):
        prepare(log(time=[1]), LogColumns(), tmp_path / "out", years=(2013, 2001))
    with pytest.raises(LogError, match="'time' is Boolean"):
        prepare(log(time=[True]), LogColumns(), tmp_path / "out")
