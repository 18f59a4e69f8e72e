"""Attributes of items and users, in the log or in tables beside it: against plain Python, and bad tables."""

from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest

from stjax.data.__main__ import main
from stjax.data.dataset import Dataset
from stjax.data.log import LogColumns, LogError
from stjax.data.prepare import prepare
from stjax.data.protocols import HISTORY, TEST, TRAIN, Split
from stjax.data.side import TableFile
from stjax.data.sources import LogFiles
from stjax.data.store import EventStore, StoreError
from stjax.events import FIRST, MISSING, UNSEEN, Field
from tests.logs import text_of
from tests.stores import make_store

COLUMNS = LogColumns(
    item_categorical=("kind",),
    item_multi=("genres",),
    user_categorical=("gender",),
    user_numeric=("age",),
    user_multi=("hobbies",),
    missing=("-1", "none"),
    multi_width=3,
)
CELLS = ["a", " a", "a|b", "b|a", "b| a |b", "|", "none", "", "none|c", "c|-1|d", "d|c|b|a", "d|c|b|a|d"]


def values(cell: str) -> list[str]:
    words = [w.strip() for w in cell.split("|")]
    return list(dict.fromkeys(w for w in words if w not in ("", "-1", "none")))


def random_log(seed: int, rows: int = 211) -> pl.DataFrame:
    rng = random.Random(seed)
    return pl.DataFrame(
        {
            "user": [f"u{rng.randrange(23)}" for _ in range(rows)],
            "item": [f"i{rng.randrange(31)}" for _ in range(rows)],
            "time": [rng.randrange(9973) for _ in range(rows)],
            "kind": [rng.choice(["", "k1", "k2"]) for _ in range(rows)],
            "genres": [rng.choice(CELLS) for _ in range(rows)],
            "gender": [rng.choice(["F", "M", "-1"]) for _ in range(rows)],
            "age": [rng.choice(["33", "", "-1", "x", "7.5"]) for _ in range(rows)],
            "hobbies": [rng.choice(CELLS) for _ in range(rows)],
        }
    )


def several(store: EventStore, name: str, role: str) -> dict[str, list[str]]:
    """Text of a field with several values, by the text of the id."""
    rows = (store.items if role == "item" else store.user_fields)[name]
    out = {}
    for who, ids in zip(store.vocabulary(role), rows[FIRST:], strict=True):
        known = ids[ids != MISSING]
        assert (ids[: len(known)] == known).all()  # filled up at the end
        out[who] = text_of(store, name, known)
    return out


@pytest.mark.parametrize("seed", range(3))
def test_a_log_agrees_with_plain_python(tmp_path, seed):
    log = random_log(seed)
    store = prepare(log, COLUMNS, tmp_path / "s")
    first: dict = {}
    given: dict = {}
    distinct = list(dict.fromkeys(r[:4] + tuple(map(str, r[4:])) for r in log.iter_rows()))
    for row in distinct:
        r = dict(zip(log.columns, row, strict=True))
        for role, name in (("item", "genres"), ("user", "hobbies")):
            if found := tuple(values(r[name])[:3]):
                first.setdefault((name, r[role]), list(found))
                given.setdefault((name, r[role]), set()).add(found)
        if r["gender"] != "-1":
            first.setdefault(("gender", r["user"]), r["gender"])
        if r["age"] in ("33", "7.5"):
            first.setdefault(("age", r["user"]), float(r["age"]))
    for role, name in (("item", "genres"), ("user", "hobbies")):
        assert several(store, name, role) == {k: first.get((name, k), []) for k in store.vocabulary(role)}
        counted = store.quality[f"{role}s with several values"][name]
        assert counted == sum(len(found) > 1 for (n, _), found in given.items() if n == name) > 0
        f = store.schema[name]
        words = {w for (n, _), found in first.items() if n == name for w in found}
        assert (f.kind, f.role, f.size, f.width) == ("multi", role, len(words) + FIRST, 3)
        assert store.vocabulary(name).to_list() == sorted(words)
    users = store.vocabulary("user")
    genders = text_of(store, "gender", store.user_fields["gender"][FIRST:])
    assert genders == [first.get(("gender", u)) for u in users]
    ages = np.array([first.get(("age", u), np.nan) for u in users], np.float32)
    np.testing.assert_array_equal(store.user_fields["age"][FIRST:], ages)
    assert store.quality["repaired"]["age: not a number"] > 0
    cut = store.quality["repaired"]["genres: more than 3 values (the first are kept)"]
    assert 0 < cut <= sum(len(values(cell)) > 3 for cell in log["genres"])
    assert store.quality["missing"]["users"]["age"] == pytest.approx(np.isnan(ages).mean())


def tables(log: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The same log with one value an id, as a log, a table of items and a table of users."""
    items = log.group_by("item", maintain_order=True).agg(pl.first("kind", "genres"))
    users = log.group_by("user", maintain_order=True).agg(pl.first("gender", "age", "hobbies"))
    return log.select("user", "item", "time"), items, users


@pytest.mark.parametrize("kind", ["frame", "csv", "parquet"])
def test_tables_give_the_store_of_the_joined_log(tmp_path, kind):
    log, items, users = tables(random_log(1))
    joined = log.join(items, on="item", maintain_order="left").join(users, on="user", maintain_order="left")
    extra = pl.DataFrame({"item": ["i999", "", None], "kind": ["k3"] * 3, "genres": ["z"] * 3})
    items = pl.concat([items.sample(fraction=1, shuffle=True, seed=2), extra])
    sides: dict[str, TableFile] = {"items": items, "users": users}
    if kind == "csv":
        for name, table in (("items", items), ("users", users)):
            table.write_csv(tmp_path / f"{name}.csv")
            sides[name] = tmp_path / f"{name}.csv"
    if kind == "parquet":  # lists instead of texts
        lists = pl.col("genres").str.split("|")
        items.with_columns(lists).write_parquet(tmp_path / "items.parquet")
        sides["items"] = tmp_path / "items.parquet"
    one = prepare(joined, COLUMNS, tmp_path / "one")
    two = prepare(log, COLUMNS, tmp_path / "two", items=sides["items"], users=sides["users"])
    assert one.fingerprint == two.fingerprint
    assert one.schema == two.schema
    known, all_users = one.schema.items - FIRST, one.schema.users - FIRST
    assert two.quality["tables"]["item"] == {
        "rows": known + 3,
        "rows without an id": 2,
        "rows left out: no events": 1,
        "ids of the log without a row": 0,
        "genres: more than 3 values (the first are kept)": sum(len(values(g)) > 3 for g in items["genres"]),
    }
    assert two.quality["tables"]["user"]["rows"] == all_users


def test_a_table_may_give_some_fields_and_the_log_the_others(tmp_path):
    log = random_log(2).select("user", "item", "time", "kind")
    table = pl.DataFrame({"item": ["i3", "i4", "i3"], "stars": [4.5, None, 2.0], "kind2": ["x", "y", "z"]})
    columns = LogColumns(item_categorical=("kind",), item_numeric=("stars",))
    store = prepare(log, columns, tmp_path / "s", items=table)
    names = store.vocabulary("item").to_list()
    stars = store.items["stars"]
    assert stars[names.index("i3") + FIRST] == 4.5
    assert np.isfinite(stars).sum() == 1
    assert store.quality["items with several values"]["stars"] == 1
    assert (store.items["kind"] != MISSING).sum() > 20
    assert store.quality["tables"]["item"]["ids of the log without a row"] == len(names) - 2


def test_vectors_of_a_table(tmp_path):
    log = random_log(3).select("user", "item", "time")
    rows = [[1.0, 2.0, 3.0], [4.0, 5.0], None, [1.0, None, 3.0], [0.0, np.inf, 1.0], [-1.0, 0.0, 1e-3]]
    table = pl.DataFrame({"item": [f"i{k}" for k in range(6)], "look": rows})
    table.write_parquet(tmp_path / "t.parquet")
    columns = LogColumns(item_vector=("look",), user_vector=("face",))
    faces = pl.DataFrame({"user": ["u1", "u2"], "face": np.ones((2, 2), np.float32)})
    store = prepare(log, columns, tmp_path / "s", items=tmp_path / "t.parquet", users=faces)
    names = store.vocabulary("item").to_list()
    look = store.items["look"][[names.index(f"i{k}") + FIRST for k in range(6)]]
    bad = [np.nan] * 3
    expected = np.array([rows[0], bad, bad, bad, bad, rows[5]], np.float32)
    np.testing.assert_array_equal(look, expected)
    assert store.quality["tables"]["item"]["look: not a vector of the common length"] == 3  # null is silence
    assert store.schema["look"] == Field("look", "vector", "item", 3)
    assert store.schema["face"].size == 2
    catalogue = Dataset(store, Split(np.zeros(len(store), np.int8), "all", {})).catalogue
    assert catalogue.users.vector["face"].shape == (store.schema.users, 2)
    assert np.isfinite(catalogue.users.vector["face"]).all(axis=1).sum() == 2


BAD = {
    "no field": ({"item": ["i1"], "other": ["x"]}, "none of the item fields"),
    "no ids": ({"genres": ["x"]}, "no column 'item'"),
    "other ids": ({"item": ["1"], "genres": ["x"]}, "ids must be written alike"),
    "empty": ({"item": [], "genres": []}, "is empty"),
    "nested ids": ({"item": [["i1"]], "genres": ["x"]}, "ids must be plain"),
    "text as vector": ({"item": ["i1"], "genres": ["x"], "look": ["1 2"]}, "lists of numbers"),
    "no vector": ({"item": ["i1"], "genres": ["x"], "look": [None]}, "must be lists|holds no vector"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_one_message(tmp_path, case):
    table, message = BAD[case]
    columns = LogColumns(item_multi=("genres",), item_vector=("look",) if "look" in table else ())
    log = pl.DataFrame({"user": ["u"], "item": ["i1"], "time": [1]})
    with pytest.raises(LogError, match=message) as caught:
        prepare(log, columns, tmp_path / "s", items=pl.DataFrame(table))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_what_columns_refuse(tmp_path):
    log = random_log(0)
    with pytest.raises(LogError, match=r"vectors .*are in no table"):
        prepare(log, LogColumns(item_vector=("genres",)), tmp_path / "s")
    with pytest.raises(LogError, match="no column 'ages'"):
        prepare(log, LogColumns(user_numeric=("ages",)), tmp_path / "s")
    with pytest.raises(LogError, match="two roles"):
        LogColumns(item_multi=("tags",), user_multi=("tags",))
    with pytest.raises(LogError, match="separator is empty"):
        LogColumns(separator="")
    with pytest.raises(LogError, match="multi_width=0"):
        LogColumns(multi_width=0)


def test_strict_refuses_what_a_table_would_lose(tmp_path):
    log = pl.DataFrame({"user": ["u"], "item": ["i1"], "time": [1]})
    columns = LogColumns(item_multi=("genres",), item_numeric=("stars",), multi_width=2)
    table = pl.DataFrame({"item": ["i1", "i2", None], "genres": ["a|b|c", "a", "a"], "stars": ["1", "x", ""]})
    message = r"stars: not a number: 1 \(row 2\); genres: more than 2 values .*: 1 \(row 1\)"
    with pytest.raises(LogError, match=f"without an id: 1 \\(row 3\\); {message}"):
        prepare(log, columns, tmp_path / "s", items=table, strict=True)
    clean = table[:1].with_columns(genres=pl.lit("a|b"))
    assert len(prepare(log, columns, tmp_path / "s", items=clean, strict=True)) == 1


def test_command_line_and_source(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("STJAX_CACHE", str(tmp_path / "cache"))
    log, items, users = tables(random_log(4))
    for name, table in (("log", log), ("items", items), ("users", users)):
        table.write_csv(tmp_path / f"{name}.csv")
    names = {name: str(tmp_path / f"{name}.csv") for name in ("log", "items", "users")}
    flags = ["--items", names["items"], "--users", names["users"], "--item-multi", "genres"]
    flags += ["--user-numeric", "age", "--multi-width", "2", "--separator", "|", "--missing", "-1", "none"]
    assert main(["prepare", names["log"], "--out", str(tmp_path / "s"), *flags]) == 0
    store = EventStore.open(tmp_path / "s")
    assert store.items["genres"].shape == (store.schema.items, 2)
    told = capsys.readouterr().out
    assert "table of items: rows" in told and "users without age" in told
    assert main(["show", str(tmp_path / "s")]) == 0
    assert "up to 2 each" in capsys.readouterr().out
    columns = LogColumns(item_multi=("genres",), user_numeric=("age",), multi_width=2, missing=("-1", "none"))
    source = LogFiles((names["log"],), columns, items=names["items"], users=names["users"])
    assert source.open().fingerprint == store.fingerprint
    users.with_columns(age=pl.lit("5")).write_csv(names["users"])
    assert source.open().fingerprint != store.fingerprint  # the tables are part of the cache's key


def test_an_older_store_is_refused(tmp_path):
    store = prepare(random_log(0), COLUMNS, tmp_path / "s")
    file = store.path / "schema.json"
    file.write_text(file.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(StoreError, match="format 1, this version reads 2: prepare it again"):
        EventStore.open(store.path)


def test_a_dataset_knows_the_values_of_what_training_has_seen(tmp_path):
    """User 3 and item d are not in training; nor are the values that only they have."""
    store = make_store(
        tmp_path / "s",
        [1, 1, 2, 2, 3, 3],
        list("abacdb"),
        [1, 2, 3, 4, 5, 6],
        item={"tags": {"a": ("x", "y"), "b": ("z",), "d": ("w", "y")}},
        user={
            "gender": {1: "F", 3: "X"},
            "age": {1: 20.0, 2: 30.0, 3: 99.0},
            "hobbies": {2: ("golf", "tea"), 3: ("golf", "chess")},
            "face": {1: [0.5, 1.5], 3: [9.0, 9.0]},
        },
    )
    label = np.array([TRAIN, TRAIN, TRAIN, TRAIN, HISTORY, TEST], np.int8)
    dataset = Dataset(store, Split(label, "by hand", {}))
    users, items, schema = dataset.catalogue.users, dataset.catalogue.items, dataset.schema
    assert (schema.users, schema["gender"].size, schema["hobbies"].size, schema["tags"].size) == (4, 3, 4, 5)
    assert (schema["tags"].width, schema["hobbies"].width) == (2, 2)
    assert users.categorical["gender"].tolist() == [0, 0, 2, 0]
    assert users.multi["hobbies"].tolist() == [[0, 0], [0, 0], [0, 0], [2, 3]]
    np.testing.assert_array_equal(users.numeric["age"], np.array([np.nan, np.nan, 20, 30], np.float32))
    nothing = [np.nan, np.nan]
    faces = np.array([nothing, nothing, [0.5, 1.5], nothing], np.float32)
    np.testing.assert_array_equal(users.vector["face"], faces)
    assert items.multi["tags"].tolist() == [[0, 0], [0, 0], [2, 3], [4, 0], [0, 0]]
    assert dataset.remap["hobbies"].tolist() == [MISSING, UNSEEN, 2, 3, UNSEEN]
    assert (items.multi["tags"].dtype, users.categorical["gender"].dtype) == (np.int32, np.int32)
    # a value of an item that training has seen, although its user or event is held out, is known
    other = Dataset(store, Split(np.array([0, 2, 2, 2, 3, 3], np.int8), "few", {}))
    assert other.catalogue.items.multi["tags"].tolist() == [[0, 0], [0, 0], [2, 3]]
    assert other.remap["tags"].tolist() == [MISSING, UNSEEN, 2, 3, UNSEEN, UNSEEN]
