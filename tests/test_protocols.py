"""Protocols against plain-Python references on random small logs."""

from __future__ import annotations

import itertools
import os
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

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
from tests.stores import EPOCH, make_store

SEEDS = range(13)


def random_log(seed: int) -> dict[str, list]:
    """A log of up to 97 events in random order, with ties in time and users of any length."""
    rng = random.Random(seed)
    n = rng.randint(1, 97)
    users, span = rng.randint(1, 11), rng.choice([1, 7, 1009])
    return {
        "users": [f"u{rng.randrange(users)}" for _ in range(n)],
        "items": [f"i{rng.randrange(23)}" for _ in range(n)],
        "times": [rng.randrange(span) for _ in range(n)],
        "split": [rng.choice(["train", "train", "val", "test", None]) for _ in range(n)],
        "trajectory": [rng.choice(["a", "b", "c", "d", None]) for _ in range(n)],
    }


def open_log(path: Path, log: dict[str, list]):
    """The log's store, and per user the log's indices in the order of the store's rows."""
    meta = {name: log[name] for name in ("split", "trajectory")}
    store = make_store(path / "store", log["users"], log["items"], log["times"], meta=meta)
    by_user = defaultdict(list)
    for k in sorted(range(len(log["users"])), key=lambda k: log["times"][k]):
        by_user[log["users"][k]].append(k)
    order = [k for user in dict.fromkeys(log["users"]) for k in by_user[user]]
    assert [log["items"][k] for k in order] == [
        store.vocabulary("item")[int(i) - 2] for i in store.columns["item"]
    ]
    return store, by_user, order


@pytest.mark.parametrize("seed", SEEDS)
def test_leave_one_out(tmp_path, seed):
    log = random_log(seed)
    store, by_user, order = open_log(tmp_path, log)
    expected = {}
    for rows in by_user.values():
        for back, k in enumerate(reversed(rows)):
            expected[k] = TRAIN if len(rows) < 3 else {0: TEST, 1: VALID}.get(back, TRAIN)
    split = LeaveOneOut()(store)
    assert split.label.dtype == np.int8
    assert split.label.tolist() == [expected[k] for k in order]
    assert split.notes["users_held_out"] == sum(len(rows) >= 3 for rows in by_user.values())
    assert split.notes["train_rows"] == sum(v == TRAIN for v in expected.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_global_temporal(tmp_path, seed):
    log = random_log(seed)
    store, by_user, order = open_log(tmp_path, log)
    n, times = len(order), sorted(log["times"])
    in_test, in_valid = max(1, round(n * 0.2)), max(1, round(n * 0.3))
    test_from = times[n - in_test]
    valid_from = times[max(0, n - in_test - in_valid)]
    expected = {}
    for rows in by_user.values():
        for place, k in enumerate(rows):
            time = log["times"][k]
            part = TEST if time >= test_from else VALID if time >= valid_from else TRAIN
            expected[k] = HISTORY if part != TRAIN and place == 0 else part
    split = GlobalTemporal(valid=0.3, test=0.2)(store)
    assert split.label.tolist() == [expected[k] for k in order]
    firsts = sum(v == HISTORY for v in expected.values())
    assert split.notes["first_events_not_targets"] == firsts


def test_global_temporal_notes_boundary_times_and_keeps_ties_together(tmp_path):
    times = [0, 1, 2, 3, 4, 5, 6, 7, 7, 7]
    store = make_store(tmp_path / "s", ["u"] * 10, list(range(10)), times)
    split = GlobalTemporal(valid=0.2, test=0.1)(store)
    assert split.label.tolist() == [TRAIN] * 7 + [TEST] * 3  # both boundaries fall on time 7
    assert EPOCH == 4 * 86400  # a store's time 7 is seven seconds after Monday 1970-01-05
    assert split.notes["test_from"] == "1970-01-05T00:00:07+00:00"
    assert split.notes["valid_from"] == split.notes["test_from"]


@pytest.mark.parametrize(
    ("valid", "test"), [(0, 0.1), (0.1, 0), (1, 0.1), (0.1, 1.5), (-0.1, 0.1), (float("nan"), 0.1)]
)
def test_fractions_out_of_range(valid, test):
    with pytest.raises(ProtocolError, match="between 0 and 1"):
        GlobalTemporal(valid=valid, test=test)


def test_random_split_reads_training_alone_whatever_the_order(tmp_path):
    store = make_store(tmp_path / "store", [f"u{k % 7}" for k in range(211)], range(211), [0] * 211)
    split = RandomSplit(valid=0.2, test=0.1, seed=3)(store)
    assert [int((split.label == part).sum()) for part in (TRAIN, VALID, TEST)] == [148, 42, 21]
    assert not split.ordered
    np.testing.assert_array_equal(RandomSplit(0.2, 0.1, 3)(store).label, split.label)
    other = RandomSplit(0.2, 0.1, 4)(store).label
    assert (other != split.label).mean() > 0.2
    # Every part is spread over the whole log: it is no run of neighbouring rows.
    assert np.corrcoef(np.arange(211), split.label)[0, 1] < 0.2


def test_fractions_that_leave_no_training():
    with pytest.raises(ProtocolError, match=r"valid=0\.5 and test=0\.5.*sum below 1"):
        GlobalTemporal(valid=0.5, test=0.5)


@pytest.mark.parametrize("shortest", [2, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_trajectory_last(tmp_path, seed, shortest):
    log = random_log(seed)
    store, by_user, order = open_log(tmp_path, log)
    trains = [k for k in order if log["split"][k] == "train"]
    items, users = {log["items"][k] for k in trains}, {log["users"][k] for k in trains}
    expected = {k: TRAIN if k in set(trains) else HISTORY for k in order}
    short = {"val": 0, "test": 0}
    for user, rows in by_user.items():
        for word, code in (("val", VALID), ("test", TEST)):
            trajectories = defaultdict(list)
            for k in rows:
                known = log["items"][k] in items and user in users
                if log["split"][k] == word and known and log["trajectory"][k] is not None:
                    trajectories[log["trajectory"][k]].append(k)
            for members in trajectories.values():
                if len(members) >= shortest:
                    expected[members[-1]] = code
                short[word] += len(members) < shortest
    split = TrajectoryLast(shortest=shortest)(store)
    assert split.label.tolist() == [expected[k] for k in order]
    notes = split.notes
    assert notes["valid_trajectories_too_short"] == short["val"]
    assert notes["test_trajectories_too_short"] == short["test"]
    assert notes["rows_without_split"] == log["split"].count(None)
    held = [k for k in order if log["split"][k] == "val"]
    causes = ("set_aside_unseen_item", "set_aside_unseen_user", "rows_without_trajectory")
    set_aside = sum(int(notes[f"valid_{cause}"]) for cause in causes)
    dropped = [
        k
        for k in held
        if log["items"][k] not in items or log["users"][k] not in users or log["trajectory"][k] is None
    ]
    assert notes["valid_rows"] == len(held)
    assert set_aside == len(dropped)


@pytest.mark.parametrize(
    "protocol", [LeaveOneOut(), GlobalTemporal(), TrajectoryLast(), NextInTrip("trajectory")]
)
def test_every_target_has_an_earlier_event_and_sizes_add_up(tmp_path, protocol):
    store, _, _ = open_log(tmp_path, random_log(3))
    split = protocol(store)
    starts = set(store.offsets[:-1].tolist())
    targets = itertools.chain(split.targets(VALID), split.targets(TEST))
    assert not starts & {int(row) for row in targets}
    sizes = ("train_rows", "valid_targets", "test_targets", "history_rows")
    assert sum(split.notes[name] for name in sizes) == len(store)
    assert split.name == protocol.name


@pytest.mark.parametrize("seed", SEEDS)
def test_next_in_trip(tmp_path, seed):
    log = random_log(seed)
    store, by_user, order = open_log(tmp_path, log)
    trips = defaultdict(list)
    for user, rows in by_user.items():
        for k in rows:
            if log["trajectory"][k] is not None:
                trips[user, log["trajectory"][k]].append(k)
    protocol = NextInTrip("trajectory", valid=0.3, test=0.2)
    if not trips:
        with pytest.raises(ProtocolError, match="no row has a 'trajectory'"):
            protocol(store)
        return
    starts = sorted(log["times"][rows[0]] for rows in trips.values())
    in_test, in_valid = max(1, round(len(starts) * 0.2)), max(1, round(len(starts) * 0.3))
    test_from = starts[len(starts) - in_test]
    valid_from = starts[max(0, len(starts) - in_test - in_valid)]

    def part(time: int) -> int:
        return TEST if time >= test_from else VALID if time >= valid_from else TRAIN

    expected = {k: HISTORY if part(log["times"][k]) else TRAIN for k in order}
    for rows in trips.values():
        for place, k in enumerate(rows):
            own = part(log["times"][rows[0]])
            opens = place == 0 and own != TRAIN
            expected[k] = own if own == part(log["times"][k]) and not opens else HISTORY
    split = protocol(store)
    assert split.label.tolist() == [expected[k] for k in order]
    assert split.notes["trips"] == len(trips)
    assert split.notes["rows_without_trip"] == log["trajectory"].count(None)
    # nothing that trains is later than a target, nor is a validation target later than one of the test
    times = {word: [log["times"][k] for k in order if expected[k] == word] for word in (TRAIN, VALID, TEST)}
    for earlier, later in ((TRAIN, VALID), (TRAIN, TEST), (VALID, TEST)):
        assert not times[earlier] or not times[later] or max(times[earlier]) < min(times[later])


def test_a_trip_that_passes_a_boundary_is_only_read_from_there_on(tmp_path):
    """User u's first trip goes on while w's, the first of the validation part, has begun."""
    users, trips = list("uuuuwwwvvzz"), list("aaabccceeff")
    times = [1, 2, 11, 30, 10, 11, 12, 20, 21, 3, 4]
    store = make_store(tmp_path / "s", users, list("pqrpqrpqrpq"), times, meta={"trip": trips})
    split = NextInTrip(valid=0.2, test=0.4)(store)
    u = [TRAIN, TRAIN, HISTORY, HISTORY]
    assert split.label.tolist() == [*u, HISTORY, VALID, VALID, HISTORY, TEST, TRAIN, TRAIN]
    assert split.notes["rows_past_a_boundary"] == 1
    assert split.notes["valid_from"] == "1970-01-05T00:00:10+00:00"
    with pytest.raises(ProtocolError, match=r"NextInTrip valid=0\.5 and test=0\.5.*sum below 1"):
        NextInTrip(valid=0.5, test=0.5)
    with pytest.raises(ProtocolError, match=r"'journey', only \['trip'\], and NextInTrip"):
        NextInTrip("journey")(store)


def test_a_trajectory_of_one_has_nothing_to_read():
    with pytest.raises(ProtocolError, match="shortest=1: choose 2 or more"):
        TrajectoryLast(shortest=1)


NYC = Path(os.environ.get("STJAX_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.mark.skipif(
    not (NYC / "foursquare_nyc").is_dir(), reason="set STJAX_DATA to the folder with foursquare_nyc"
)
def test_trajectory_last_on_new_york(tmp_path):
    columns = ["user_id", "POI_id", "UTC_time", "trajectory_id"]
    parts = [
        pl.read_csv(NYC / "foursquare_nyc" / f"{word}.csv.gz", infer_schema=False)
        .select(columns)
        .with_columns(split=pl.lit(word))
        for word in ("train", "val", "test")
    ]
    log = pl.concat(parts)
    times = log["UTC_time"].str.to_datetime("%Y-%m-%d %H:%M:%S%z").dt.epoch("s") - EPOCH
    meta = {"trajectory": log["trajectory_id"].to_list(), "split": log["split"].to_list()}
    users, items = log["user_id"].to_list(), log["POI_id"].to_list()
    store = make_store(tmp_path / "nyc", users, items, times.to_list(), meta=meta)
    notes = TrajectoryLast(shortest=3)(store).notes
    # counted with a data frame's filters and groups, apart from this package
    assert (notes["valid_targets"], notes["test_targets"]) == (1402, 1355)
    assert (notes["train_rows"], notes["valid_rows"], notes["test_rows"]) == (84298, 10339, 10374)


def test_missing_meta_column_names_the_column_and_the_remedy(tmp_path):
    store = make_store(tmp_path / "s", ["u", "u"], ["a", "b"], [1, 2], meta={"run": ["r", "s"]})
    with pytest.raises(ProtocolError, match=r"'trajectory', only \['run'\].*meta field"):
        TrajectoryLast()(store)
    with pytest.raises(ProtocolError, match="'part'"):
        TrajectoryLast(trajectory="run", split="part")(store)


def test_unknown_word_in_the_split_column(tmp_path):
    meta = {"split": ["train", "dev"], "trajectory": ["a", "a"]}
    store = make_store(tmp_path / "s", ["u", "u"], ["a", "b"], [1, 2], meta=meta)
    with pytest.raises(ProtocolError, match=r"\['dev'\].*validation"):
        TrajectoryLast()(store)


def test_an_item_field_is_not_a_trajectory(tmp_path):
    fields = {"split": {"a": "train", "b": "test"}}
    store = make_store(tmp_path / "s", ["u", "u"], ["a", "b"], [1, 2], item=fields)
    with pytest.raises(ProtocolError, match="'split'"):
        TrajectoryLast(trajectory="split")(store)
    store = make_store(tmp_path / "t", ["u", "u"], ["a", "b"], [1, 2], user={"split": {"u": "train"}})
    with pytest.raises(ProtocolError, match="'split'"):
        NextInTrip("split")(store)
