"""The softmax in tiles against the softmax in blocks, which is held to the plain formula; and its memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops import softmax, softmax_tiles
from stjax.ops.near import Near
from tests.strict import strict

pytestmark = strict

N, V, D, FIRST = 13, 29, 5, 9  # with tiles of 5 positions and 7 items one tile holds no candidate


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax_tiles, "ROWS", 5)
    monkeypatch.setattr(softmax_tiles, "ITEMS", 7)


def setting() -> tuple[Any, jax.Array, jax.Array]:
    """(h, table, bias, distance weights, log share, log of the other part), target, weight."""
    rng = np.random.default_rng(3)
    shapes = ((N, D), (V, D), (V,), (N, 3), (N,), (N,))
    inputs = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    inputs[5] = inputs[5].at[7].set(-(2.0**100))  # nothing but the catalogue
    target = jnp.asarray(rng.integers(FIRST, V, N), jnp.int32).at[4].set(0)
    weight = jnp.asarray(rng.uniform(size=N), jnp.float32).at[4].set(0.0)  # padding
    return tuple(inputs), target, weight


def near_of(weights: jax.Array) -> Near:
    rng = np.random.default_rng(4)
    here, there = (jnp.asarray(rng.normal((40.7, -74.0), 0.05, (n, 2)), jnp.float32) for n in (N, V))
    return Near.of(weights, here, there.at[11].set(jnp.nan), (0.5, 3.0))


@pytest.mark.parametrize("kind", ["plain", "near", "mixture"])
def test_loss_and_gradients_are_those_of_blocks(
    kind: str, small_tiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, target, weight = setting()

    def loss(h, table, bias, weights, share, other) -> jax.Array:
        near = None if kind == "plain" else near_of(weights)
        mixture = (share, other) if kind == "mixture" else None
        return softmax.catalogue_loss(h, table, bias, target, weight, FIRST, near, mixture)

    def both() -> Any:  # a function of its own each time, so that nothing is taken from a cache
        return jax.jit(jax.value_and_grad(lambda *args: 3.0 * loss(*args), tuple(range(6))))(*inputs)

    expected = both()
    monkeypatch.setattr(softmax, "TILED_FROM", 0)
    found = both()
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    read = {"plain": 3, "near": 4, "mixture": 6}[kind]
    assert [bool((np.asarray(g) != 0).any()) for g in found[1]] == [k < read for k in range(6)]


def test_log_prob_and_its_gradients_are_those_of_blocks(small_tiles: None) -> None:
    (h, table, bias, *_), target, _ = setting()
    g = jnp.asarray(np.random.default_rng(5).normal(size=N), jnp.float32)

    def both(f: Any) -> tuple[jax.Array, Any]:
        y, pull = jax.vjp(f, h, table, bias)
        return y, pull(g)

    found = both(lambda h, table, bias: softmax_tiles.log_prob(h, table, bias, None, target, FIRST))
    expected = both(lambda h, table, bias: softmax.catalogue_log_prob(h, table, bias, target, FIRST))
    assert found[0][4] == -jnp.inf  # no candidate
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_temporary_memory_does_not_depend_on_the_catalogue() -> None:
    """Bytes that the compiled gradient reserves beside arguments and results; nothing runs."""
    n, d = 1_601, 16

    def temporary(items: int) -> int:
        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((n, d), (items, d), (items,), (n,))]
        target = jax.ShapeDtypeStruct((n,), jnp.int32)

        def loss(h, table, bias, weight, target) -> jax.Array:
            return softmax.catalogue_loss(h, table, bias, target, weight, first=2)

        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*shapes, target).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    small, large = temporary(50_021), temporary(1_000_003)
    assert large < 1.01 * small
    assert small < 16e6
