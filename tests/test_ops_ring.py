"""Rings against lists of the last W entries."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops.ring import advance, write
from tests.strict import strict

pytestmark = strict

B, STEPS = 3, 17


@pytest.mark.parametrize("width", [1, 5, 23])
def test_a_ring_is_a_list_of_the_last_entries(width: int) -> None:
    """Entries that are not kept change nothing; users advance by themselves."""
    random = np.random.default_rng(width)
    entries = random.normal(size=(STEPS, B, 2)).astype(np.float32)
    keep = random.random((STEPS, B)) < [0.9, 0.5, 0.0]

    @jax.jit
    def step(memory: jax.Array, following: jax.Array, x: jax.Array, keep: jax.Array):
        row, lag, following = advance(following, keep, width)
        return write(memory, x, row), following, lag

    memory, following = jnp.zeros((B, width, 2)), jnp.zeros(B, jnp.int32)
    lists: list[list[np.ndarray]] = [[] for _ in range(B)]
    for x, kept in zip(entries, keep, strict=True):
        memory, following, lag = step(memory, following, x, kept)
        for b in range(B):
            lists[b] = (lists[b] + [x[b]] * int(kept[b]))[-width:]
            assert sorted(lag[b].tolist()) == list(range(width))
            newest_first = np.asarray(memory[b])[np.argsort(lag[b])]
            padded = np.stack([*reversed(lists[b]), *[np.zeros(2)] * (width - len(lists[b]))])
            np.testing.assert_array_equal(newest_first, padded)
    assert keep[:, 0].sum() > 5 and following.dtype == jnp.int32
