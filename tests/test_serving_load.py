"""From a run folder of train.py to an engine that answers as the evaluator would."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import examples.service.__main__
import stjax.serving.engine
import train
from stjax.data.protocols import TEST
from stjax.errors import CheckpointError, ConfigError
from stjax.events import FIRST, Query
from stjax.nn import GRU, ConcatFusion, Recommender, Retrieval, TimeEmbed
from stjax.serving import Engine, Request, Settings, Shapes
from stjax.serving.load import Trained, load_experiment, load_run
from stjax.serving.load_export import load_trained
from stjax.training import load_config
from stjax.training.config import resolve, unresolve
from stjax.training.report import make_scores
from tests.serving_meshes import child

CONFIG = "tests/configs/served.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seconds, with an override that its config file does not know."""
    folder = tmp_path_factory.mktemp("served")
    log = ["--source.folder", str(folder.absolute())]
    more = ["--model.head.known", "time", "--model.fusion.features", "13", "--sharding.rows-multiple", "2"]
    assert train.main([CONFIG, "--workdir", str(folder / "run"), *log, *more]) == 0
    return folder / "run"


def test_the_experiment_is_that_of_the_command(run: Path) -> None:
    experiment = load_experiment(run)
    assert experiment.model.known == ("time",)
    assert experiment.model.fusion == ConcatFusion(13)
    assert json.loads(json.dumps(resolve(experiment))) == json.loads((run / "config.json").read_text())


def test_the_engine_answers_as_the_evaluator_does(run: Path) -> None:
    """At the last event of each user: the engine has read all before it."""
    trained = load_run(run)
    dataset = trained.dataset
    items = dataset.schema.items - FIRST
    shapes = Shapes(batches=(1, 7), chunks=(1, 4), tops=(items,))
    engine = Engine.load(run, settings=Settings(capacity=5, users=60, shapes=shapes), history=False)
    scores, names = make_scores(trained.model), dataset.store.vocabulary("user").to_list()
    for question in dataset.questions(TEST, 64, 8):
        query = Query.of(question.target, trained.model.known)
        expected = np.asarray(scores(trained.params, question.history, query, trained.catalogue))[:, FIRST:]
        for b in np.flatnonzero(question.real):
            user = names[int(dataset.store.user_of(question.row[b : b + 1])[0])]
            rows = np.arange(dataset.store.offsets[dataset.store.user_of(question.row[b])], question.row[b])
            own = dataset.gather(rows[None], np.ones((1, len(rows)), bool))[0]
            core = engine._core
            core.apply((user, record) for record in core.codec.records(own))
            now = float(question.target.time[b] + dataset.schema.epoch)
            found = engine.recommend([Request(user, now, int(question.target.utc_offset[b]))], items)[0]
            ids = [trained.vocabulary["item"].id(item) - FIRST for item in found.items]
            np.testing.assert_allclose(found.scores, expected[b][ids], atol=1e-4)


def test_a_run_of_many_devices_is_served_by_one(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "many")
    config = json.loads((other / "config.json").read_text())
    config["sharding"] |= {"data": 4, "model": 2, "fsdp": True}
    (other / "config.json").write_text(json.dumps(config))
    trained, same = load_run(other), load_run(run)
    jax.tree.map(np.testing.assert_array_equal, trained.params, same.params)


def test_a_mesh_serves_a_run(run: Path) -> None:
    """Its parameters go straight to their shares; answers are those of one device."""
    (found,) = child(2, "load", str(run))
    assert found["shares"]["items/table"] == found["shares"]["head/bias/bias"] == 0.5
    settings = Settings(capacity=48, users=60, shapes=Shapes((8,), (8,), (5,)))
    with Engine.load(run, settings=settings) as engine:
        answers = engine.recommend([Request(user, 5e8) for user in engine.users()], 5)
    assert len(answers) == len(found["answers"]) == 41
    for one in answers:
        items, scores = found["answers"][one.user]
        assert items == one.items
        np.testing.assert_allclose(scores, one.scores, rtol=1e-5)


def test_users_begin_with_their_history(run: Path, tmp_path: Path) -> None:
    settings = Settings(capacity=7, users=60, shapes=Shapes((1, 7), (1, 4), (10,)))
    requests = [Request(f"{user}", 5e8) for user in range(41)]
    with Engine.load(run, settings=settings, folder=tmp_path / "state") as engine:
        assert engine.status()["users"] == 41
        before = engine.recommend(requests, 5)
        assert len({tuple(each.items) for each in before}) > 5
    with Engine.load(run, settings=settings, folder=tmp_path / "state") as engine:
        for one, two in zip(before, engine.recommend(requests, 5), strict=True):
            assert one.items == two.items
            np.testing.assert_allclose(one.scores, two.scores, atol=1e-5)


def test_the_service_loads_its_run_once(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine and the page's data are of the same load."""
    loads, apps = [], []

    def load(path: Path, *more: Any) -> Trained:
        loads.append(path)
        return load_trained(path, *more)

    for module in (stjax.serving.engine, examples.service.__main__):
        monkeypatch.setattr(module, "load_trained", load)
    monkeypatch.setattr(examples.service.__main__, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(examples.service.__main__.logging, "basicConfig", lambda **_: None)
    monkeypatch.setattr(examples.service.__main__, "serve", lambda app, *_: apps.append(app))
    assert examples.service.__main__.main([str(run), "--users", "60"]) == 0
    assert len(apps) == 1 and loads == [run]
    with Engine.load(run, settings=Settings(users=60), folder=tmp_path / "elsewhere") as engine:
        assert engine.status()["users"] == 41 and loads == [run, run]


def test_the_readme_shows_what_works(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Engine.load" in b)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    few = "Settings(capacity=5, shapes=Shapes((1, 2), (1,), (10,)), "  # less to compile
    assert "Settings(capacity=512, " in block
    block = block.replace("Settings(capacity=512, ", few)
    names: dict = {"Shapes": Shapes}
    exec(compile(block, "README.md", "exec"), names)
    assert names["done"].accepted == 2 and names["best"][0].user == "ann"


def test_what_cannot_be_loaded_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run folder"):
        load_run(tmp_path)


def test_configs_come_back_from_json() -> None:
    for name in ("nyc", "movielens", "frappe", "synthetic", "nyc_ensemble"):
        experiment = load_config(f"configs/{name}.py")
        saved = json.loads(json.dumps(resolve(experiment)))
        assert unresolve(saved, experiment) is experiment
        other = dataclasses.replace(experiment, model=Recommender(encoders={"time": TimeEmbed(7)}))
        assert resolve(unresolve(saved, other)) == resolve(experiment)
    model = Recommender(fusion=ConcatFusion(5), interest=GRU(), head=Retrieval(known=("time",)))
    saved = json.loads(json.dumps(resolve(model)))
    saved["interest"]["type"] = "stjax.nn.interest.gru.Gone"
    with pytest.raises(ConfigError, match="Gone"):
        unresolve(saved, Recommender())
