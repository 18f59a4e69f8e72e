"""Attention and its masked softmax against plain NumPy loops."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops import attention, geo
from tests.strict import strict

pytestmark = strict


def test_attend_is_the_plain_loop() -> None:
    rng = np.random.default_rng(4)
    b, lq, lk, heads, d = 2, 3, 5, 2, 7
    q = rng.normal(size=(b, lq, heads, d)).astype(np.float32)
    k, v = (rng.normal(size=(b, lk, heads, d)).astype(np.float32) for _ in range(2))
    mask = rng.random((b, 1, lq, lk)) < 0.5
    mask[1, 0, 2] = False  # a query that may read nothing
    bias = rng.normal(size=(1, heads, lq, lk)).astype(np.float32)
    y = np.asarray(attention.attend(q, k, v, mask, bias))
    for i in range(b):
        for a in range(lq):
            for h in range(heads):
                expected = np.zeros(d)
                read = np.flatnonzero(mask[i, 0, a])
                if len(read):
                    logits = k[i, read, h] @ q[i, a, h] / np.sqrt(d) + bias[0, h, a, read]
                    weights = np.exp(logits - logits.max())
                    expected = (weights / weights.sum()) @ v[i, read, h]
                np.testing.assert_allclose(y[i, a, h], expected, atol=1e-5)


def test_masked_softmaxes_agree_with_the_subset() -> None:
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.normal(0, 30, (4, 11)), jnp.float32)
    mask = rng.random((4, 11)) < 0.5
    mask[2] = False
    log_p = attention.masked_log_softmax(x, mask)
    p = attention.masked_softmax(x, mask)
    total = attention.masked_logsumexp(x, mask)
    for row in range(4):
        kept = np.asarray(x[row])[mask[row]].astype(np.float64)
        assert (np.asarray(log_p[row])[~mask[row]] == attention.NEVER).all()
        assert (np.asarray(p[row])[~mask[row]] == 0).all()
        if len(kept):
            lse = kept.max() + np.log(np.exp(kept - kept.max()).sum())
            np.testing.assert_allclose(total[row], lse, rtol=1e-5)
            np.testing.assert_allclose(np.asarray(log_p[row])[mask[row]], kept - lse, atol=1e-4)
            np.testing.assert_allclose(np.asarray(p[row])[mask[row]], np.exp(kept - lse), atol=1e-6)
        else:
            assert float(total[row]) == attention.NEVER


def test_gradients_stay_finite_where_everything_is_masked() -> None:
    x = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    mask = jnp.asarray([[True, True], [False, False]])

    def kept(f, x: jax.Array) -> jax.Array:
        return jnp.where(mask, f(x, mask), 0.0)[:, 0].sum()

    def total(x: jax.Array) -> jax.Array:
        return attention.masked_logsumexp(x, mask).sum()

    for loss in (partial(kept, attention.masked_softmax), partial(kept, attention.masked_log_softmax), total):
        gradient = np.asarray(jax.grad(loss)(x))
        assert np.isfinite(gradient).all() and (gradient[1] == 0).all() and (gradient[0] != 0).all()


def test_causal_mask_is_a_band() -> None:
    mask = np.asarray(attention.causal_mask(6, 3))
    for i in range(6):
        assert np.flatnonzero(mask[i]).tolist() == [j for j in range(6) if 0 <= i - j < 3]


def test_attend_silu_is_the_plain_loop() -> None:
    rng = np.random.default_rng(6)
    b, lq, lk, heads, d = 2, 3, 5, 2, 7
    q = rng.normal(size=(b, lq, heads, d)).astype(np.float32)
    k, v = (rng.normal(size=(b, lk, heads, d)).astype(np.float32) for _ in range(2))
    mask = rng.random((b, 1, lq, lk)) < 0.5
    mask[1, 0, 2] = False
    bias = rng.normal(size=(1, heads, lq, lk)).astype(np.float32)
    y = np.asarray(attention.attend_silu(*map(jnp.asarray, (q, k, v, mask, bias))))
    for i in range(b):
        for a in range(lq):
            for h in range(heads):
                expected, read = np.zeros(d), np.flatnonzero(mask[i, 0, a])
                for m in read:
                    s = q[i, a, h] @ k[i, m, h] + bias[0, h, a, m]
                    expected += s / (1 + np.exp(-s)) * v[i, m, h] / len(read)
                np.testing.assert_allclose(y[i, a, h], expected, atol=1e-5)


def test_lag_bias_reads_the_table_in_every_kind_of_tile() -> None:
    """Traced and static lags, values and gradient, against indexing; also beyond both ends of the table."""
    rng = np.random.default_rng(7)
    window = 7
    table = jnp.asarray(rng.normal(size=(2, window)), jnp.float32)
    for first, rows, columns in ((0, 5, 5), (5, 5, 5), (10, 5, 5), (6, 1, 7), (4, 3, 6), (0, 1, 1)):
        lag = first + np.arange(rows)[:, None] - np.arange(columns)[None, :]
        inside = (lag >= 0) & (lag < window)
        g = rng.normal(size=(2, rows, columns)).astype(np.float32)
        y, pull = jax.vjp(lambda t, lag=lag: attention.lag_bias(t, jnp.asarray(lag, jnp.int32)), table)
        indexed = np.asarray(table)[:, np.clip(lag, 0, window - 1)]
        np.testing.assert_array_equal(y, np.where(inside, indexed, 0))
        expected = [[g[h][lag == n].sum() for n in range(window)] for h in range(2)]
        np.testing.assert_allclose(pull(jnp.asarray(g))[0], expected, atol=1e-5)
        np.testing.assert_array_equal(attention.lag_bias(table, lag), y)


def test_distance_buckets_are_powers_of_two() -> None:
    km = np.array([0.0, 1e-6, 0.0624, 0.0625, 0.99, 1.0, 1.99, 2.0, 700.0, 12_000.0], np.float32)
    expected = [0, 0, 0, 1, 4, 5, 5, 6, 14, 15]
    assert np.asarray(geo.distance_bucket(jnp.asarray(km), 16)).tolist() == expected


def test_bucket_and_decay_biases_are_the_plain_loop() -> None:
    rng = np.random.default_rng(8)
    table, bucket = rng.normal(size=(2, 5)).astype(np.float32), rng.integers(0, 5, (3, 4, 6)).astype(np.int32)
    y = np.asarray(attention.bucket_bias(jnp.asarray(table), jnp.asarray(bucket)))
    x = rng.uniform(0, 1e5, (3, 4, 6)).astype(np.float32)
    weight, scale = np.array([0.5, 2.0], np.float32), np.array([60.0, 3_600.0], np.float32)
    decay = np.asarray(attention.decay_bias(jnp.asarray(weight), jnp.asarray(scale), jnp.asarray(x)))
    for i, h, a, m in np.ndindex(3, 2, 4, 6):
        assert y[i, h, a, m] == table[h, bucket[i, a, m]]
        assert abs(decay[i, h, a, m] + weight[h] * np.log(1 + x[i, a, m] / scale[h])) < 1e-4
