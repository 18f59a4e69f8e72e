"""What is known of each target besides its rank, and the bands into which a report divides it.

Bands: local hour of day, events in the user's history, kilometres from the previous event, and
whether the user has had the item before.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from stjax.events import Question
from stjax.ops import geo

HOURS = np.asarray([0, 6, 12, 18])
EVENTS = np.asarray([1, 5, 20, 100, 500])
KILOMETRES = np.asarray([0.0, 0.5, 2.0, 10.0])


@jax.jit
def _distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Kilometres, NaN where either place is unknown."""
    km = geo.distance_km(geo.fill(a), geo.fill(b))
    return jnp.where(geo.known(a) & geo.known(b), km, jnp.nan)


def facts(question: Question, offsets: np.ndarray, seen: np.ndarray) -> dict[str, np.ndarray]:
    """One array (N,) per fact, of the real targets of one block.

    offsets, seen: the items of the histories as `Dataset.seen` gives them.
    Returns row int64; hour in 0..23, local; events, the length of the whole history; km, NaN where
    either place is unknown; new, True where no event of the history has the item.
    """
    target, history, real = question.target, question.history, np.asarray(question.real)
    last = np.maximum(np.sum(history.valid, axis=1) - 1, 0)
    before = np.asarray(history.place)[np.arange(len(last)), last]
    local = np.asarray(target.time, np.int64) + np.asarray(target.utc_offset)
    owner = np.repeat(np.arange(len(last)), np.diff(offsets))
    same = seen == np.asarray(target.item)[owner]
    columns = {
        "row": np.asarray(question.row),
        "hour": local // 3600 % 24,
        "events": np.diff(offsets),
        "km": np.asarray(_distance(before, np.asarray(target.place))),
        "new": np.bincount(owner, weights=same, minlength=len(last)) == 0,
    }
    return {name: values[real] for name, values in columns.items()}


def bands(columns: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """{breakdown: {band: bool (N,)}}; each breakdown shares out all targets, no band is empty."""
    km = columns["km"]
    unknown = {"unknown": np.isnan(km)} if np.isnan(km).any() else {}
    breakdowns = {
        "hour": _between(columns["hour"], HOURS, "", 24),
        "events": _between(columns["events"], EVENTS, " events"),
        "distance": _between(km, KILOMETRES, " km") | unknown,
        "novelty": {"seen before": ~columns["new"], "new to the user": columns["new"]},
    }
    return {
        name: {band: mask for band, mask in masks.items() if mask.any()} for name, masks in breakdowns.items()
    }


def _between(
    values: np.ndarray, edges: np.ndarray, unit: str, end: int | None = None
) -> dict[str, np.ndarray]:
    """Half-open bands from edge to edge; whole numbers are named by their first and last value."""
    stops = [*edges[1:], np.inf if end is None else end]
    whole = edges.dtype.kind == "i" and end is None
    masks = {}
    for low, high in zip(edges, stops, strict=True):
        last = f"-{high - 1 if whole else high:g}" if np.isfinite(high) else "+"
        masks[f"{low:g}{last}{unit}"] = (values >= low) & (values < high)
    return masks
