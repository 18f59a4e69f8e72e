"""A trained model as a folder that needs neither stjax nor Flax to run: StableHLO, weights, vocabularies."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stjax.events import FIRST, MISSING, UNSEEN
from stjax.serving import loader
from stjax.serving.artefact import FORMAT, ExportError, check_folder, check_packages, new_folder
from stjax.serving.exported import check_run
from stjax.serving.flat import Flat, Functions
from stjax.serving.load import Trained
from stjax.serving.record import digest
from stjax.serving.stablehlo import PLATFORMS, functions_of, lowered

README = """\
# {name}

A recommender as StableHLO, written by `python -m stjax.serving export`. It runs on {platforms},
with the packages jax, numpy and flatbuffers alone:

    python loader.py     answers for a user without events, and after one

`loader.py` is an example to start from: events in, states by user, recommendations out. It checks nothing.

| file | what |
|---|---|
| `cold.bin` | (users: int32 (B,), any values) → states of users without events |
| `observe.bin` | (weights, states, events (B,)) → states after one event each; as before where not `valid` |
| `read.bin` | (weights, states, events (B, L)) → states after some events each, the oldest first |
| `score.bin` | (weights, states, query) → log-probabilities of all items, (B, {items}) |
| `recommend.bin` | (weights, states, query, allowed: bool (B, {items})) → scores and ids, (B, {k}) each |
| `weights.npz` | the weights, by the names that the functions want |
| `schema.json` | names, shapes and types of weights, states, events and query; the log's fields; versions |
| `vocabulary.json` | by name, the texts of the ids {first}, {first} + 1, ...; 0 is missing, 1 is unseen |
| `items.npz` | places and categories of items by id, to choose what is allowed; no function reads it |

Where stjax is installed, `stjax.serving.Engine.load` takes this folder, too: it keeps states and a journal,
checks what comes and filters what is answered. The users of the log and their events are not in here.

The functions are `jax.export` artefacts: `jax.export.deserialize(bytearray(...)).call` runs them for any B
and L, each of which is compiled. Weights, states, events and query are dicts of arrays. Scores are
log-probabilities among all items, the best first, and -inf where no more items are allowed.
The events of a user must come in the order of time. Times are whole seconds since `epoch` of schema.json
(Unix seconds), in UTC; places are degrees, NaN where unknown, as numbers are.
"""


@dataclass(frozen=True)
class Exported:
    """What `export` wrote. bytes: of each file."""

    folder: Path
    version: str
    bytes: Mapping[str, int]


def export(trained: Trained, out: str | os.PathLike[str], k: int = 100, overwrite: bool = False) -> Exported:
    """Write a trained model to the folder `out`: its README.md says what is in it.

    k: the longest answer; fewer where there are fewer items. overwrite: replace an export that is there.

    Raises ExportError where the folder cannot be written, `k` is less than 1, a part of the model has no form
    for every batch size and platform, or flatbuffers, which `jax.export` needs, is missing; ConfigError for a
    model without a step form, or of an export.
    """
    out = Path(out)
    check(out, k, overwrite)
    check_run(trained.model, "export")
    functions, weights = functions_of(trained, k)
    about, programs = _about(trained, functions), lowered(functions)
    about |= {
        "platforms": PLATFORMS,
        "calling_convention": programs["observe"].calling_convention_version,
    }
    with new_folder(out, overwrite) as folder:
        for name, program in programs.items():
            (folder / f"{name}.bin").write_bytes(program.serialize())
        _save(folder / "weights.npz", weights)
        _save(folder / "items.npz", _items(trained))
        _write(folder / "schema.json", about)
        words = {name: trained.vocabulary[name].texts for name in _vocabularies(trained, about)}
        _write(folder / "vocabulary.json", words)
        shutil.copyfile(loader.__file__, folder / "loader.py")
        said = {"name": about["version"], "platforms": ", ".join(PLATFORMS), "first": FIRST}
        text = README.format(**said, items=about["items"], k=about["k"])
        (folder / "README.md").write_text(text, encoding="utf-8")
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    return Exported(out, about["version"], sizes)


def check(out: Path, k: int, overwrite: bool) -> None:
    """Raises ExportError where `export` would whatever the model."""
    if k < 1:
        raise ExportError(f"k={k} must be at least 1: the number of items of an answer")
    check_packages()
    check_folder(out, overwrite)


def _about(trained: Trained, functions: Functions) -> dict[str, Any]:
    """What schema.json says of the functions' arguments and of the log."""
    schema = trained.catalogue.schema

    def shapes(flat: Flat, batched: bool = True) -> dict[str, dict[str, Any]]:
        return {
            name: {"shape": ["B", *x.shape[1:]] if batched else x.shape, "dtype": str(x.dtype)}
            for name, x in flat.like.items()
        }

    def named(flat: Flat) -> dict[str, dict[str, Any]]:
        """With where a value comes from: a field of the log, an id of a vocabulary."""
        found = shapes(flat)
        for name, about in found.items():
            kind, _, field = name.partition("/")
            about |= {"field": field} if field else {}
            if kind in ("item", "user", "categorical"):
                about["vocabulary"] = field or kind
        return found

    written = {"jax": jax.__version__, "numpy": np.__version__, "stjax": _version()}
    return {
        "format": FORMAT,
        "version": f"{trained.name}@{digest(trained.params)}",
        "written_with": written,
        "epoch": schema.epoch,
        "ids": {"missing": MISSING, "unseen": UNSEEN, "first": FIRST},
        "items": functions.items,
        "users": schema.users,
        "place": schema.place,
        "multiple": schema.multiple,
        "k": functions.k,
        "known": functions.model.known,
        "fields": [dataclasses.asdict(field) for field in schema.fields],
        "events": named(functions.events),
        "query": named(functions.query),
        "state": shapes(functions.state),
        "weights": shapes(functions.weights, batched=False),
    }


def _vocabularies(trained: Trained, about: Mapping[str, Any]) -> list[str]:
    """Of items, their fields and those of events, and of what events and query read."""
    read = [
        own["vocabulary"]
        for kind in ("events", "query")
        for own in about[kind].values()
        if "vocabulary" in own
    ]
    items, schema = trained.catalogue.items, trained.catalogue.schema
    event = [field.name for field in schema.select("event", "categorical")]
    return sorted({"item", *read, *event, *items.categorical, *items.multi})


def _items(trained: Trained) -> dict[str, np.ndarray]:
    """What may be asked of items, by id: float32 (V, 2) place; int32 (V,) or (V, W) ids of their fields."""
    items = trained.catalogue.items
    fields = {f"categorical/{name}": ids for name, ids in items.categorical.items()}
    fields |= {f"multi/{name}": ids for name, ids in items.multi.items()}
    return {name: np.asarray(x) for name, x in {"place": trained.catalogue.place, **fields}.items()}


def _version() -> str:
    try:
        return importlib.metadata.version("stjax")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "not installed"


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    np.savez(path, allow_pickle=False, **{name: np.asarray(x) for name, x in arrays.items()})


def _write(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
