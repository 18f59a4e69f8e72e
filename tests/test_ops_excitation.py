"""Sums of kernels over the events of one item, against loops."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops import excitation
from tests.strict import strict

pytestmark = strict

TAUS = (3_600, 86_400)


def reference(ids: np.ndarray, time: np.ndarray, now: np.ndarray, read: np.ndarray) -> np.ndarray:
    (batch, requests), events = now.shape, ids.shape[1]
    out = np.zeros((batch, 1 + len(TAUS), requests, events))
    for b, q, m, j in np.ndindex(batch, requests, events, events):
        if read[b, q, j] and ids[b, j] == ids[b, m] and ids[b, j] >= 0:
            gap = float(now[b, q] - time[b, j])
            out[b, :, q, m] += [1.0, *(np.exp(-gap / tau) for tau in TAUS)]
    return out


@pytest.mark.parametrize(
    ("events", "requests", "window"), [(13, 13, 13), (17, 17, 5), (23, 7, 11), (19, 1, 3)]
)
def test_both_forms(events: int, requests: int, window: int) -> None:
    rng = np.random.default_rng(events)
    ids = rng.integers(-1, 4, (2, events))
    time = np.sort(rng.integers(0, 300_000, (2, events)), axis=1).astype(np.int32)
    now = time[:, events - requests :] + rng.integers(0, 5_000, (2, requests)).astype(np.int32)
    lag = (events - requests + np.arange(requests))[:, None] - np.arange(events)
    read = np.broadcast_to((lag >= 0) & (lag < window), (2, requests, events))
    expected = reference(ids, time, now, read)
    arrays = [jnp.asarray(x) for x in (ids, time, now)]
    np.testing.assert_allclose(excitation.sums(*arrays, jnp.asarray(read), TAUS), expected, atol=1e-5)
    np.testing.assert_allclose(excitation.consecutive_sums(*arrays, window, TAUS), expected, atol=1e-5)


def test_the_future_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    ids, time = rng.integers(0, 3, (1, 11)), np.sort(rng.integers(0, 90_000, (1, 11))).astype(np.int32)
    changed = ids.copy()
    changed[0, 7:] = 2 - changed[0, 7:]
    a, b = (excitation.consecutive_sums(jnp.asarray(x), time, time, 11, TAUS) for x in (ids, changed))
    np.testing.assert_array_equal(a[:, :, :7, :7], b[:, :, :7, :7])
