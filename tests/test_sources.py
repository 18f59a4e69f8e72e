"""Sources: real data give the counts that are published, and every failure says what to do."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
import pytest

from stjax.data import download, raw
from stjax.data.__main__ import main
from stjax.data.city import City
from stjax.data.dataset import Dataset
from stjax.data.download import SourceError, fetch_wheel
from stjax.data.log import LogColumns, Ties
from stjax.data.protocols import TEST, TRAIN, VALID, TrajectoryLast
from stjax.data.sources import (
    FoursquareNYC,
    Frappe,
    LogFiles,
    MovieLens100K,
    Quickstart,
    StoreFolder,
    SyntheticCity,
    TripBuilder,
)
from stjax.data.store import EventStore, StoreError
from stjax.errors import UserError
from stjax.events import FIRST, MISSING, Field
from stjax.training import parse

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("STJAX_DATA") or ROOT.parent / "shared" / "data")
SMALL = City(users=13, events_per_user=5, items=29, categories=5, cells=3, archetypes=2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of each test's own."""
    monkeypatch.setenv("STJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _data(name: str) -> str:
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is absent; set STJAX_DATA")
    return str(DATA / name)


def _texts(store: EventStore, name: str) -> np.ndarray:
    """A categorical column as text, "" where missing."""
    words = np.array(["", "", *store.vocabulary(name).to_list()], object)
    role = store.schema[name].role if name not in ("user", "item") else "event"
    return words[{"item": store.items, "user": store.user_fields}.get(role, store.columns)[name]]


def test_foursquare_nyc_has_the_published_rows() -> None:
    store = FoursquareNYC(_data("foursquare_nyc")).open()
    split, user, item = (_texts(store, name) for name in ("split", "user", "item"))
    rows = {name: int((split == name).sum()) for name in ("train", "validation", "test")}
    assert rows == {"train": 84_298, "validation": 10_339, "test": 10_374}
    assert len(set(user[split == "train"])) == 1_048
    assert len(set(item[split == "train"])) == 4_980
    trajectory = _texts(store, "trajectory")
    assert len(set(trajectory[split == "validation"])) == 1_559
    assert len(set(trajectory[split == "test"])) == 1_566
    local = store.columns["time"].astype(np.int64) + store.columns["utc_offset"]
    assert set(np.unique(store.columns["utc_offset"])) <= {-18_000, -14_400, -21_600, 39_600}
    hours = np.bincount(local // 3600 % 24, minlength=24)
    assert hours.argmin() in (2, 3, 4, 5)  # New York sleeps, in local time
    place = store.columns["place"]
    assert np.isfinite(place).all()
    assert np.abs(np.median(place, axis=0) - [40.73, -73.98]).max() < 0.1
    assert {f.name: f.role for f in store.schema.fields} == {
        "category": "item",
        "trajectory": "meta",
        "split": "meta",
    }


def test_check_ins_alone_are_read_and_learnt_from_but_never_targets() -> None:
    split, whole = (FoursquareNYC(_data("foursquare_nyc"), alone=alone).open() for alone in (False, True))
    assert len(whole) == len(split) + 42_888
    datasets = [Dataset(store, TrajectoryLast()(store)) for store in (split, whole)]
    assert datasets[0].schema.items == datasets[1].schema.items
    assert datasets[0].schema.users == datasets[1].schema.users

    def asked(dataset: Dataset, part: int) -> list[tuple[str, str, int]]:
        rows = dataset.targets(part)
        users, items = (_texts(dataset.store, name)[rows] for name in ("user", "item"))
        return list(zip(users, items, dataset.store.columns["time"][rows].tolist(), strict=True))

    for part in (VALID, TEST):
        assert asked(datasets[0], part) == asked(datasets[1], part)
        histories = [dataset.history(dataset.targets(part)).count for dataset in datasets]
        assert (histories[0] <= histories[1]).all() and histories[0].sum() < histories[1].sum()
    alone = np.asarray(whole.columns["trajectory"]) == MISSING
    assert alone.sum() == 42_888
    learnt = alone & (TrajectoryLast()(whole).label == TRAIN)
    assert learnt.sum() == len(datasets[1].train_rows) - len(datasets[0].train_rows)
    # Nothing trains that is later than the published training part.
    assert split.schema.epoch == whole.schema.epoch
    last = split.columns["time"][_texts(split, "split") == "train"].max()
    assert whole.columns["time"][learnt].max() // 60 <= last // 60


def test_movielens_100k_has_the_published_rows() -> None:
    store = MovieLens100K(_data("movielens_100k")).open()
    assert len(store) == 100_000
    assert store.users == 943
    assert len(store.vocabulary("item")) == 1_682
    assert not store.schema.place
    ratings, counts = np.unique(_texts(store, "rating").astype(str), return_counts=True)
    assert dict(zip(ratings, counts, strict=True)) == {
        "1": 6_110,
        "2": 11_370,
        "3": 27_145,
        "4": 34_174,
        "5": 21_201,
    }
    film = 2 + store.vocabulary("item").to_list().index("1")
    assert _texts(store, "genre")[film] == "Animation"
    assert _texts(store, "year")[film] == "1995"
    assert set(store.vocabulary("genre")).isdisjoint({"unknown", ""})
    assert all(len(year) == 4 for year in store.vocabulary("year"))
    assert (store.items["year"] == MISSING).sum() == 2 + 2  # two bad years, and the rows 0 and 1
    assert store.schema["genres"] == Field("genres", "multi", "item", 18 + FIRST, width=6)
    assert [*_texts(store, "genres")[film]] == ["Animation", "Children's", "Comedy", "", "", ""]
    first = 2 + store.vocabulary("user").to_list().index("1")
    assert store.user_fields["age"][first] == 24
    assert (_texts(store, "gender")[first], _texts(store, "occupation")[first]) == ("M", "technician")
    genders, counts = np.unique(_texts(store, "gender")[2:].astype(str), return_counts=True)
    assert dict(zip(genders, counts, strict=True)) == {"F": 273, "M": 670}
    assert store.schema["occupation"].size == 21 + FIRST


@pytest.mark.parametrize(
    ("city", "visits", "users", "sights", "wrong", "gap"),
    [("florence", 43_861, 7_041, 833, 18, 6), ("pisa", 7_040, 1_820, 110, 1, 3)],
)
def test_tripbuilder_has_the_published_rows_and_trips(
    city: Literal["florence", "pisa"], visits: int, users: int, sights: int, wrong: int, gap: int
) -> None:
    folder = _data("tripbuilder")
    store = TripBuilder(city, trip_gap_hours=gap).open()
    assert store.quality["rows"] == {"read": visits, "kept": visits - wrong, "dropped": wrong}
    assert store.quality["dropped"]["time out of range"] == wrong
    assert (len(store.vocabulary("item")), store.schema.place) == (sights, True)
    raw = pl.read_csv(f"{folder}/{city}_visits.csv.gz")
    assert raw["user_id"].n_unique() == users
    # the published trips, in the store's order of users (by text) and times
    raw = raw.filter(pl.from_epoch("t_first").dt.year().is_between(2001, 2013))
    raw = raw.sort(pl.col("user_id").cast(pl.String), "t_first", maintain_order=True)
    np.testing.assert_array_equal(store.columns["time"] + store.schema.epoch, raw["t_first"])
    np.testing.assert_array_equal(store.columns["stay"], raw["t_last"] - raw["t_first"])
    pairs = zip(store.columns["trip"].tolist(), raw["trajectory_id"], strict=True)
    assert len(set(pairs)) == raw["trajectory_id"].n_unique() == np.unique(store.columns["trip"]).size
    hours = (store.columns["time"] + store.columns.get("utc_offset", 0)) // 3600 % 24
    assert np.bincount(hours).argmin() == {"pisa": 2, "florence": 5}[city]


def test_tripbuilder_cuts_trips_at_gaps(tmp_path: Path) -> None:
    """Invented visits, out of order: the gap runs from the last photo before to the first after."""
    visits = [(1, "a", 7_200, 7_300), (1, "b", 0, 3_600), (2, "a", 0, 0), (1, "a", 10_901, 10_901)]
    rows = [f"pisa,{u},0,{p},1,{1_200_000_000 + t},{1_200_000_000 + e}" for u, p, t, e in visits]
    with gzip.open(tmp_path / "pisa_visits.csv.gz", "wt") as file:
        file.write("city,user_id,trajectory_id,poi_id,n_photos,t_first,t_last\n" + "\n".join(rows))
    with gzip.open(tmp_path / "pisa_pois.csv.gz", "wt") as file:
        file.write("city,poi_id,names,lat,lon,typical_visit_s,categories\n")
        file.write("pisa,a,A,43.7,10.4,60.0,towers;bells\npisa,b,B,43.8,10.5,60.0,bridges\n")
    store = TripBuilder("pisa", trip_gap_hours=1.0002, folder=str(tmp_path)).open()
    assert [*_texts(store, "item")] == ["b", "a", "a", "a"]
    trip = store.columns["trip"].tolist()
    assert trip[0] == trip[1] and len({trip[0], trip[2], trip[3]}) == 3  # 3,600 s, then 3,601 s
    assert [*_texts(store, "categories")[2]] == ["towers", "bells"]
    assert set(store.columns["utc_offset"].tolist()) == {-10_800}
    assert store.schema["trip"].role == "meta"


def test_frappe_has_the_published_rows_without_order_and_without_the_answer_in_the_context() -> None:
    store = Frappe(_data("frappe")).open()
    assert (len(store), store.users, store.schema.items - FIRST) == (96_203, 957, 4_082)
    assert (store.columns["time"] == store.columns["time"][0]).all()
    context = {f.name for f in store.schema.select("event", "categorical")}
    assert context == {"daytime", "weekday", "isweekend", "homework", "weather", "country", "city"}
    paid = int((_texts(store, "cost")[store.columns["item"]] == "paid").sum())
    assert (paid, int((store.columns["homework"] == MISSING).sum())) == (4_894, 75_670)
    # Rows are in an order of their own: another seed has the same rows in another.
    other = Frappe(_data("frappe"), shuffle=1).open()
    words = [sorted(zip(_texts(s, "user"), _texts(s, "item"), strict=True)) for s in (store, other)]
    assert words[0] == words[1]
    assert (store.columns["item"] != other.columns["item"]).any()


def test_quickstart_reads_the_sample_inside_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel of the same form with invented rows; the second opening needs no wheel."""
    header = "tid,lat_lon,date_time,time,rating,price,weather,day,root_type,type\r\n"
    rows = [
        "7,40.11111 -73.55555,2012-11-12 05:17:18,317,-1,-1,Clear,Monday,Home,Flat",
        "7,40.22222 -73.66666,2012-11-12 06:17:18,377,8.2,1,Unknown,Monday,Food,Bakery",
        "7,40.11112 -73.55556,2012-11-13 05:17:18,317,-1,-1,Rain,Tuesday,Home,Flat",
        "19,40.22222 -73.66666,2012-11-12 04:00:00,240,8.2,1,Rain,Monday,Food,Bakery",
        "19,40.33333 -73.77777,2012-11-12 05:00:00,300,-1,-1,Rain,Monday,Food,Pub",
        "19,40.22222 -73.66666,2012-11-12 06:00:00,360,8.2,1,Rain,Monday,Food,Bakery",
    ]
    wheel = tmp_path / "sample.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        text = header + "\r\n".join(rows) + "\r\n"
        archive.writestr("matdata/assets/sample/Foursquare_Sample.csv", text)
    monkeypatch.setattr(raw, "fetch_wheel", lambda *_: wheel)
    source = Quickstart(min_user_events=2)
    store = source.open()
    assert store.vocabulary("user").to_list() == ["19", "7"]
    assert [*_texts(store, "item")] == [
        "Bakery @ 40.2222, -73.6667",
        "Bakery @ 40.2222, -73.6667",
        "Flat @ 40.1111, -73.5556",  # rounding joins two readings of one place
        "Bakery @ 40.2222, -73.6667",
        "Flat @ 40.1111, -73.5556",
    ]
    assert [*_texts(store, "weather")] == ["Rain", "Rain", "Clear", "", "Rain"]
    hours = store.columns["time"] // 3600 % 24
    assert [*hours] == [4, 6, 5, 6, 5]  # local hours, as written
    by_name = dict(zip(_texts(store, "item"), store.columns["item"], strict=True))
    bakery, flat = (by_name[name] for name in sorted(by_name))
    assert store.items["rating"][bakery] == np.float32(8.2)
    assert np.isnan(store.items["rating"][flat])
    assert _texts(store, "price")[bakery] == "1"
    assert store.items["price"][flat] == MISSING
    assert _texts(store, "root_category")[flat] == "Home"
    monkeypatch.setattr(raw, "fetch_wheel", None)
    assert source.open().fingerprint == store.fingerprint


def _fake_pip(monkeypatch: pytest.MonkeyPatch, result: object, files: dict[str, bytes]) -> list:
    """Replace the subprocess that runs pip; returns the list of commands it receives."""
    commands = []

    def run(command: list[str], **_: object) -> object:
        commands.append(command)
        for name, content in files.items():
            Path(command[command.index("--dest") + 1], name).write_bytes(content)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(download.subprocess, "run", run)
    return commands


def _done(code: int, stderr: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, "", stderr)


def test_a_wheel_is_verified_and_fetched_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha = hashlib.sha256(b"content").hexdigest()
    commands = _fake_pip(monkeypatch, _done(0), {"a.whl": b"content"})
    path = fetch_wheel("a==1", "a.whl", sha, "else")
    assert path.read_bytes() == b"content"
    assert fetch_wheel("a==1", "a.whl", sha, "else") == path
    assert len(commands) == 1
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in commands[0]
    path.write_bytes(b"broken")  # a damaged copy in the cache is replaced
    assert fetch_wheel("a==1", "a.whl", sha, "else").read_bytes() == b"content"
    assert [p.name for p in (cache / "downloads").iterdir()] == ["a.whl"]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (_done(1, "ERROR: No matching distribution found for mat-data"), "No matching distribution"),
        (_done(1, "/bin/python: No module named pip"), "ensurepip"),
        (subprocess.TimeoutExpired("pip", 180), "was not downloaded within"),
        (_done(0), "SHA-256"),
    ],
)
def test_no_download_names_the_offline_alternative(
    result: object, message: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No network, no pip, a network that hangs, and another file than the expected one."""
    _fake_pip(monkeypatch, result, {"mat_data-0.1rc6-py3-none-any.whl": b"something else"})
    with pytest.raises(SourceError, match=message) as error:
        Quickstart().open()
    assert "train.py configs/synthetic.py" in str(error.value)
    assert isinstance(error.value, UserError)
    assert not [*(cache / "downloads").iterdir()]
    assert not [*(cache / "stores").iterdir()]


@pytest.mark.parametrize("source", [FoursquareNYC, MovieLens100K, TripBuilder])
def test_absent_data_names_the_folder_and_the_variable(
    source: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STJAX_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="STJAX_DATA") as error:
        source().open()
    assert str(tmp_path / "nowhere") in str(error.value)
    with pytest.raises(SourceError, match="elsewhere"):
        source(folder=str(tmp_path / "elsewhere")).open()


def test_own_log_is_prepared_once_until_it_changes(tmp_path: Path, cache: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("who,what,when\nb,007,1000\na,x y,2000\nb,7,3000\n")
    source = LogFiles((str(log),), LogColumns(user="who", item="what", time="when"))
    store = source.open()
    assert [*_texts(store, "user")] == ["a", "b", "b"]
    assert [*_texts(store, "item")] == ["x y", "007", "7"]
    assert source.open().path == store.path
    assert len([*(cache / "stores").iterdir()]) == 1
    log.write_text("who,what,when\nb,007,1000\n")
    assert len(source.open()) == 1
    with pytest.raises(SourceError, match=r"no such file: .*gone\.csv"):
        LogFiles((str(tmp_path / "gone.csv"),)).open()
    with pytest.raises(SourceError, match=r"as \('log\.csv',\)"):
        LogFiles("log.csv")  # pyright: ignore[reportArgumentType]


def test_the_rule_for_ties_is_part_of_the_source(tmp_path: Path, cache: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user,item,time\n" + "".join(f"u,i{k:02},7\n" for k in range(37)))
    by_log, hashed = (LogFiles((str(log),), ties=ties) for ties in get_args(Ties))
    assert [*_texts(by_log.open(), "item")] == [f"i{k:02}" for k in range(37)]
    items = [*_texts(hashed.open(), "item")]
    assert items != sorted(items) and len(set(items)) == 37
    assert by_log.open().path != hashed.open().path

    out = tmp_path / "by-command"
    assert main(["prepare", str(log), "--out", str(out), "--ties", "hash"]) == 0
    assert EventStore.open(out).fingerprint == hashed.open().fingerprint
    overrides = ["--source.ties", "hash", "--training.epochs", "1"]
    command = parse([str(ROOT / "configs" / "movielens.py"), *overrides], default="absent.py")
    assert command.experiment.source == dataclasses.replace(MovieLens100K(), ties="hash")


def test_half_of_movielens_is_in_the_order_of_the_ties() -> None:
    quality = MovieLens100K(_data("movielens_100k"), ties="hash").open().quality
    assert quality["ties"] == 50_561
    assert quality["tie order"]["rows moved"] > 40_000


def test_a_store_folder_opens_as_it_is(tmp_path: Path) -> None:
    store = SyntheticCity(SMALL).open()
    assert StoreFolder(str(store.path)).open().fingerprint == store.fingerprint
    with pytest.raises(StoreError, match="not an event store"):
        StoreFolder(str(tmp_path)).open()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: (path / "offsets.npy").unlink(), "offsets.npy"),
        (lambda path: (path / "columns" / "place.npy").unlink(), r"columns/place\.npy has no rows of"),
        (lambda path: (path / "items" / "category.npy").write_bytes(b""), "No data left"),
        (lambda path: os.truncate(path / "columns" / "time.npy", 300), "damaged"),
        (lambda path: np.save(path / "columns" / "item.npy", np.zeros(3)), r"item\.npy has 3 rows of"),
        (lambda path: (path / "schema.json").write_text("{"), "damaged"),
    ],
)
def test_a_store_that_was_copied_in_part(tmp_path: Path, damage: Any, says: str) -> None:
    path = Path(shutil.copytree(SyntheticCity(SMALL).open().path, tmp_path / "copy"))
    damage(path)
    with pytest.raises(StoreError, match=says) as refusal:
        StoreFolder(str(path)).open()
    assert "copy it again" in str(refusal.value)


def test_every_parameter_is_part_of_the_cache_key(cache: Path) -> None:
    first = SyntheticCity(SMALL).open()
    other = SyntheticCity(dataclasses.replace(SMALL, seed=1)).open()
    assert first.path != other.path
    assert first.fingerprint != other.fingerprint


@pytest.mark.parametrize("failure", [StoreError("exists"), OSError("Directory not empty")])
def test_the_loser_of_a_race_uses_the_finished_store(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_city = raw.write_city

    def lose(city: City, out: Path) -> None:
        write_city(city, out)  # by another process, just before
        raise failure

    monkeypatch.setattr(raw, "write_city", lose)
    assert SyntheticCity(SMALL).open().users == SMALL.users


def test_a_store_that_cannot_be_made_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(city: City, out: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(raw, "write_city", fail)
    with pytest.raises(OSError, match="disk full"):
        SyntheticCity(SMALL).open()


def test_processes_opening_together_share_one_store(cache: Path) -> None:
    program = (
        "from stjax.data.sources import SyntheticCity; from stjax.data.city import City;"
        f"print(SyntheticCity({SMALL!r}).open().fingerprint)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    running = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(answers) == 1
    assert len([*(cache / "stores").iterdir()]) == 1
