"""The tables of results are made from what is recorded; a number that is typed is found."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.accuracy import recorded, table
from benchmarks.accuracy.seeds import model, over_seeds, row
from stjax.baselines import Markov
from stjax.training import load_config
from stjax.training.config import Command
from stjax.training.run import run

TINY = Path(__file__).parent / "configs" / "tiny.py"
BASELINE = ".435 ± .007 (Markov with back-off)"


def result(seed: int, mrr: float, error: float | None = 0.007) -> dict[str, Any]:
    """A result.json as `train.py` writes it, as far as a table reads it."""

    def metrics(mean: float) -> dict[str, Any]:
        return {name: {"mean": mean, "standard_error": error} for name in ("Acc@1", "MRR")}

    bands = {"seen before": (mrr + 0.1, 1_138), "new to the user": (0.01 * (seed + 1), 295)}
    novelty = {
        name: {"targets": n, "users": 3, "metrics": metrics(mean)} for name, (mean, n) in bands.items()
    }
    differences = [
        {"metric": metric, "to": label, "mean": mrr - mean, "standard_error": error, "low": 0, "high": 1}
        for label, mean in (("Most popular", 0.02), ("Markov with back-off", 0.435))
        for metric, mean in (("MRR", mean), ("Acc@1", mean + 0.01))
    ]
    return {
        "name": "nyc",
        "title": "FoursquareNYC, trajectory-last, test",
        "data": {"fingerprint": "abc"},
        "query": {"known": []},
        "protocol": {"name": "trajectory-last", "notes": {}},
        "test": {"label": "nyc", "metrics": metrics(mrr), "segments": {"novelty": novelty}},
        "baselines": [
            {"label": "Most popular", "metrics": metrics(0.02)},
            {"label": "Markov with back-off", "metrics": metrics(0.435)},
        ],
        "difference": differences[2],
        "differences": differences,
        "best": {"validation": mrr - 0.02},
        "parameters": 17,
        "seconds": {"train": 20.0 + seed, "test": 5.0},
        "versions": {"python": "3.11", "jax": "1", "flax": "2", "optax": "3"},
        "hardware": {"cpus": 2, "devices": 1, "device": "cpu"},
    }


@pytest.fixture
def made() -> dict[str, Any]:
    results = [result(seed, mrr) for seed, mrr in enumerate((0.47, 0.48, 0.49))]
    return json.loads(json.dumps(row(results, [0, 1, 2], "python -m it --seeds 0 1 2", "1234abc")))


@pytest.mark.parametrize("file", table.READMES, ids=lambda file: file.parent.name)
def test_the_readmes_hold_what_is_recorded(file: Path) -> None:
    text, rows = file.read_text(), recorded.load_rows()
    assert table.filled(text, rows) == text, "run python -m benchmarks.accuracy.table"
    assert "<!-- results" in text or not rows, "a row is recorded, and this README has no place for it"


def test_a_row_is_the_mean_over_its_seeds(made: dict[str, Any]) -> None:
    assert over_seeds([0.47, 0.48, 0.49]) == (pytest.approx(0.48), pytest.approx(0.01 / 3**0.5))
    assert over_seeds([0.47]) == (0.47, None)
    assert model(made)["MRR"]["mean"] == pytest.approx(0.48)
    text = table.summary({"nyc": made})
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "| " in line]
    assert {len(line) for line in lines} == {7}
    accuracy, mrr, seen, new = lines[1:]
    assert accuracy[1:] == ["Acc@1", "**.480 ± .006**", ".335", BASELINE, "+.0350 ± .0070", "STHGCN .2625"]
    assert mrr[1:] == ["MRR", "**.480 ± .006**", ".475", BASELINE, "+.0450 ± .0070", "STHGCN .3798"]
    assert mrr[0] == "`python -m it --seeds 0 1 2`, 21 s of training a seed"
    assert seen[1:4] == ["MRR, 1,138 revisits", ".580 ± .006", ""]
    assert new[1:4] == ["MRR, 295 new to the user", ".020 ± .006", ".060"]  # below its target: not bold
    assert "rebuilt" in text


def test_a_difference_that_some_seeds_lack_is_left_out() -> None:
    """Runs of before hold that of the selection metric alone, for each baseline or to the best."""
    new, old, older = (result(seed, 0.47) for seed in range(3))
    old["differences"] = [d for d in old["differences"] if d["metric"] == "MRR"]
    del older["differences"]
    for results, labels in (
        ([new, new], ["Most popular"] * 2 + ["Markov with back-off"] * 2),
        ([new, old], ["Most popular", "Markov with back-off"]),
        ([old, older, new], ["Markov with back-off"]),
    ):
        made = row(results, list(range(len(results))), "it", None)
        assert [d["to"] for d in made["differences"]] == labels
        assert made["differences"][0]["metric"] == "MRR"
        assert all(len(d["mean"]) == len(results) for d in made["differences"])
        text = table.summary({"nyc": made})
        assert "| +.0350 ± .0070 | STHGCN .3798 |" in text
        assert ("| +.0250 ± .0070 | STHGCN .2625 |" in text) == (results == [new, new])


def test_only_what_is_recorded_is_in_the_tables(made: dict[str, Any]) -> None:
    text = "a\n<!-- results -->\n9.999\n<!-- /results -->\nb\n<!-- results nyc -->\n<!-- /results -->\n"
    text += "<!-- results florence -->\nold\n<!-- /results -->\nc .777\n"
    new = table.filled(text, {"nyc": made})
    assert new.startswith("a\n<!-- results -->\n") and new.endswith(
        "Not recorded yet.\n\n<!-- /results -->\nc .777\n"
    )
    assert "9.999" not in new and "old" not in new
    assert "| Most popular | 0.020 ±0.007 | 0.020 ±0.007 |" in new
    assert "+.4600 ± .0070 from Most popular; +.0450 ± .0070 from Markov with back-off" in new
    assert "commit 1234abc" in new
    assert table.filled(new, {"nyc": made}) == new
    assert table.filled(new.replace(".0450", ".0550"), {"nyc": made}) == new  # what is typed goes
    assert "STHGCN" not in table.filled(text, {})


def test_rows_without_errors_or_with_another_baseline(made: dict[str, Any]) -> None:
    one = row([result(0, 0.47, error=None)], [0], "it", None)
    text = table.summary({"nyc": one})
    assert "| **.470** | .335 | .435 (Markov with back-off) |" in text
    assert "| +.0350 |" in text
    one["baselines"] = one["baselines"][:1]
    with pytest.raises(SystemExit, match="no baseline 'Markov with back-off' is recorded, only"):
        table.summary({"nyc": one})
    other = result(1, 0.5) | {"data": {"fingerprint": "xyz"}}
    with pytest.raises(SystemExit, match="different data"):
        row([result(0, 0.5), other], [0, 1], "it", None)


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        ((0.25,), ".250"),
        ((-0.25,), "-.250"),
        ((0.0004, 0.25), ".000 ± .250"),
        ((10.05,), "10.050"),
        ((0.9999,), "1.000"),
        ((-0.01, 0.1, 4, True), "-.0100 ± .1000"),
        ((0.25, None, 4, True), "+.2500"),
    ],
)
def test_figures(figure: tuple[Any, ...], text: str) -> None:
    assert table.shown(*figure) == text


def test_a_run_is_recorded_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From train.py's own result, through the recorded file, to a table."""
    monkeypatch.setenv("STJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(recorded, "FOLDER", tmp_path / "results")
    tiny = load_config(TINY)
    source = dataclasses.replace(tiny.source, folder=tmp_path)
    experiment = dataclasses.replace(tiny, source=source, model=Markov())
    found = run(Command(experiment, tmp_path / "run", config=TINY), Console(quiet=True))
    labels, metrics = [b["label"] for b in found["baselines"]], ["MRR", "Acc@1", "HR@10", "NDCG@10"]
    assert [(d["to"], d["metric"]) for d in found["differences"]] == list(itertools.product(labels, metrics))
    theirs = {b["label"]: b["metrics"] for b in found["baselines"]}
    for d in found["differences"]:
        if d["metric"] in theirs[d["to"]]:  # of others only the difference is known
            ours = found["test"]["metrics"][d["metric"]]["mean"]
            assert d["mean"] == pytest.approx(ours - theirs[d["to"]][d["metric"]]["mean"])
    assert found["difference"] == max(found["differences"][:: len(metrics)], key=lambda d: -d["mean"])
    recorded.save_row(row([found], [0], "it", None))
    rows = recorded.load_rows()
    assert list(rows) == ["tiny"] and not list((tmp_path / "results").glob("*.partial"))
    text = table.detail(rows["tiny"])
    assert f"{found['test']['metrics']['MRR']['mean']:.3f}" in text
    assert found["title"] in text and "Python" not in text
