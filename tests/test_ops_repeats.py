"""Counts of candidates in the past against a plain loop."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from stjax.ops.repeats import repeats
from tests.strict import strict

pytestmark = strict

B, Q, C, L = 2, 5, 3, 13


def test_counts_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    candidate, item = rng.integers(2, 7, (B, Q, C)), rng.integers(2, 7, (B, L))
    readable = rng.random((B, Q, L)) < 0.6
    readable[1, 2] = False  # a request with nothing to read
    now, then = rng.integers(0, 3, (2, B, Q)), rng.integers(0, 3, (2, B, L))
    found = repeats(
        *(jnp.asarray(x) for x in (candidate, item, readable)),
        [(jnp.asarray(n), jnp.asarray(t)) for n, t in zip(now, then, strict=True)],
    )
    assert found.shape == (B, Q, C, 7)
    for b, q, c in np.ndindex(B, Q, C):
        past = [j for j in range(L) if readable[b, q, j]]
        expected = []
        for alike in (
            past,
            *[[j for j in past if t[b, j] == n[b, q]] for n, t in zip(now, then, strict=True)],
        ):
            own = sum(item[b, j] == candidate[b, q, c] for j in alike)
            expected += [np.log1p(own), own / max(len(alike), 1)]
        np.testing.assert_allclose(found[b, q, c], [*expected, np.log1p(len(past))], rtol=1e-6)


def test_without_fields_and_without_a_past() -> None:
    nothing = jnp.zeros((B, 0), jnp.int32)
    found = repeats(jnp.full((B, Q, C), 3), nothing, jnp.zeros((B, Q, 0), bool))
    assert found.shape == (B, Q, C, 3) and not np.asarray(found).any()
