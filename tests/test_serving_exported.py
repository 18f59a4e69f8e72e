"""An engine of an export is that of its run: answers, filters, states on the disk; and what it cannot do."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest

import examples.service.__main__ as service
from examples.service.city import City
from stjax.errors import CheckpointError, ConfigError
from stjax.serving import Engine, Item, Recommendation, Request, Settings, Shapes
from stjax.serving.artefact import ExportError
from stjax.serving.codec import BadEvent
from stjax.serving.export import export
from stjax.serving.load import Trained
from stjax.serving.load_export import FUNCTIONS, load_export
from stjax.serving.mesh import Devices
from tests.library import INTERESTS, Together
from tests.serving import ALL, KNOWN, delayed, parts, plain, request, stream

SHAPES = Shapes(batches=(3,), chunks=(1, 4), tops=(ALL,))
LATENESS = 5_000
USERS = [f"user{k}" for k in range(2, 11)]  # the last two never do anything
MODEL = plain(Together((INTERESTS["gru"], INTERESTS["attention"])), KNOWN)


@pytest.fixture(scope="module")
def run() -> Trained:
    """What a run folder gives, of a model with a recurrent and an attentive part."""
    return Trained("both", *parts(MODEL), dataset=None)


@pytest.fixture(scope="module")
def folder(run: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export."""
    return export(run, tmp_path_factory.mktemp("both") / "export").folder


def load(what: Trained | Path, state: Path | None = None, **more: Any) -> Engine:
    own = {"shapes": SHAPES, "sync": False, "users": 50, "capacity": 3, "lateness": LATENESS} | more
    return Engine.load(what, folder=state, settings=Settings(**own), clock=lambda: 2e9)


def assert_same(found: Sequence[Recommendation], expected: Sequence[Recommendation]) -> None:
    for mine, own in zip(found, expected, strict=True):
        assert mine.version == own.version
        scores = dict(zip(own.items, own.scores.tolist(), strict=True))
        assert set(mine.items) == set(scores)
        # By item: those whose scores are near may change places.
        np.testing.assert_allclose(mine.scores, [scores[item] for item in mine.items], atol=1e-5)


def asked(run: Trained) -> list[Request]:
    """Of all users, and some with filters."""
    items, genre = run.vocabulary["item"].texts, run.vocabulary["genres"].texts[1]
    filters: list[dict[str, Any]] = [
        {"exclude_seen": True},
        {"allow": items[2:15], "deny": items[4:9]},
        {"within_km": 6_000.0},
        {"where": {"genres": [genre], "category": run.vocabulary["category"].texts[:2]}},
    ]
    return [request(user, k) for k, user in enumerate(USERS)] + [
        request(user, k, **own) for k, (user, own) in enumerate(zip(USERS, filters, strict=False))
    ]


def test_the_engine_is_that_of_the_run(run: Trained, folder: Path, tmp_path: Path) -> None:
    """Late events, evictions, filters, restarts; and either goes on with the folder of the other."""
    events, requests = delayed(stream(67, users=7), 2 * LATENESS, seed=1), asked(run)
    events += events[:1]  # too late by far
    with load(run, tmp_path / "run") as engine, load(folder, tmp_path / "export") as exported:
        for at, stop in ((0, 20), (20, 21), (21, 45), (45, 68)):
            assert exported.observe(events[at:stop]) == engine.observe(events[at:stop])
            if stop == 45:
                exported.save()
                saved = exported.status()["events"]
        expected = engine.recommend(requests, ALL)
        assert_same(exported.recommend(requests, ALL), expected)
        status = engine.status()
        counts = status["counts"]
        assert min(counts["refused: late"], status["waiting"], status["evictions"]) > 0
        assert counts["item: unseen"] > 0 and counts["scene: unseen"] > 0
        assert exported.status() == status
        assert not {len(one.items) for one in expected[len(USERS) :]} & {0, ALL}
        engine.save()
    again = status["events"] - saved
    for what, state, read, some in (
        (folder, "export", again, None),
        (run, "export", again, 1),
        (folder, "run", 0, 1),
    ):
        with load(what, tmp_path / state) as moved:
            assert moved.status()["counts"].get("events read again at the start", 0) == read
            assert_same(moved.recommend(requests[:some], ALL), expected[:some])


def test_what_an_export_cannot_do_is_told(
    run: Trained, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(folder) as engine:
        own = stream(5)
        engine.observe(own)
        for wrong in (lambda: engine.fine_tune(own), lambda: engine.add_items([Item("new")])):
            with pytest.raises(ConfigError, match=r"not with an export; load the run folder"):
                wrong()
        with pytest.raises(BadEvent, match="no source of candidates"):
            engine.recommend([request(USERS[0], candidates=3)])
        with pytest.raises(ConfigError, match="nothing was swapped"):
            engine.rollback()
    with pytest.raises(ConfigError, match=r"spare_items=2: .* load the run folder"):
        load(folder, spare_items=2)
    with load(run, tmp_path / "tuned") as engine:
        engine._swap(jax.tree.map(np.negative, run.params), "both@tuned")
    with pytest.raises(
        ConfigError, match=r"both@tuned, of fine_tune: not with an export; load the run folder"
    ):
        load(folder, tmp_path / "tuned")
    with monkeypatch.context() as several:
        several.setattr(Devices, "of", lambda _: Devices(cast(Any, "a mesh of two")))
        with pytest.raises(ConfigError, match=r"sharding: an export is .* one device; load the run folder"):
            load(folder)
    with pytest.raises(ConfigError, match=r"candidates: an export has no log .* load the run folder"):
        Engine.load(folder, candidates=lambda dataset: lambda seen: np.zeros(ALL))
    with pytest.raises(ConfigError, match=r"export: not with an export"):
        export(load_export(folder), tmp_path / "again")


def test_the_service_takes_an_export(run: Trained, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apps = []
    monkeypatch.setattr(service, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(service.logging, "basicConfig", lambda **_: None)
    monkeypatch.setattr(service, "serve", lambda app, *_: apps.append(app))
    assert service.main([str(folder), "--users", "60", "--kind", "category"]) == 0
    assert len(apps) == 1
    mine, own = (City.of(trained, kind="category") for trained in (load_export(folder), run))
    assert mine.items() == own.items() and mine.reads == own.reads
    assert mine.recent.of(USERS[0]) == []


def test_a_folder_that_cannot_be_read_is_told(folder: Path, tmp_path: Path) -> None:
    for other in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"neither a run folder .* nor an export"):
            load(other)
    copy = shutil.copytree(folder, tmp_path / "copy")

    def damaged(name: str, content: bytes | None, match: str) -> None:
        whole = (copy / name).read_bytes()
        (copy / name).unlink() if content is None else (copy / name).write_bytes(content)
        with pytest.raises(ExportError, match=match):
            load(copy)
        (copy / name).write_bytes(whole)

    about = (copy / "schema.json").read_bytes()
    old = re.sub(rb"stjax export \d+", b"stjax export 1", about)
    damaged("schema.json", old, r"'stjax export 1', but this version .* export the run again")
    damaged("schema.json", about[:100], r"schema\.json is damaged .* copy the whole folder again")
    damaged("schema.json", b"[]", r"schema\.json is damaged")
    damaged("vocabulary.json", None, r"vocabulary\.json: No such file")
    for name in ("weights.npz", "items.npz"):
        damaged(name, None, rf"{name}: No such file .*; copy the whole folder")
        damaged(name, (copy / name).read_bytes()[:500], rf"{name} is damaged")
    for name in FUNCTIONS:
        damaged(f"{name}.bin", None, rf"{name}\.bin: No such file")
    damaged("score.bin", (copy / "score.bin").read_bytes()[:500], r"score\.bin cannot be read by jax .*copy")
    damaged("weights.npz", (copy / "items.npz").read_bytes(), r"weights\.npz is of another export")
    assert load(copy).version == json.loads(about)["version"]
