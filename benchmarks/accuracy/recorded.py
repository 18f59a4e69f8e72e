"""Finished rows, kept beside their tables: of studies `results/STUDY-PART.jsonl`, a line per row and seed, of
the table of results `results/NAME.json`, a file per row with all its seeds.

So a table can grow over days and machines, and anyone can read by program what it was made from. A line of
a study counts only for the config that made it: for all its settings that are not at their defaults, so that
a field which the code has since got takes nothing away.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flax import linen as nn

from stjax.training import Experiment
from stjax.training.config import resolve

FOLDER = Path(__file__).parent / "results"
Key = tuple[str, int]  # row, seed


def settings(value: Any) -> Any:
    """What decides the result of an experiment, as plain data: without its name and its baselines."""
    if isinstance(value, Experiment):
        value = dataclasses.replace(value, name="any", baselines=())
    if isinstance(value, Mapping):
        return {str(key): settings(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [settings(item) for item in value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return resolve(value)
    hidden = {"parent", "name"} if isinstance(value, nn.Module) else set()
    kept = {
        f.name: settings(own)
        for f in dataclasses.fields(value)
        if f.name not in hidden and (own := getattr(value, f.name)) != _default(f)
    }
    return {"type": type(value).__qualname__, **kept}


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def digest(config: Any) -> str:
    """Of the settings of an experiment: the same for the same settings."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def holds(results: dict[Key, dict[str, Any]], key: Key, config: Any) -> bool:
    """Whether a row and seed is among the results, made by this config."""
    return key in results and results[key]["config"] == digest(config)


def load(study: str, part: str) -> dict[Key, dict[str, Any]]:
    """All recorded results of a study."""
    file = FOLDER / f"{study}-{part}.jsonl"
    if not file.is_file():
        return {}
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {(line["row"], line["seed"]): line for line in lines}


def save(study: str, part: str, results: Iterable[dict[str, Any]]) -> Path:
    """Add results, in the place of those of the same row and seed; whole or not at all.

    Of a result's config its digest is kept.
    """
    file, kept = FOLDER / f"{study}-{part}.jsonl", load(study, part)
    for result in results:
        config = result["config"]
        short = config if isinstance(config, str) else digest(config)
        kept[result["row"], result["seed"]] = result | {"config": short}
    FOLDER.mkdir(exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text("".join(json.dumps(kept[key]) + "\n" for key in sorted(kept)))
    return partial.rename(file)


def load_rows() -> dict[str, dict[str, Any]]:
    """The rows of the table of results, by name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))}


def save_row(row: dict[str, Any]) -> Path:
    """Record a row under its `name`, in the place of an older one; whole or not at all."""
    FOLDER.mkdir(exist_ok=True)
    partial = FOLDER / f"{row['name']}.partial"
    partial.write_text(json.dumps(row, indent=1) + "\n")
    return partial.rename(FOLDER / f"{row['name']}.json")
