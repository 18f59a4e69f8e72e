"""From a log to a store: against a plain-Python reference, over file kinds, times, orders and threads."""

from __future__ import annotations

import csv
import datetime
import gzip
import itertools
import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.data.encode import first_of_each
from stjax.data.log import LogColumns, LogError
from stjax.data.prepare import prepare
from stjax.data.rows import below_minimum, in_order
from stjax.events import FIRST
from tests.logs import UTC, simple, text_of, unix, utc

COLUMNS = LogColumns(
    latitude="lat",
    longitude="lon",
    categorical=("device",),
    numeric=("price",),
    item_categorical=("kind",),
    item_numeric=("stars",),
    meta=("split",),
    missing=("-1", "Unknown"),
)
HEADER = ("user", "item", "time", "lat", "lon", "device", "price", "kind", "stars", "split")


def frame(rows: list[tuple[str, ...]], header: tuple[str, ...] = HEADER) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(header, pl.String), orient="row")


# ---- a reference that does the same, row by row ----


def plain_number(text: str, numbers: bool) -> tuple[float | None, bool]:
    """The value or None, and whether it counts as repaired."""
    if text in ("", "-1", "Unknown") or (numbers and text == "-1.0"):
        return None, False
    try:
        value = float(text)
    except ValueError:
        return None, True
    return (value, False) if math.isfinite(value) else (None, True)


def reference(rows: list[tuple[str, ...]], least: tuple[int, int]) -> tuple[list[dict], Counter, Counter]:
    """Kept events in store order, drops by cause and repairs by cause."""
    drops, kept, seen = Counter(), [], set()
    for row in rows:
        r = dict(zip(HEADER, row, strict=True))
        gone = ("", "-1", "Unknown")
        event: dict = {k: None if r[k] in gone else r[k] for k in ("user", "item", "device", "kind", "split")}
        repairs = []
        try:
            time = datetime.datetime.fromisoformat(r["time"].strip())
            event["time"] = time.replace(tzinfo=time.tzinfo or UTC).timestamp()
        except ValueError:
            event["time"] = None
        for name in ("price", "stars"):
            event[name], bad = plain_number(r[name], True)
            repairs += [f"{name}: not a number"] * bad
        (lat, bad_lat), (lon, bad_lon) = plain_number(r["lat"], False), plain_number(r["lon"], False)
        has_lat, has_lon = lat is not None or bad_lat, lon is not None or bad_lon
        event["place"] = None
        if lat is not None and lon is not None and abs(lat) <= 90 and abs(lon) <= 180:
            event["place"] = (lat, lon)
        elif has_lat and has_lon:
            repairs.append("latitude or longitude impossible")
        elif has_lat or has_lon:
            repairs.append("latitude without longitude, or the reverse")
        if event["user"] is None:
            drops["missing user"] += 1
        elif event["item"] is None:
            drops["missing item"] += 1
        elif r["time"] in gone:
            drops["missing time"] += 1
        elif event["time"] is None:
            drops["unparsable time"] += 1
        elif not 1900 <= datetime.datetime.fromtimestamp(event["time"], UTC).year <= 2200:
            drops["time out of range"] += 1
        elif tuple(event.values()) in seen:
            drops["exact duplicate"] += 1
        else:
            seen.add(tuple(event.values()))
            kept.append(event | {"repairs": repairs})
    while True:
        before = len(kept)
        for name, few in zip(("user", "item"), least, strict=True):
            count = Counter(e[name] for e in kept)
            left = [e for e in kept if count[e[name]] >= few]
            drops[f"{name} below the minimum count"] += len(kept) - len(left)
            kept = left
        if len(kept) == before:
            break
    for name in ("kind", "stars"):
        for e in kept:
            same = [o[name] for o in kept if o["item"] == e["item"] and o[name] is not None]
            e["item " + name] = same[0] if same else None
    repairs = Counter(cause for e in kept for cause in e["repairs"])
    return sorted(kept, key=lambda e: (e["user"], e["time"])), drops, repairs


TIMES = [
    "2012-04-03T18:00:09Z",
    "2012-04-03 18:00:09",
    "2012-04-03T18:00:09.25+00:00",
    "2012-04-03T14:00:09-04:00",
    "2012-04-04",
    "1969-12-31T23:59:59.5Z",
    "2012-02-30T00:00:00Z",
    "soon",
    "",
    "Unknown",
    "1833-01-01T00:00:00Z",
]
NUMBERS = ["1.5", "-2", "-1.0", "-1", "", "nan", "inf", "x", "40.5", "91", "181", "0"]
ROW = st.tuples(
    st.sampled_from(["u", "007", "7", " u", 'q"q', "é", "", "Unknown"]),
    st.sampled_from(["i", "j,k", "", "-1"]),
    st.sampled_from(TIMES),
    st.sampled_from(NUMBERS),
    st.sampled_from(NUMBERS),
    st.sampled_from(["phone", "tv", ""]),
    st.sampled_from(NUMBERS),
    st.sampled_from(["bar", "Unknown", "café"]),
    st.sampled_from(NUMBERS),
    st.sampled_from(["a", "b"]),
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=23), least=st.tuples(st.integers(1, 2), st.integers(1, 3)))
def test_equals_a_plain_reference(tmp_path_factory, rows, least):
    good = ("u", "i", TIMES[0], "1", "2", "tv", "3", "bar", "4", "a")
    rows = [*rows, good, (*good[:2], "2013-01-01", *good[3:]), (*good[:2], "2014-01-01", *good[3:])]
    expected, drops, repairs = reference(rows, least)
    out = tmp_path_factory.mktemp("prepare") / "store"
    store = prepare(frame(rows), COLUMNS, out, min_user_events=least[0], min_item_events=least[1])
    quality = store.quality

    assert {cause: n for cause, n in quality["dropped"].items() if n} == {c: n for c, n in drops.items() if n}
    assert {cause: n for cause, n in quality["repaired"].items() if n} == repairs
    assert quality["rows"]["read"] == len(rows)
    assert quality["rows"]["read"] == quality["rows"]["kept"] + sum(quality["dropped"].values())
    assert len(store) == len(expected)
    columns = store.columns
    for name in ("user", "item", "device", "split"):
        assert text_of(store, name, columns[name]) == [e[name] for e in expected]
    assert utc(store) == [math.floor(e["time"]) for e in expected]
    nowhere = (math.nan, math.nan)
    np.testing.assert_array_equal(
        columns["place"], np.float32([nowhere if e["place"] is None else e["place"] for e in expected])
    )
    prices = [math.nan if e["price"] is None else e["price"] for e in expected]
    np.testing.assert_array_equal(columns["price"], np.float32(prices))
    assert text_of(store, "kind", store.items["kind"][columns["item"]]) == [e["item kind"] for e in expected]
    stars = [math.nan if e["item stars"] is None else e["item stars"] for e in expected]
    np.testing.assert_array_equal(store.items["stars"][columns["item"]], np.float32(stars))


def test_schema_offsets_and_types(tmp_path):
    rows = [(f"u{n % 3}", f"i{n % 5}", f"2020-01-{n + 1:02}", "", "", "", "", "", "", "") for n in range(11)]
    store = prepare(frame(rows), COLUMNS, tmp_path / "s")
    assert (store.schema.users, store.schema.items) == (3 + FIRST, 5 + FIRST)
    assert store.schema.epoch == unix("2019-12-30T00:00:00+00:00")  # the Monday before
    assert [f.role for f in store.schema.fields] == ["event", "event", "item", "item", "meta"]
    assert store.schema["device"].size == FIRST
    assert store.offsets.tolist() == [0, 4, 8, 11]
    users = np.repeat(np.arange(3), np.diff(store.offsets)) + FIRST
    assert store.columns["user"].tolist() == users.tolist()
    types = {name: str(column.dtype) for name, column in store.columns.items()}
    expected = dict.fromkeys(("user", "item", "time", "device", "split"), "int32")
    assert types == expected | {"place": "float32", "price": "float32"}
    assert set(store.items) == {"place", "kind", "stars"}
    assert all(len(column) == store.schema.items for column in store.items.values())


# ---- files ----


def write(log: pl.DataFrame, path: Path) -> Path:
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        log.write_parquet(path)
        return path
    if kind in ("jsonl", "ndjson"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in log.to_dicts())
    else:
        text = log.write_csv(separator="," if kind == "csv" else "\t")
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


def test_all_kinds_of_files_give_one_store(tmp_path):
    rows = [
        (
            f"0{n % 3}",
            f'v "{n % 5}", é\t',
            f"2020-01-{n + 1:02}T00:00:00Z",
            "1.25",
            "-2.5",
            None,
            "7",
            "k",
            "5.5",
        )
        for n in range(13)
    ]
    log = frame(rows, HEADER[:-1])
    columns = LogColumns(
        latitude="lat",
        longitude="lon",
        categorical=("device",),
        numeric=("price",),
        item_categorical=("kind",),
    )
    expected = prepare(log, columns, tmp_path / "frame")
    assert expected.vocabulary("user").to_list() == ["00", "01", "02"]
    assert expected.vocabulary("item")[0] == 'v "0", é\t'
    for kind in ("csv", "csv.gz", "tsv", "tsv.gz", "parquet", "jsonl", "jsonl.gz", "ndjson"):
        path = write(log, tmp_path / f"log.{kind}")
        store = prepare([path], columns, tmp_path / f"from-{kind}")
        assert store.fingerprint == expected.fingerprint, kind
    parts = [write(log[:6], tmp_path / "one.csv"), write(log[6:], tmp_path / "two.jsonl")]
    assert prepare(parts, columns, tmp_path / "both").fingerprint == expected.fingerprint


def test_csv_as_other_programs_write_it(tmp_path):
    path = tmp_path / "log[1].csv"  # a bracket is no pattern
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # byte order mark, \r\n
        writer = csv.writer(file)
        writer.writerows(
            [("time", "ignored", "user", "item"), ("1", "x", "a\nb", "007"), ("2", "", "c", " 7")]
        )
    store = prepare([path], LogColumns(), tmp_path / "s")
    assert store.vocabulary("user").to_list() == ["a\nb", "c"]
    assert store.vocabulary("item").to_list() == [" 7", "007"]


def test_typed_columns_keep_their_text(tmp_path):
    log = pl.DataFrame({"user": [10, 9], "item": [True, False], "time": [5, 6], "scene": [1, None]})
    store = prepare(log, LogColumns(categorical=("scene",)), tmp_path / "s")
    assert store.vocabulary("user").to_list() == ["10", "9"]
    assert store.vocabulary("item").to_list() == ["false", "true"]
    assert store.columns["scene"].tolist() == [FIRST, 0]
    with pytest.raises(ValueError, match="'user' is List"):
        prepare(log.with_columns(user=pl.lit([1])), LogColumns(), tmp_path / "t")
    gap = log.with_columns(user=pl.Series([10.0, math.nan]))  # as pandas keeps a missing id among integers
    store = prepare(gap, LogColumns(), tmp_path / "gap")
    assert store.vocabulary("user").to_list() == ["10.0"] and store.quality["dropped"]["missing user"] == 1


def test_lists_of_json_lines_are_those_of_parquet(tmp_path):
    log = [{"user": 1, "item": n, "time": n} for n in range(3)]
    items = [
        {"item": 0, "tags": ["a|b", "c"], "form": [1, 0.5], "ignored": {"k": []}},
        {"item": 1, "tags": [], "form": None, "ignored": "text"},
        {"item": 2, "tags": ["c"], "form": [2, 3]},
    ]
    for name, rows in (("log", log), ("items", items)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = LogColumns(item_multi=("tags",), item_vector=("form",))
    store = prepare([tmp_path / "log.jsonl"], columns, tmp_path / "s", items=tmp_path / "items.jsonl")
    assert store.vocabulary("tags").to_list() == ["a|b", "c"]
    assert store.items["tags"][FIRST:].tolist() == [[2, 3], [0, 0], [3, 0]]
    np.testing.assert_array_equal(store.items["form"][FIRST:], [[1, 0.5], [math.nan] * 2, [2, 3]])


# ---- order, vocabularies, counts ----


def test_ties_stay_in_the_order_of_the_log(tmp_path):
    random_ = random.Random(3)
    rows = [(f"u{random_.randrange(5)}", f"i{n}", str(random_.randrange(7))) for n in range(97)]
    store = prepare(frame(rows, HEADER[:3]), LogColumns(), tmp_path / "s")
    expected = [row[1] for row in sorted(rows, key=lambda row: (row[0], int(row[2])))]
    assert text_of(store, "item", store.columns["item"]) == expected
    ordered = sorted((row[0], int(row[2])) for row in rows)
    assert store.quality["ties"] == sum(a == b for a, b in itertools.pairwise(ordered))


def test_hashed_ties_forget_the_order_of_the_log(tmp_path):
    """Within a user and second: an order that seed, user and item alone decide."""
    random_ = random.Random(3)
    rows = [(f"u{random_.randrange(5)}", f"i{random_.randrange(31):02}", str(k // 19)) for k in range(97)]
    log = frame(sorted(set(rows)), HEADER[:3])  # within ties in the order of items

    def prepared(name, log, **settings):
        store = prepare(log, LogColumns(), tmp_path / name, **settings)
        columns = (text_of(store, name, store.columns[name]) for name in ("user", "item"))
        return store, list(zip(*columns, utc(store), strict=True))

    by_log, plain = prepared("log", log)
    hashed, one = prepared("hash", log, ties="hash")
    assert by_log.quality["tie order"] == {"rule": "the log's order", "rows moved": 0}
    assert hashed.quality["tie order"]["rule"] == "hash of seed 0, user and item"
    moved = sum(a != b for a, b in zip(plain, one, strict=True))
    assert hashed.quality["tie order"]["rows moved"] == moved > len(one) // 2
    assert sorted(one) == sorted(plain)
    assert [(user, time) for user, _, time in one] == [(user, time) for user, _, time in plain]
    assert hashed.quality["ties"] == by_log.quality["ties"]

    shuffled, _ = prepared("shuffled", log.sample(fraction=1, shuffle=True, seed=1), ties="hash")
    assert shuffled.fingerprint == hashed.fingerprint != by_log.fingerprint
    _, other = prepared("seed", log, ties="hash", tie_seed=1)
    assert other != one and sorted(other) == sorted(one)
    # A row more or less leaves the order of the others as it is.
    _, fewer = prepared("fewer", log[1:], ties="hash")
    assert fewer == [row for row in one if row != (*log.row(0)[:2], int(log.row(0)[2]))]


def test_hashed_ties_are_as_likely_in_either_order_and_not_the_same_for_all_users(tmp_path):
    users = 401
    log = frame([(f"u{u:03}", item, "7") for u in range(users) for item in ("i0", "i1")], HEADER[:3])
    store = prepare(log, LogColumns(), tmp_path / "s", ties="hash")
    first = store.columns["item"][::2]
    assert abs(int((first == FIRST).sum()) - users / 2) < 4 * (users / 4) ** 0.5


def test_hashed_ties_drop_the_same_duplicates_and_refuse_other_rules(tmp_path):
    log = simple([5, 5, 5, 6]).with_columns(item=pl.Series(["b", "a", "b", "a"]))
    one, two = (prepare(log, LogColumns(), tmp_path / ties, ties=ties) for ties in ("log", "hash"))
    assert one.quality["dropped"] == two.quality["dropped"]
    assert one.quality["examples"] == two.quality["examples"]
    distinct = simple([5, 6, 7])
    one, two = (prepare(distinct, LogColumns(), tmp_path / f"d{ties}", ties=ties) for ties in ("log", "hash"))
    assert one.fingerprint == two.fingerprint
    assert two.quality["tie order"]["rows moved"] == 0
    with pytest.raises(LogError, match="ties='file': choose 'log' or 'hash'"):
        prepare(log, LogColumns(), tmp_path / "no", ties="file")


def test_the_order_of_the_log_does_not_matter_without_ties(tmp_path):
    log = frame([(f"u{n % 5}", f"i{n % 7}", str(n)) for n in range(89)], HEADER[:3])
    one = prepare(log, LogColumns(), tmp_path / "s")
    two = prepare(log.sample(fraction=1, shuffle=True, seed=1), LogColumns(), tmp_path / "t")
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize("scale", [1, 1000, 1_000_000, 10**12, 10**16])
def test_in_order_with_short_and_long_keys(scale):
    random_ = np.random.default_rng(0)
    user = random_.integers(1, 2**20, 101).astype(np.int32) // 2**17 * 2**11 + 1
    time = random_.integers(-5, 5, 101) * scale + random_.integers(0, 2, 101)
    rows = np.sort(random_.permutation(101)[:83])
    expected = sorted(rows.tolist(), key=lambda row: (user[row], time[row]))
    assert in_order(user, time, rows).tolist() == expected


def test_a_chain_falls_to_the_fixed_point():
    # user k has items k and k+1: the one end that is short takes all of it, one per round
    user = np.repeat(np.arange(1, 12), 2).astype(np.int32)
    item = np.stack([np.arange(11), np.arange(11) + 1], 1).ravel().astype(np.int32)
    causes = below_minimum(user, item, 2, 2)
    assert sum(map(len, causes.values())) == 22
    # a ring holds: everyone has two
    item = np.where(item == 11, 0, item)
    assert sum(map(len, below_minimum(user, item, 2, 2).values())) == 0


def test_first_value_of_each_item():
    ids = np.array([2, 3, 2, 3, 4])
    place = np.float32([[np.nan, 1], [5, 6], [3, 4], [7, 8], [np.nan, np.nan]])
    nan = [np.nan, np.nan]
    np.testing.assert_array_equal(first_of_each(ids, place, 5), [nan, nan, [3, 4], [5, 6], nan])
    assert first_of_each(ids, np.int32([0, 9, 8, 7, 0]), 5).tolist() == [0, 0, 8, 9, 0]


def test_item_fields_that_disagree_are_counted(tmp_path):
    log = pl.DataFrame(
        {
            "user": list("abcd"),
            "item": list("xxyy"),
            "time": [4, 3, 2, 1],
            "kind": ["one", "two", None, "two"],
            "lat": [1.0, 3.0, 2.0, None],
            "lon": [5.0, 5.0, 5.0, None],
        }
    )
    columns = LogColumns(item_categorical=("kind",), latitude="lat", longitude="lon")
    store = prepare(log, columns, tmp_path / "s")
    assert store.quality["items with several values"] == {"place": 1, "kind": 1}
    assert text_of(store, "kind", store.items["kind"]) == [None, None, "one", "two"]


def test_duplicates_can_be_kept(tmp_path):
    log = simple([5, 5, 6])
    assert len(prepare(log, LogColumns(), tmp_path / "s")) == 2
    assert len(prepare(log, LogColumns(), tmp_path / "t", keep_duplicates=True)) == 3


def test_threads_do_not_change_the_store(tmp_path):
    count = 300_007  # several chunks of work for polars
    n = np.arange(count)
    log = pl.DataFrame({"user": n * 7919 % 5003, "item": n * 104729 % 997, "time": n // 3, "scene": n % 11})
    log.cast(pl.String).write_csv(tmp_path / "log.csv")
    code = (
        "import sys; from stjax.data.prepare import prepare; from stjax.data.log import LogColumns;"
        "print(prepare(sys.argv[1:2], LogColumns(categorical=('scene',)), sys.argv[2]).fingerprint)"
    )
    prints = set()
    for threads in ("1", "3"):
        command = [sys.executable, "-c", code, str(tmp_path / "log.csv"), str(tmp_path / threads)]
        done = subprocess.run(
            command,
            env=os.environ | {"POLARS_MAX_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        )
        prints.add(done.stdout)
    assert len(prints) == 1


def test_real_check_ins(tmp_path):
    data = Path(os.environ.get("STJAX_DATA") or Path(__file__).parents[1] / ".." / "shared" / "data")
    log = data / "foursquare_nyc" / "checkins.csv.gz"
    if not log.is_file():
        pytest.skip(f"{log} is not here: set STJAX_DATA")
    columns = LogColumns(
        user="user_id",
        item="venue_id",
        time="utc_time",
        utc_offset="tz_offset_min",
        utc_offset_unit="minutes",
        latitude="lat",
        longitude="lon",
        item_categorical=("category",),
    )
    store = prepare([log], columns, tmp_path / "s")
    quality = store.quality
    assert (quality["users"], quality["items"], quality["rows"]["read"]) == (1083, 5135, 147_938)
    assert quality["rows"]["read"] == quality["rows"]["kept"] + sum(quality["dropped"].values())
    assert quality["time"]["first"].startswith("2012-04-03")
    assert set(np.unique(store.columns["utc_offset"]) // 3600) <= {-5, -4, *range(-12, 15)}
    place = store.columns["place"]
    assert ((place[:, 0] > 40) & (place[:, 0] < 42) & (place[:, 1] > -75) & (place[:, 1] < -73)).all()
