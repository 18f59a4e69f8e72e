"""From an export to what an engine needs: the folder of `python -m stjax.serving export`, read again."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export  # no part of `jax` until it is imported
import numpy as np

from stjax.errors import CheckpointError
from stjax.events import Attributes, Catalogue, Field, Query, Schema
from stjax.serving.artefact import FORMAT, ExportError, check_packages
from stjax.serving.codec import Codec
from stjax.serving.exported import ExportedModel
from stjax.serving.flat import Flat
from stjax.serving.load import Trained, load_run
from stjax.serving.vocabulary import Vocabulary
from stjax.training.experiment import Sharding

FUNCTIONS = ("cold", "observe", "read", "score")


def load_trained(path: str | os.PathLike[str], sharding: Sharding | None = None) -> Trained:
    """What an engine needs, of a run folder of train.py or an export. sharding: as of `load_run`.

    Raises UserError where the folder is neither, or not whole."""
    path = Path(path)
    if (path / "config.json").is_file():
        return load_run(path, sharding)
    if (path / "schema.json").is_file():
        return load_export(path)
    raise CheckpointError(
        f"{path} is neither a run folder of train.py (no config.json) nor an export (no schema.json): train a"
        f" config with --workdir {path}, or export a run with python -m stjax.serving export RUN --out {path}"
    )


def load_export(path: str | os.PathLike[str]) -> Trained:
    """An export. Raises ExportError where it is not whole, or in the format of another version of stjax."""
    path = Path(path)
    check_packages()
    about = _json(path / "schema.json")
    if about.get("format") != FORMAT:
        raise ExportError(
            f"{path} has the format {str(about.get('format'))[:40]!r}, but this version of stjax reads"
            f" {FORMAT!r}: export the run again"
        )
    # Users and what else the model does not read were left out, and stay unseen.
    vocabulary = {"user": Vocabulary([])}
    vocabulary |= {name: Vocabulary(texts) for name, texts in _json(path / "vocabulary.json").items()}
    weights, columns = _arrays(path / "weights.npz"), _arrays(path / "items.npz")
    if {name: (list(x.shape), str(x.dtype)) for name, x in weights.items()} != {
        name: (x["shape"], x["dtype"]) for name, x in about["weights"].items()
    }:
        raise ExportError(f"{path / 'weights.npz'} is of another export than schema.json: {AGAIN}")
    schema, known = _schema(about), tuple(about["known"])
    attributes = {
        kind: {f.name: columns[f"{kind}/{f.name}"] for f in schema.select("item", kind)}
        for kind in ("categorical", "multi")
    }
    codec = Codec(schema, vocabulary)
    events = codec.events(np.full(1, codec.missing), np.ones(1, bool))
    model = ExportedModel(
        {name: _function(path / f"{name}.bin", about) for name in FUNCTIONS},
        Flat(events, about["events"]).dict,
        Flat(Query.of(events, known), about["query"]).dict,
        list(about["state"]),
        known,
    )
    return Trained(
        name=about["version"].rpartition("@")[0],
        model=model,
        params=weights,
        catalogue=Catalogue(columns["place"], schema, Attributes(**attributes)),
        vocabulary=vocabulary,
        dataset=None,
        version=about["version"],
    )


AGAIN = "copy the whole folder again, or export the run again"


def _schema(about: Mapping[str, Any]) -> Schema:
    own = {name: about[name] for name in ("items", "users", "epoch", "place", "multiple")}
    return Schema(**own, fields=tuple(Field(**field) for field in about["fields"]))


def _function(path: Path, about: Mapping[str, Any]) -> Callable[..., Any]:
    try:
        return jax.export.deserialize(bytearray(_bytes(path))).call
    except ExportError:
        raise
    except Exception as error:  # whatever flatbuffers and JAX make of it
        raise ExportError(
            f"{path} cannot be read by jax {jax.__version__} ({type(error).__name__}: {error}); it was"
            f" written with jax {about['written_with']['jax']}: use that or a newer one, or {AGAIN}"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_bytes(path))
    except ValueError as error:
        raise ExportError(f"{path} is damaged ({error}): {AGAIN}") from error
    if not isinstance(content, dict):
        raise ExportError(f"{path} is damaged (no JSON object): {AGAIN}")
    return content


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            return dict(arrays)
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}; {AGAIN}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ExportError(f"{path} is damaged ({error}): {AGAIN}") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}; {AGAIN}") from error
