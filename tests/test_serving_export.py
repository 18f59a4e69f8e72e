"""An export answers as the engine does, where neither stjax nor Flax is installed, too."""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import train
from stjax.errors import UserError
from stjax.nn import GRU, Encoder, Ensemble, Recommender, Retrieval
from stjax.serving import Engine, Event, Request
from stjax.serving.__main__ import main
from stjax.serving.artefact import ExportError
from stjax.serving.export import export
from stjax.serving.load import Trained
from stjax.serving.loader import Served
from stjax.serving.settings import Settings, Shapes
from stjax.serving.stablehlo import PLATFORMS
from tests.bare import environment
from tests.library import INTERESTS, Together
from tests.serving import ALL, KNOWN, build, parts, plain, request, start, stream

CONFIG = "tests/configs/served.py"
USERS = [f"user{k}" for k in range(2, 8)]  # some of them never do anything

# What the loader needs, and what that requires.
PACKAGES = ("jax", "numpy", "flatbuffers", "jaxlib", "ml_dtypes", "opt_einsum", "scipy")

# Reads {"events": [...], "requests": [...], "k": ...} and writes the answers.
ALONE = """
import importlib.util, json, sys

for package in ("stjax", "flax", "optax", "polars", "pytest"):
    if importlib.util.find_spec(package) is not None:
        raise SystemExit(f"{package} is installed")
sys.path.insert(0, sys.argv[1])
from loader import Served

served, given = Served(sys.argv[1]), json.load(sys.stdin)
for event in given["events"]:
    served.observe(event)
print(json.dumps([served.recommend(request, given["k"]) for request in given["requests"]]))
"""


def plainly(one: Event | Request) -> dict[str, Any]:
    """An event or a request as the loader takes it."""
    names = ["user", "item", "time", "utc_offset", "place", "context", "exclude_seen", "allow", "deny"]
    values = {name: getattr(one, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def assert_same(engine: Engine, found: Sequence[Any], requests: Sequence[Request], k: int) -> None:
    """The answers are the engine's."""
    for expected, own in zip(engine.recommend(requests, k), found, strict=True):
        items, scores = zip(*own, strict=True)
        assert len(items) == len(expected.items)
        np.testing.assert_allclose(scores, expected.scores, atol=1e-5)
        by_item = dict(zip(expected.items, expected.scores.tolist(), strict=True))
        assert set(items[:-1]) <= set(by_item)  # the last may tie with the next
        np.testing.assert_allclose(scores, [by_item.get(item, scores[-1]) for item in items], atol=1e-5)


def loaded(folder: Path) -> tuple[dict[str, Any], dict[str, jax.Array], dict[str, Any]]:
    """Functions, weights and schema.json of an export."""
    names = ("cold", "observe", "read", "score", "recommend")
    programs = {n: jax.export.deserialize(bytearray((folder / f"{n}.bin").read_bytes())) for n in names}
    schema = json.loads((folder / "schema.json").read_text())
    return programs, dict(np.load(folder / "weights.npz")), schema


# One of each kind of state and of each way to read it; the other interest models are slow, each by itself.
KINDS = ("lstm-gated", "mean", "attention-rotary-bias", "hstu", "state-space")
MODELS = {
    "all kinds of states": plain(Together(tuple(INTERESTS[name] for name in KINDS)), KNOWN),
    "gru": plain(INTERESTS["gru"], KNOWN),
    "gru-gated": plain(INTERESTS["gru-gated"], ("place",)),
    "lstm": plain(INTERESTS["lstm"], ("place",)),
    "attention": plain(INTERESTS["attention"]),
    "attention-rotary-bias": plain(INTERESTS["attention-rotary-bias"], ("time",)),
    "hstu": plain(INTERESTS["hstu-bias"], ("time", "place")),
    "state-space": plain(INTERESTS["state-space"], KNOWN),
    "ensemble": Ensemble(plain(), 2),
    "all encoders": build(),
}
IN_CI = ("all kinds of states",)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in IN_CI else pytest.mark.slow) for name in MODELS],
)
def test_answers_are_those_of_the_engine(name: str, tmp_path: Path) -> None:
    made = parts(MODELS[name])
    done = export(Trained(name, *made, dataset=None), tmp_path / "export", k=1_000)
    engine, served, events = start(made), Served(done.folder), stream(23, users=3)
    assert done.version.startswith(f"{name}@")
    events[4:6] = [
        dataclasses.replace(one, context={"scene": text})
        for one, text in zip(events[4:6], ("", "odd"), strict=True)
    ]
    for call in (events[:9], events[9:10], events[10:]):  # of 3, 2 and 1 users
        engine.observe(call)
    for event in events:
        served.observe(plainly(event))
    requests = [request(user, k) for k, user in enumerate(USERS)]
    assert_same(engine, [served.recommend(plainly(one), ALL) for one in requests], requests, ALL)
    some = made[3]["item"].texts[1:14]
    filtered = [
        request(USERS[0], 3, exclude_seen=True),
        request(USERS[0], 4, allow=[*some, "new"]),
        request(USERS[5], 5, allow=some, deny=[*some[3:6], "new"]),
        request(USERS[1], 6, exclude_seen=True, allow=some, deny=some[::3]),
        request(USERS[1], 7, deny=some),
    ]
    assert_same(engine, [served.recommend(plainly(one), 4) for one in filtered], filtered, 4)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An export of a small model, and of what it was made."""
    made = parts(plain(known=("time",)))
    return export(Trained("small", *made, dataset=None), tmp_path_factory.mktemp("small") / "x").folder, made


def test_functions_take_plain_arrays_of_any_batch_and_length(small: tuple[Path, Any]) -> None:
    folder, _ = small
    programs, weights, schema = loaded(folder)
    random, calls = np.random.default_rng(0), {n: jax.jit(p.call) for n, p in programs.items()}
    for program in programs.values():
        assert program.platforms == PLATFORMS
    for batch, length in ((5, 3), (2, 1)):

        def column(about: dict[str, Any], lead: tuple[int, ...]) -> np.ndarray:
            shape = (*lead, *about["shape"][1:])
            return random.integers(0, 5, shape).astype(about["dtype"])

        events = {name: column(about, (batch, length)) for name, about in schema["events"].items()}
        events["time"] = np.cumsum(events["time"], axis=1, dtype=np.int32)
        events["valid"] = np.arange(length) < np.arange(batch)[:, None]  # none of the first row's
        cold = calls["cold"](np.arange(batch, dtype=np.int32))
        at_once = calls["read"](weights, cold, events)
        state = cold
        for l in range(length):  # noqa: E741 (B, L)
            state = calls["observe"](weights, state, {name: x[:, l] for name, x in events.items()})
        assert {n: [f"{x.dtype}", *x.shape[1:]] for n, x in state.items()} == {
            n: [about["dtype"], *about["shape"][1:]] for n, about in schema["state"].items()
        }
        for name, x in state.items():
            np.testing.assert_allclose(x, at_once[name], atol=1e-6)
            np.testing.assert_array_equal(x[0], cold[name][0])
        query = {name: column(about, (batch,)) for name, about in schema["query"].items()}
        allowed = random.random((batch, schema["items"])) < 0.5
        every = np.asarray(calls["score"](weights, state, query))
        assert every.shape == allowed.shape
        scores, ids = map(np.asarray, calls["recommend"](weights, state, query, allowed))
        assert scores.shape == ids.shape == (batch, schema["k"])
        assert (scores[:, 1:] <= scores[:, :-1]).all()
        for b in range(batch):
            some = ids[b][np.isfinite(scores[b])]
            assert set(some) == set(np.flatnonzero(allowed[b])) - {0, 1}
            np.testing.assert_allclose(scores[b][: len(some)], every[b][some], atol=1e-6)


def test_the_folder_says_what_is_in_it_and_holds_no_more(small: tuple[Path, Any]) -> None:
    folder, (model, _, catalogue, vocabulary) = small
    files = {path.name for path in folder.iterdir()}
    assert files == {f"{n}.bin" for n in ("cold", "observe", "read", "score", "recommend")} | {
        "weights.npz",
        "items.npz",
        "schema.json",
        "vocabulary.json",
        "loader.py",
        "README.md",
    }
    assert all(name in (folder / "README.md").read_text() for name in files - {"README.md"})
    _, weights, schema = loaded(folder)
    assert {n: [list(x.shape), str(x.dtype)] for n, x in weights.items()} == {
        n: [about["shape"], about["dtype"]] for n, about in schema["weights"].items()
    }
    assert weights["table"].shape == (schema["items"], model.items.features)
    assert not any("/items/" in name for name in weights), "the table stands for what made it"
    assert schema["known"] == ["time"] and set(schema["query"]) == {"time", "utc_offset"}
    assert schema["epoch"] == catalogue.schema.epoch and schema["platforms"] == list(PLATFORMS)
    words = json.loads((folder / "vocabulary.json").read_text())
    assert "user" not in words, "who was trained on, where the model does not read users"
    assert words == {name: vocabulary[name].texts for name in words}
    with np.load(folder / "items.npz") as items:
        np.testing.assert_array_equal(items["place"], catalogue.place)
        np.testing.assert_array_equal(items["multi/genres"], catalogue.items.multi["genres"])


def test_the_loader_is_an_example_that_runs(small: tuple[Path, Any], capsys) -> None:
    text = (small[0] / "loader.py").read_text()
    assert {line.split()[1] for line in text.splitlines() if line.startswith(("import", "from"))} == {
        "json",
        "pathlib",
        "jax",
        "numpy",
    }
    runpy.run_path(str(small[0] / "loader.py"), run_name="__main__")
    cold, after = capsys.readouterr().out.splitlines()
    assert cold != after


def test_what_is_there_is_not_lost(small: tuple[Path, Any], tmp_path: Path, monkeypatch) -> None:
    trained = Trained("new", *small[1], dataset=None)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ExportError, match=r"mine exists and is no export"):
            export(trained, mine, overwrite=overwrite)
    old = shutil.copytree(small[0], tmp_path / "old")
    with pytest.raises(ExportError, match="--overwrite"):
        export(trained, old)
    with monkeypatch.context() as broken:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        broken.setattr(shutil, "copyfile", full)
        with pytest.raises(ExportError, match="No space left on device"):
            export(trained, old, overwrite=True)
    assert json.loads((old / "schema.json").read_text())["version"].startswith("small@")
    assert export(trained, old, overwrite=True).version.startswith("new@")
    assert json.loads((old / "schema.json").read_text())["version"].startswith("new@")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "old"]


def test_a_missing_package_is_told(small: tuple[Path, Any], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ExportError, match=r"pip install 'stjax\[export\]'"):
        export(Trained("small", *small[1], dataset=None), tmp_path / "x")
    assert not (tmp_path / "x").exists()


class Counting(Encoder):
    """Written for one batch size at a time."""

    @nn.compact
    def __call__(self, events, catalogue):
        return jnp.zeros((*events.item.shape, self.features)) + float(len(events.item))


def test_a_part_for_fixed_sizes_only_is_told(tmp_path: Path) -> None:
    made = parts(Recommender(encoders={"counting": Counting(2)}, interest=GRU(), head=Retrieval()))
    with pytest.raises(ExportError, match=r"'observe' of the model .* x\.shape"):
        export(Trained("counting", *made, dataset=None), tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seconds."""
    folder = tmp_path_factory.mktemp("exported")
    command = [CONFIG, "--workdir", str(folder / "run"), "--source.folder", str(folder)]
    assert train.main([*command, "--model.head.known", "time"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def asked(run: Path) -> dict[str, Any]:
    """An export by the command, events and requests, and the engine that has read the events."""
    out = run.parent / "out"
    assert main(["export", str(run), "--out", str(out), "--k", "7"]) == 0
    engine = Engine.load(run, settings=Settings(users=60, shapes=Shapes((1, 8), (1, 4), (7,))), history=False)
    random, words = np.random.default_rng(0), json.loads((out / "vocabulary.json").read_text())
    events = [
        Event(f"somebody{random.integers(3)}", str(random.choice([*words["item"], "new"])), 1e9 + 3_600 * k)
        for k in range(17)
    ]
    requests = [Request(f"somebody{k}", 1e9 + 90_000 + k, exclude_seen=k == 1) for k in range(4)]
    for call in (events[:12], events[12:]):
        assert engine.observe(call).accepted == len(call)
    given = {
        "events": [plainly(event) for event in events],
        "requests": [plainly(one) for one in requests],
        "k": 7,
    }
    return {"folder": out, "engine": engine, "requests": requests, "given": json.dumps(given)}


def test_the_loader_runs_where_its_packages_alone_are(asked: dict[str, Any], tmp_path: Path) -> None:
    """In a copy of the export, with nothing of this process around it."""
    copy = shutil.copytree(asked["folder"], tmp_path / "elsewhere")
    python = environment(tmp_path / "bare", PACKAGES)
    # -I: no variable of the shell and no package of the user's own comes in.
    done = subprocess.run(
        [python, "-I", "-c", ALONE, str(copy)],
        input=asked["given"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"JAX_PLATFORMS": "cpu", "PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    assert_same(asked["engine"], json.loads(done.stdout), asked["requests"], 7)


def test_the_command_tells_what_it_cannot_do(asked: dict[str, Any], run: Path, tmp_path, capsys) -> None:
    for words, message in (
        ([str(run), "--out", str(asked["folder"])], "--overwrite"),
        ([str(run), "--out", str(tmp_path / "x"), "--k", "0"], "k=0 must be at least 1"),
        ([str(tmp_path), "--out", str(tmp_path / "x")], "is not a run folder"),
    ):
        assert main(["export", *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error
    assert not list(tmp_path.iterdir())
    assert issubclass(ExportError, UserError)
