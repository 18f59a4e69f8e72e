"""The k best, against NumPy's stable sort: values, and the lower index where values tie."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops.topk import streamed_top_k, top_k
from tests.strict import strict

pytestmark = strict


def best(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-x, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(x, order, axis=1), order


def rows(size: int, kind: str) -> np.ndarray:
    random = np.random.default_rng(size)
    x = random.normal(size=(3, size)).astype("f4")
    if kind == "ties":
        x = np.round(2 * x) / 2 + 0.0  # no -0, which XLA sorts below 0
    elif kind == "few":  # most are not allowed
        x = np.where(random.random(x.shape) < 0.01, x, -np.inf).astype("f4")
    elif kind == "crowded":  # all of the best in one group
        x[:, size // 2 : size // 2 + 40] += 100
    return x


@pytest.mark.parametrize("kind", ["random", "ties", "few", "crowded"])
@pytest.mark.parametrize(("size", "k"), [(1, 1), (29, 29), (3001, 1), (3001, 7), (3001, 100), (12_800, 10)])
def test_equals_a_stable_sort(size: int, k: int, kind: str) -> None:
    x = rows(size, kind)
    values, index = best(x, k)
    found = jax.jit(top_k, static_argnums=1)(jnp.asarray(x), k)
    np.testing.assert_array_equal(found[0], values)
    np.testing.assert_array_equal(found[1], index)


@pytest.mark.parametrize("kind", ["random", "ties", "crowded"])
@pytest.mark.parametrize(
    ("size", "block", "k"), [(29, 29, 5), (3001, 256, 7), (3001, 1000, 300), (3001, 5, 11)]
)
def test_in_blocks_equals_a_stable_sort(size: int, block: int, k: int, kind: str) -> None:
    x = rows(size, kind)
    padded = jnp.asarray(np.pad(x, ((0, 0), (0, block)), constant_values=-np.inf))

    def block_of(first: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(padded, first, block, axis=1)

    values, index = best(x, k)
    found = jax.jit(lambda: streamed_top_k(block_of, len(x), size, block, k))()
    np.testing.assert_array_equal(found[0], values)
    np.testing.assert_array_equal(found[1], index)


def test_k_must_be_among_the_entries() -> None:
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"k={k}"):
            top_k(jnp.zeros((2, 5)), k)
        with pytest.raises(ValueError, match=f"k={k}"):
            streamed_top_k(lambda first: jnp.zeros((2, 5)), 2, 5, 5, k)
