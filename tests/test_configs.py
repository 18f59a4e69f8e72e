"""Every config file loads, says how to run it, and takes a step and an evaluation on its own data."""

from __future__ import annotations

import ast
import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from stjax.data.download import SourceError
from stjax.data.protocols import VALID
from stjax.events import FIRST, Query
from stjax.training import load_config, load_module
from stjax.training.experiment import is_baseline
from stjax.training.report import measure
from stjax.training.setup import Setup, open_dataset
from stjax.tune.change import check, value_at

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
SLOW = ("nyc_ensemble",)  # takes steps as its member does, which is the model of nyc; see test_ensemble


every_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)


@every_config
def test_config_loads_and_names_its_command(path: Path) -> None:
    assert load_config(path).name == path.stem
    command = "python train.py" + ("" if path.stem == "quickstart" else f" configs/{path.name}")
    assert command in (ast.get_docstring(ast.parse(path.read_text())) or "").replace("\n", " ")


@every_config
def test_space_fits_the_experiment_and_holds_it(path: Path) -> None:
    module = load_module(path)
    space = getattr(module, "space", None)
    if space is None:
        pytest.skip(f"{path.name} declares no space to search")
    check(module.experiment, space, module.__name__)
    for name, dimension in space.items():
        assert dimension.stored(value_at(module.experiment, name)) is not None, f"{name} of the config itself"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in SLOW else ())
        for path in CONFIGS
    ],
)
def test_config_takes_a_step_and_is_evaluated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STJAX_DATA", os.environ.get("STJAX_DATA", str(ROOT.parent / "shared" / "data")))
    experiment = load_config(path)
    # The model is the config's own; one short shape, so that it compiles once.
    batching = dataclasses.replace(experiment.batching, length=24, overlap=0, buckets=(), batch_size=4)
    evaluation = dataclasses.replace(
        experiment.evaluation, length=24, buckets=(), block=32, validation_targets=32
    )
    experiment = dataclasses.replace(experiment, batching=batching, evaluation=evaluation)
    try:
        if is_baseline(experiment.model):
            dataset = open_dataset(experiment)
            long = {f.name for f in dataclasses.fields(experiment.model)} & {"iterations", "epochs"}
            quick = dataclasses.replace(experiment.model, **dict.fromkeys(long, 1))
            assert len(measure(quick.fit(dataset), dataset, VALID, evaluation)) == 32
            return
        setup = Setup.of(experiment)
    except SourceError as error:
        pytest.skip(f"the data of {path.name} is not here: {error}")
    state, metrics = setup.step(setup.key, setup.initial(), setup.batches[0], setup.catalogue)
    assert np.isfinite(float(metrics["loss"])) and bool(metrics["finite"])
    report = measure(setup.scorer(state), setup.dataset, VALID, evaluation)
    assert len(report) == 32
    question = next(setup.dataset.questions(VALID, 24, 32))
    query = Query.of(question.target, experiment.model.known)
    log_p = np.asarray(setup.scorer(state)(question.history, query, question.row))
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1.0, atol=1e-4)
    assert (log_p[:, :FIRST] == -np.inf).all()
