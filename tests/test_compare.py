"""The command that compares two files of benchmark results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import compare, direction, main, read


def write(path: Path, *lines: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def line(**facts: Any) -> dict[str, Any]:
    return {"benchmark": "micro", "part": "gru", "length": 50, "jax": "0.10.2", **facts}


def test_what_differs_by_more_than_it_varies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write(
        tmp_path / "a", *(line(milliseconds=t, targets_per_second=1e3) for t in (10.0, 10.4, 11.0))
    )
    same = write(tmp_path / "b", *(line(milliseconds=t, targets_per_second=1e3) for t in (10.9, 11.3, 10.2)))
    assert main([before, same]) == 0
    assert "2 numbers compared, 0 changed" in capsys.readouterr().out
    slower = write(tmp_path / "c", line(milliseconds=14.0, targets_per_second=1e3))
    assert main([before, slower]) == 1
    out = capsys.readouterr().out
    assert "worse" in out and "+34.6%" in out and "measured once" in out
    faster = write(tmp_path / "d", line(milliseconds=7.0, targets_per_second=1.5e3))
    assert main([before, faster]) == 0
    assert capsys.readouterr().out.count("better") == 2
    assert main([faster, before]) == 1


def test_what_was_none_and_is_some_has_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none, some = (write(tmp_path / str(n), line(compiled_after_warm_up=n)) for n in (0, 3))
    assert main([none, none]) == 0
    assert main([none, some]) == 1 and "+inf%" in capsys.readouterr().out
    assert main([some, none]) == 0


def test_a_wide_spread_hides_a_change(tmp_path: Path) -> None:
    before = write(tmp_path / "a", line(seconds=1.0), line(seconds=2.0), line(seconds=1.4))
    after = write(tmp_path / "b", line(seconds=2.2))
    assert main([before, after]) == 0


def test_lines_are_matched_by_what_was_measured(tmp_path: Path) -> None:
    lines = [line(milliseconds=[1.5, 9.0], users=32), line(milliseconds=[2.5, 9.0], users=64)]
    found, machines = read(map(json.dumps, lines))
    assert len(found) == 2 and machines == {"jax": {'"0.10.2"'}}
    (change,) = compare(found, read([json.dumps(line(milliseconds=[3.0, 9.0], users=32))])[0])
    assert (change.before, change.after, change.name) == (1.5, 3.0, "milliseconds[0]")


def test_other_machines_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = (write(tmp_path / v, line(jax=v, ratio=2.0)) for v in ("0.10.2", "0.11.0"))
    assert main([before, after]) == 0
    assert 'jax: "0.10.2" -> "0.11.0"' in capsys.readouterr().out


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text('{"benchmark": "x", "ms": 1.0}\n{"benchm')
    with pytest.raises(SystemExit, match="line 2 is not JSON"):
        main([str(file), str(file)])


def test_directions() -> None:
    assert direction("targets_per_second") == 1 and direction("times_as_fast_as_the_step") == 1
    assert direction("compile_seconds") == -1 and direction("temporary_bytes") == -1
    assert direction("per_second") == direction("flops_share") == 1 and direction("peak_gib") == -1
    for setting in (
        "length",
        "items",
        "iterations",
        "programs",
        "candidates",
    ):  # "ms", "ratio", "rate" inside
        assert direction(setting) == 0


def test_sizes_of_a_sweep_are_lines_of_their_own() -> None:
    lines = [line(items=items, milliseconds=float(items)) for items in (1_000, 2_000)]
    found, _ = read(map(json.dumps, lines))
    assert [values["milliseconds"] for values in found.values()] == [[1_000.0], [2_000.0]]


def test_numbers_of_inner_objects_and_lists_are_compared() -> None:
    def one(ms: float, rows: int) -> dict[str, Any]:
        facts = {
            "roofline": {"memory_ms": ms, "bound": "memory"},
            "shapes": [[7, 11]],
            "warm_each": [ms, 9.0],
        }
        return line(**facts, collectives=[{"kind": "all-reduce", "count": rows}])

    (change, each) = compare(*(read([json.dumps(one(ms, rows))])[0] for ms, rows in ((2.0, 3), (3.0, 5))))
    assert (change.name, change.before, change.after) == ("roofline.memory_ms", 2.0, 3.0) and change.worse
    assert (each.name, each.after) == ("warm_each[0]", 3.0)
    assert "bound=memory" in " ".join(change.key)
