"""What `benchmarks.micro` measures of `stjax.ops`: the operations that do the work, on random arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops import (
    blocked,
    cells,
    convolution,
    dropout,
    excitation,
    geo,
    harmonics,
    hashing,
    losses,
    norm,
    pointwise,
    recurrence,
    repeats,
    rhythm,
    rotary,
    sampling,
    softmax,
    topk,
)
from stjax.ops import time as times
from stjax.ops.bias import logit_bias
from stjax.ops.moments import moments

ITEMS, NEGATIVES, HEADS, EPOCH = 10_000, 1_024, 2, 345_600


@dataclass(frozen=True)
class Op:
    """A function of arrays; gradients go to the first `differentiable` of them."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[Any, ...]
    differentiable: int = 0
    kind: str = "op"


def ops(b: int, n: int, d: int) -> Iterator[Op]:
    """Every operation, for (b, n) events of d features. A new one gets its line here."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(random.normal(size=shape), jnp.float32)

    time = jnp.asarray(np.cumsum(random.integers(60, 86_400, (b, n)), axis=1), jnp.int32)
    place = jnp.asarray(random.normal((40.7, -74.0), 0.1, (b, n, 2)), jnp.float32)
    valid, key = jnp.ones((b, n), bool), jax.random.key(0)
    yield from of_moments(time, place)
    yield Op("dropout", lambda x: dropout.dropout(x, 0.2, key), (normal(b, n, d),), 1)
    yield Op("layer norm", norm.layer_norm, (normal(b, n, d), normal(d), normal(d)), 3)
    yield Op("causal convolution", convolution.causal, (normal(b, n, 4, d),), 1)
    yield Op("rotary", lambda x: rotary.rotate(x, np.arange(n)), (normal(b, n, HEADS, d // HEADS),), 1)

    q, k, v = (normal(b, n, HEADS, d // HEADS) for _ in range(3))
    events = moments(valid, time, place)
    lag, gap = normal(HEADS, n), normal(HEADS, 26)
    for name, attend in (("softmax", blocked.softmax_attention), ("SiLU", pointwise.silu_attention)):
        for bias, params in (("lags", {"lag": lag}), ("lags and gaps", {"lag": lag, "gap": gap})):
            run = partial(attend, bias=logit_bias, window=n)
            yield Op(
                f"{name} attention, {bias}",
                lambda q, k, v, params, run=run: run(q, k, v, events, params=params),
                (q, k, v, params),
                4,
            )

    start = jnp.zeros((b, d))
    yield Op("GRU", recurrence.gru, (normal(b, n, 3 * d), start, valid, normal(d, 3 * d) / d, normal(d)), 2)
    yield Op("LSTM", recurrence.lstm, (normal(b, n, 4 * d), (start, start), valid, normal(d, 4 * d) / d), 2)
    decay = jax.nn.sigmoid(normal(b, n, d))
    yield Op("linear recurrence", recurrence.linear_recurrence, (decay, normal(b, n, d), start), 3)

    h, table, bias = normal(b * n, d), normal(ITEMS, d), normal(ITEMS)
    target = jnp.asarray(random.integers(2, ITEMS, b * n), jnp.int32)
    drawn = jnp.asarray(random.integers(2, ITEMS, NEGATIVES), jnp.int32)
    weight, even = jnp.ones(b * n), jnp.zeros(NEGATIVES)
    for name, loss in {
        "softmax loss": lambda h, t, b: softmax.catalogue_loss(h, t, b, target, weight, 2),
        "softmax log-prob": lambda h, t, b: softmax.catalogue_log_prob(h, t, b, target, 2),
        "sampled softmax": lambda h, t, b: losses.sampled_log_prob(h, t, b, target, drawn, even, 2),
        "in-batch softmax": lambda h, t, b: losses.in_batch_log_prob(h, t, b, target, weight, None, 2),
        "gBCE": lambda h, t, b: losses.gbce_loss(h, t, b, target, drawn, 0.75, 2),
    }.items():
        yield Op(name, loss, (h, table, bias), 3)
    yield from of_ids(jnp.asarray(random.integers(2, ITEMS, (b, n)), jnp.int32), time, jnp.abs(bias))
    yield Op("top 10 of 10,000", lambda x: topk.top_k(x, 10), (normal(b, ITEMS),))


def of_ids(item: jax.Array, time: jax.Array, weights: jax.Array) -> Iterator[Op]:
    """What is made of ids, and draws of them."""
    n, key, now = item.shape[1], jax.random.key(0), item[:, -1:]
    read, old = jnp.ones((len(item), 1, n), bool), (3_600, 86_400)
    yield Op("hashed rows, 2 functions", lambda i: hashing.hashed_rows(i, 1 << 14), (item,))
    yield Op("repeats", lambda i: repeats.repeats(i[:, None], i, read, [(now, i)]), (item,))
    sums = partial(excitation.consecutive_sums, window=n, taus=old)
    yield Op("excitation", lambda i, t: sums(i, t, t), (item, time))
    yield Op("uniform draws", lambda key: sampling.uniform(key, NEGATIVES, ITEMS, 2), (key,))
    yield Op(
        "mixed draws", lambda key, i: sampling.mixed(key, NEGATIVES, ITEMS, i.ravel(), 0.5, 2), (key, item)
    )
    yield Op("weighted draws", lambda key, w: sampling.weighted(key, NEGATIVES, w), (key, weights))


def of_moments(time: jax.Array, place: jax.Array) -> Iterator[Op]:
    """What is made of times and places."""
    gap = jnp.maximum(jnp.diff(time, axis=1, prepend=time[:, :1]), 0)
    yield Op("calendar", lambda t: tuple(times.date(t, EPOCH)), (time,))
    yield Op("Fourier day, 4 harmonics", lambda t: times.fourier(t, times.DAY, 4), (time,))
    yield Op("learned periods, 16", lambda f, t: times.cycles(t, f), (jnp.linspace(0.1, 2.0, 16), time), 1)
    yield Op("log gap", times.log_gap, (gap,))
    yield Op("log bucket", lambda g: times.log_bucket(g, 26), (gap,))
    yield Op("window counts, 3", lambda t: rhythm.window_counts(t, (3_600, 86_400, 604_800), 64), (time,))
    yield Op("waves of day and week", lambda t: rhythm.waves(t, 3, 3), (time,))
    yield Op("great-circle distance", geo.distance_km, (place, place[:, ::-1]), 2)
    yield Op("multiscale, 16", lambda p: geo.multiscale(p, 0.2, 200.0, 16), (place,), 1)
    yield Op("Sphere2Vec, 16", lambda p: geo.sphere2vec(p, 0.2, 200.0, 16), (place,), 1)
    yield Op("harmonics, degree 6", lambda p: harmonics.real_harmonics(geo.unit_vector(p), 6), (place,), 1)
    yield Op("cells, 3 levels", lambda p: cells.hashed(p, (10, 13, 16), 1 << 14), (place,))
