"""The evaluator against a plain loop, its invariances, segments, paired differences and tables."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from stjax.data.dataset import Dataset
from stjax.data.protocols import TEST, VALID, GlobalTemporal, LeaveOneOut
from stjax.errors import UserError
from stjax.evaluation import Report, evaluate, markdown, paired, paired_each, render
from stjax.events import FIRST, Events, Query
from stjax.metrics import target_rank
from tests.stores import make_store

USERS, ITEMS, EVENTS = 17, 23, 601


def make_dataset(path: Path, protocol: Any, seed: int = 0) -> Dataset:
    random = np.random.default_rng(seed)
    items = (ITEMS * random.random(EVENTS) ** 2).astype(int)
    spots = random.uniform([40.6, -74.1], [40.8, -73.9], size=(ITEMS, 2))
    places = spots[items]
    places[random.random(EVENTS) < 0.1] = np.nan
    store = make_store(
        path,
        users=random.geometric(0.15, EVENTS).clip(max=USERS).tolist(),
        items=items.tolist(),
        times=np.sort(random.integers(50 * 86_400, size=EVENTS)).tolist(),
        places=[tuple(place) for place in places.tolist()],
        utc_offsets=[-4 * 3600] * EVENTS,
        event={"scene": random.integers(3, size=EVENTS).astype(str).tolist()},
    )
    return Dataset(store, protocol(store))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("log") / "store", GlobalTemporal(valid=0.2, test=0.3))


@dataclasses.dataclass(frozen=True)
class Noise:
    """Scores that depend on the target's row alone, with many ties; optionally drawn to the target."""

    size: int
    known: tuple[str, ...] = ()
    levels: int = 7
    name: str = "noise"

    def __call__(self, history: Events, query: Query, rows: np.ndarray) -> np.ndarray:
        return np.stack([self.one(int(row)) for row in rows])

    def one(self, row: int) -> np.ndarray:
        levels = np.random.default_rng(row).integers(self.levels, size=self.size)
        return levels.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A scorer from a function of the block."""

    function: Any
    known: tuple[str, ...] = ()
    name: str = "fixed"

    def __call__(self, history: Events, query: Query, rows: np.ndarray) -> Any:
        return self.function(history, query, rows)


def noise(dataset: Dataset, **fields: Any) -> Noise:
    return Noise(dataset.schema.items, **fields)


@pytest.mark.parametrize("filter_seen", [False, True])
def test_ranks_agree_with_a_plain_loop(dataset: Dataset, filter_seen: bool) -> None:
    scorer = noise(dataset)
    report = evaluate(scorer, dataset, TEST, filter_seen=filter_seen, block=29)
    users = np.asarray(dataset.store.columns["user"])
    items = dataset.items(slice(None))
    expected = []
    for row in dataset.targets(TEST).tolist():
        earlier = {int(items[r]) for r in range(row) if users[r] == users[row]}
        removed = earlier - {int(items[row])} if filter_seen else set()
        score = scorer.one(row)
        candidates = [v for v in range(FIRST, len(score)) if v not in removed]
        expected.append(sum(score[v] >= score[items[row]] for v in candidates))
    assert report.row.tolist() == dataset.targets(TEST).tolist()
    assert report.rank.tolist() == expected
    assert np.array_equal(report.user, users[report.row] - FIRST)
    assert report.candidates == len(set(items.tolist()) - {0, 1})


@pytest.mark.parametrize("filter_seen", [False, True])
def test_neither_block_size_nor_buckets_change_ranks(dataset: Dataset, filter_seen: bool) -> None:
    def ranks(**how: Any) -> list[int]:
        return evaluate(noise(dataset), dataset, TEST, filter_seen=filter_seen, **how).rank.tolist()

    whole = ranks(block=512)
    assert len(set(whole)) > 5
    assert ranks(block=1) == whole
    assert ranks(block=7, length=3) == whole
    assert ranks(block=31, length=64, buckets=(2, 8)) == whole


def test_perfect_constant_and_worst_scorers(dataset: Dataset) -> None:
    items, size = dataset.items(slice(None)), dataset.schema.items

    def perfect(history: Events, query: Query, rows: np.ndarray) -> np.ndarray:
        return np.eye(size, dtype=np.float32)[items[rows]]

    def constant(history: Events, query: Query, rows: np.ndarray) -> jax.Array:
        return jnp.zeros((len(rows), size))

    def impossible(history: Events, query: Query, rows: np.ndarray) -> np.ndarray:
        return np.where(perfect(history, query, rows) > 0, -np.inf, 0.0)

    best = evaluate(Fixed(perfect), dataset, TEST)
    assert set(best.rank.tolist()) == {1}
    assert all(entry == {"mean": 1.0, "standard_error": 0.0} for entry in best.summary().values())
    for worst in (constant, impossible):
        assert set(evaluate(Fixed(worst), dataset, TEST).rank.tolist()) == {size - FIRST}


def test_the_filter_takes_out_the_seen_and_nothing_else(dataset: Dataset) -> None:
    size = dataset.schema.items
    constant = Fixed(lambda history, query, rows: np.zeros((len(rows), size), np.float32))
    report = evaluate(constant, dataset, TEST, filter_seen=True)
    offsets, seen = dataset.seen(report.row)
    for k, (row, rank) in enumerate(zip(report.row, report.rank, strict=True)):
        earlier = set(seen[offsets[k] : offsets[k + 1]].tolist()) - {0, 1}
        assert rank == size - FIRST - len(earlier - {int(dataset.items(row))})


def test_scorers_see_the_past_and_only_the_declared_query(dataset: Dataset) -> None:
    time, user = dataset.store.columns["time"], dataset.store.columns["user"]
    asked: list[Query] = []

    def spy(history: Events, query: Query, rows: np.ndarray) -> np.ndarray:
        asked.append(query)
        last = history.valid.sum(axis=1) - 1
        assert np.array_equal(history.item[np.arange(len(rows)), last], dataset.items(rows - 1))
        assert np.array_equal(history.time[np.arange(len(rows)), last], time[rows - 1])
        assert np.array_equal(user[rows - 1], user[rows])
        return np.zeros((len(rows), dataset.schema.items), np.float32)

    evaluate(Fixed(spy), dataset, VALID, block=13, length=5)
    assert all(q.time is None and q.place is None and not q.categorical for q in asked)
    asked.clear()
    evaluate(Fixed(spy, known=("time", "scene")), dataset, VALID, block=13, length=5)
    assert all(q.time is not None and q.place is None and set(q.categorical) == {"scene"} for q in asked)


@pytest.mark.parametrize("filter_seen", [False, True])
def test_ranking_is_traced_once(dataset: Dataset, filter_seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = []

    def traced(scores: Any, target: Any, seen: Any) -> jax.Array:
        traces.append(scores.shape)
        return target_rank(scores, target, seen)

    monkeypatch.setattr(sys.modules["stjax.evaluation.evaluate"], "_rank_block", jax.jit(traced))
    report = evaluate(noise(dataset), dataset, TEST, filter_seen=filter_seen, block=11)
    assert len(report) > 5 * 11
    assert traces == [(11, dataset.schema.items)]


def test_limit_and_progress(dataset: Dataset) -> None:
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))

    report = evaluate(noise(dataset), dataset, TEST, limit=37, block=10, progress=progress)
    assert len(report) == 37
    assert calls == [(10, 37), (20, 37), (30, 37), (37, 37)]


def test_nan_scores_name_the_scorer_and_the_row(dataset: Dataset) -> None:
    bad = int(dataset.targets(TEST)[40])

    def broken(history: Events, query: Query, rows: np.ndarray) -> np.ndarray:
        scores = np.zeros((len(rows), dataset.schema.items), np.float32)
        scores[rows == bad, FIRST + 3] = np.nan
        return scores

    with pytest.raises(UserError, match=rf"noisy gave NaN scores for 1 of .*\[{bad}\]"):
        evaluate(Fixed(broken, name="noisy"), dataset, TEST, block=16)


def test_scores_of_another_shape_are_refused(dataset: Dataset) -> None:
    short = Fixed(lambda history, query, rows: np.zeros((len(rows), 3), np.float32))
    with pytest.raises(ValueError, match=r"fixed gave scores of shape \(16, 3\) instead of \(16, "):
        evaluate(short, dataset, TEST, block=16)


def haversine(a: np.ndarray, b: np.ndarray) -> float:
    (lat_a, lon_a), (lat_b, lon_b) = np.radians(a.astype(float)), np.radians(b.astype(float))
    h = math.sin((lat_b - lat_a) / 2) ** 2
    h += math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    return 2 * 6371.0088 * math.asin(math.sqrt(h))


def test_facts_agree_with_the_log(dataset: Dataset) -> None:
    report = evaluate(noise(dataset), dataset, TEST, block=19, length=4)
    columns, items = dataset.store.columns, dataset.items(slice(None))
    for k, row in enumerate(report.row.tolist()):
        earlier = [r for r in range(row) if columns["user"][r] == columns["user"][row]]
        local = int(columns["time"][row]) + int(columns["utc_offset"][row])
        here, there = columns["place"][row], columns["place"][row - 1]
        assert report.facts["hour"][k] == local % 86_400 // 3600
        assert report.facts["events"][k] == len(earlier)
        assert report.facts["new"][k] == all(items[r] != items[row] for r in earlier)
        np.testing.assert_allclose(report.facts["km"][k], haversine(here, there), rtol=1e-3, atol=1e-3)


def test_segments_share_out_all_targets(dataset: Dataset) -> None:
    report = evaluate(noise(dataset), dataset, TEST)
    segments = report.segments()
    assert set(segments) == {"hour", "events", "distance", "novelty"}
    for bands in segments.values():
        assert sum(band["targets"] for band in bands.values()) == len(report)
        assert all(band["targets"] > 0 and band["users"] > 0 for band in bands.values())
        total = sum(band["targets"] * band["metrics"]["MRR"]["mean"] for band in bands.values())
        assert total / len(report) == pytest.approx(report.mean("MRR"))
    night = report.facts["hour"] < 6
    assert segments["hour"]["0-6"]["targets"] == night.sum()
    assert segments["hour"]["0-6"]["metrics"]["MRR"]["mean"] == pytest.approx((1 / report.rank[night]).mean())
    assert segments["distance"]["unknown"]["targets"] == np.isnan(report.facts["km"]).sum() > 0
    few = (report.facts["events"] >= 5) & (report.facts["events"] < 20)
    assert segments["events"]["5-19 events"]["targets"] == few.sum()
    assert segments["novelty"]["new to the user"]["targets"] == report.facts["new"].sum()


def test_report_is_json_and_says_how_it_was_made(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", ["a"] * 5, ["x", "y", "x", "y", "x"], [1, 2, 3, 4, 5])
    one_user = Dataset(store, LeaveOneOut()(store))
    report = evaluate(noise(one_user, known=("time",)), one_user, TEST, filter_seen=True)
    text = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert text["metrics"]["MRR"]["standard_error"] is None  # one user has no spread
    assert (text["targets"], text["users"], text["known"]) == (1, 1, ["time"])
    assert report.label == "noise (reads time)"
    assert "leave-one-out, test: 1 targets of 1 users, full ranking of 2 items, seen" in report.title
    assert text["segments"]["distance"]["unknown"]["targets"] == 1


def test_paired_difference_is_sharper_than_the_means(dataset: Dataset) -> None:
    base = evaluate(noise(dataset, levels=1000), dataset, TEST)
    better = dataclasses.replace(base, rank=np.maximum(base.rank - 1, 1))
    difference = paired(better, base, "MRR")
    exact = (1 / better.rank - 1 / base.rank).mean()
    assert difference.mean == pytest.approx(exact)
    assert difference.low < difference.mean < difference.high
    error = base.summary()["MRR"]["standard_error"]
    assert error is not None
    assert 0 < difference.standard_error < error
    back = paired(base, better, "MRR")
    assert (back.mean, back.low) == (pytest.approx(-difference.mean), pytest.approx(-difference.high))
    together = paired_each(better, base, ["Acc@1", "MRR"])[1]  # from the same draws
    assert dataclasses.astuple(together)[1:] == pytest.approx(dataclasses.astuple(difference)[1:], rel=1e-9)
    same = paired(base, base, "HR@5")
    assert (same.mean, same.standard_error, same.low, same.high) == (0, 0, 0, 0)


def test_paired_refuses_other_targets(dataset: Dataset) -> None:
    report = evaluate(noise(dataset), dataset, TEST)
    for other in (
        evaluate(noise(dataset), dataset, VALID),
        evaluate(noise(dataset), dataset, TEST, limit=20),
        evaluate(noise(dataset), dataset, TEST, filter_seen=True),
    ):
        with pytest.raises(ValueError, match="not the same ranking task"):
            paired(report, other, "MRR")


ROWS = [
    ("A | B", {"HR@10": {"mean": 0.25, "standard_error": 0.0125}, "MRR": {"mean": 0.5}}),
    ("[red]C", {"HR@10": {"mean": 0.75, "standard_error": None}}),
]


def test_markdown_table() -> None:
    assert markdown(ROWS, "Title").splitlines() == [
        "Title",
        "",
        "| | HR@10 | MRR |",
        "|---|---:|---:|",
        "| A &#124; B | 0.250 ±0.013 | **0.500** |",
        "| [red]C | **0.750** | - |",
    ]


def test_terminal_table_is_bold_at_the_best_and_fits_80_columns(dataset: Dataset) -> None:
    console = Console(width=80, force_terminal=True, color_system="standard", legacy_windows=False)
    with console.capture() as capture:
        console.print(render(ROWS, "Title"))
    lines = capture.get().splitlines()
    best = next(line for line in lines if "[red]C" in line)
    assert re.search(r"\x1b\[1m *0\.750", best)
    assert not any(re.search(r"\x1b\[1m *0\.250", line) for line in lines)
    report = evaluate(noise(dataset), dataset, TEST)
    with console.capture() as capture:
        console.print(render([(report.label, report.summary())] * 2, report.title))
    assert "NDCG@10" in capture.get()
    assert "…" not in capture.get()


def test_report_knows_its_length(dataset: Dataset) -> None:
    report: Report = evaluate(noise(dataset), dataset, VALID)
    assert len(report) == len(dataset.targets(VALID)) == len(report.values("HR@3"))
