"""A model's functions lowered by `jax.export`, for every platform and any batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.export  # no part of `jax` until it is imported
import jax.numpy as jnp
import numpy as np
from jax.errors import InconclusiveDimensionOperation

from stjax.serving.artefact import ExportError
from stjax.serving.codec import Codec
from stjax.serving.flat import ALWAYS, Flat, Functions
from stjax.serving.load import Trained
from stjax.serving.programs import Programs
from stjax.serving.settings import Shapes

PLATFORMS = ("cpu", "cuda", "tpu")


def functions_of(trained: Trained, k: int) -> tuple[Functions, dict[str, jax.Array]]:
    """Functions of those arrays alone that can change an answer, and the weights among them.

    The vectors of all items are one of the weights, so the parameters that gave them are not.
    Raises ConfigError for a model without a step form.
    """
    weights = Programs(trained.model, 1, Shapes()).weights(trained.params, trained.catalogue)
    codec = Codec(trained.catalogue.schema, trained.vocabulary)
    events = codec.events(np.full(1, codec.missing), np.ones(1, bool))
    k = min(k, len(trained.vocabulary["item"].texts))
    every = Functions(trained.model, weights, events, k)
    w, s, e, q = (flat.like for flat in (every.weights, every.state, every.events, every.query))
    observed = _kept("observe", every.observe, w, s, e)
    answered = _kept("recommend", every.recommend, w, s, q, jax.ShapeDtypeStruct((1, every.items), bool))
    kept = {
        "weights": observed[0] | answered[0],
        "events": observed[2] | set(ALWAYS),
        "query": answered[2],
    }
    functions = Functions(trained.model, weights, events, k, kept)
    return functions, functions.weights.dict(weights)


def lowered(functions: Functions) -> dict[str, jax.export.Exported]:
    """All functions by name, with symbolic B and L. Raises ExportError where one cannot be."""
    batch, length = jax.export.symbolic_shape("B, L")

    def some(flat: Flat, *lead: Any) -> dict[str, jax.ShapeDtypeStruct]:
        return {name: jax.ShapeDtypeStruct((*lead, *x.shape[1:]), x.dtype) for name, x in flat.like.items()}

    w, s, query = functions.weights.like, some(functions.state, batch), some(functions.query, batch)
    arguments = {
        "cold": (jax.ShapeDtypeStruct((batch,), jnp.int32),),
        "observe": (w, s, some(functions.events, batch)),
        "read": (w, s, some(functions.events, batch, length)),
        "score": (w, s, query),
        "recommend": (w, s, query, jax.ShapeDtypeStruct((batch, functions.items), bool)),
    }
    return {name: _lower(name, getattr(functions, name), PLATFORMS, *own) for name, own in arguments.items()}


def _kept(name: str, function: Callable[..., Any], *arguments: Any) -> list[set[str]]:
    """Of each argument, the names of the arrays that the result depends on."""
    # Told for one fixed shape: with symbolic ones all arguments are kept.
    kept = set(_lower(name, function, PLATFORMS[:1], *arguments).module_kept_var_idx)
    names, first = [], 0
    for argument in arguments:
        own = list(argument) if isinstance(argument, dict) else [""]
        own.sort()  # as JAX does with dicts
        names.append({word for i, word in enumerate(own, first) if i in kept})
        first += len(own)
    return names


def _lower(
    name: str, function: Callable[..., Any], platforms: tuple[str, ...], *arguments: Any
) -> jax.export.Exported:
    try:
        return jax.export.export(jax.jit(function), platforms=platforms)(*arguments)
    except (TypeError, ValueError, NotImplementedError, InconclusiveDimensionOperation) as error:
        raise ExportError(
            f"{name!r} of the model cannot be exported for any batch size and the platforms"
            f" {', '.join(platforms)}: {error}. Parts of your own must take sizes from x.shape, not by len(x)"
            " or int(...), and use no operation of one platform alone"
        ) from error
