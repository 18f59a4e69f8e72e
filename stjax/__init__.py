"""stjax: spatiotemporal sequential recommendation in JAX and Flax.

The contract between data, model and server is here. The parts are modules of their own, which load when
they are first used: `stjax.nn` (modules), `stjax.ops` (their mathematics), `stjax.data` (from a log to
batches), `stjax.metrics`, `stjax.baselines`, `stjax.evaluation`, `stjax.training`, `stjax.tune`
and `stjax.serving`.
"""

import importlib
from types import ModuleType

from stjax.events import Attributes, Batch, Catalogue, Events, Field, Query, Question, Schema

__version__ = "0.1.0"

_PARTS = ("baselines", "data", "evaluation", "metrics", "nn", "ops", "serving", "training", "tune")

__all__ = ["Attributes", "Batch", "Catalogue", "Events", "Field", "Query", "Question", "Schema"]


def __getattr__(name: str) -> ModuleType:
    if name in _PARTS:
        return importlib.import_module(f"stjax.{name}")
    raise AttributeError(f"module 'stjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_PARTS, "__version__"])
