"""Attention in blocks: equal to the plain form in values and gradients, in memory linear in the length."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops import attention, blocked, geo, strips
from stjax.ops.moments import moments, pair_gaps
from stjax.ops.time import log_bucket
from tests.random_events import random_events
from tests.strict import strict

pytestmark = strict

B, L, H, D = 3, 23, 2, 5
ATTENTION = {
    "softmax": (blocked.softmax_attention, attention.attend),
    "silu": (blocked.silu_attention, attention.attend_silu),
}


def bias(params, lag, seconds, km) -> jax.Array:
    total = attention.lag_bias(params["lag"], lag)[None]
    total += attention.bucket_bias(params["gap"], log_bucket(seconds, params["gap"].shape[1]))
    total += attention.bucket_bias(params["distance"], jnp.where(km < 0, 16, geo.distance_bucket(km, 16)))
    return total + attention.decay_bias(params["weight"], params["tau"], seconds.astype(jnp.float32))


def setting(window: int, length: int = L):
    """q, k, v, the cotangent, moments with a row that has no valid event, bias parameters, all random."""
    rng = np.random.default_rng(window)
    q, k, v, g = (jnp.asarray(rng.normal(size=(B, length, H, D)), jnp.float32) for _ in range(4))
    events = jax.tree.map(jnp.asarray, random_events(B, length, seed=window))
    valid = events.valid.at[1].set(False).at[2].set(True)
    now = moments(valid, events.time, events.place)
    shapes = {"lag": (H, window), "gap": (H, 9), "distance": (H, 17), "weight": (H,), "tau": (H,)}
    params = {name: jnp.asarray(rng.uniform(0.2, 2, shape), jnp.float32) for name, shape in shapes.items()}
    return (q, k, v, params), now, g


@pytest.fixture
def by_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of 5 queries, and groups of 2 of the 3 rows."""
    monkeypatch.setattr(blocked, "CPU_PLAIN_LENGTH", 0)
    monkeypatch.setattr(strips, "STRIP", 5)
    monkeypatch.setattr(strips, "PART_ENTRIES", 2 * H * 5 * L)


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("window", [L, 6, 1, 40])
def test_strips_equal_the_plain_form(kind: str, window: int, by_strips: None) -> None:
    """Values and gradients to q, k, v and the bias; a window shorter, equal and longer than L."""
    equal_the_plain_form(kind, window, None)


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize(("window", "block"), [(L, 5), (6, 5), (1, 5), (40, L)])
def test_tiles_equal_the_plain_form(kind: str, window: int, block: int) -> None:
    """As of strips."""
    equal_the_plain_form(kind, window, block)


def equal_the_plain_form(kind: str, window: int, block: int | None) -> None:
    in_blocks, plain = ATTENTION[kind]
    inputs, events, g = setting(window)

    def whole(q, k, v, params) -> jax.Array:
        lag = np.arange(L)[:, None] - np.arange(L)[None, :]
        mask = attention.causal_mask(L, window) & events.valid[:, None, None, :]
        return plain(q, k, v, mask, bias(params, lag, *pair_gaps(events, events)))

    def blocks(q, k, v, params) -> jax.Array:
        return in_blocks(q, k, v, events, bias, params, window, block)

    def both(f):
        def loss(*inputs):
            y = f(*inputs)
            return (y * g).sum(), y

        (_, y), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))(*inputs)
        return y, gradients

    def near(path, expected: jax.Array, got: jax.Array) -> None:
        scale = max(1.0, float(jnp.abs(expected).max()))
        np.testing.assert_allclose(got / scale, expected / scale, atol=1e-5, err_msg=str(path))

    expected, got = both(whole), both(blocks)
    jax.tree_util.tree_map_with_path(near, expected, got)
    assert (np.asarray(got[0])[1] == 0).all()
    if window > 1:  # else softmax weights are 1 and gaps 0
        assert all((np.asarray(d) != 0).any() for d in jax.tree.leaves(got[1]))


@pytest.mark.parametrize("kind", ATTENTION)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    tiles, _ = ATTENTION[kind]
    inputs, events, g = setting(6, length=11)

    @jax.jit
    def loss(inputs) -> jax.Array:
        q, k, v, params = inputs
        return (tiles(q, k, v, events, bias, params, 6, 4) * g).sum()

    gradient = jax.grad(loss)(inputs)
    rng = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(inputs)
    for n, leaf in enumerate(leaves):
        way = jnp.asarray(rng.normal(size=leaf.shape) * 2e-3, jnp.float32)
        up, down = (
            jax.tree.unflatten(tree, [*leaves[:n], leaf + s * way, *leaves[n + 1 :]]) for s in (1, -1)
        )
        expected = float(loss(up) - loss(down)) / 2
        assert float(jnp.vdot(jax.tree.leaves(gradient)[n], way)) == pytest.approx(
            expected, rel=0.03, abs=1e-4
        )


@pytest.mark.parametrize("kind", ATTENTION)
def test_memory_grows_with_the_length_not_its_square(kind: str) -> None:
    """Temporary bytes of the compiled gradient; nothing runs."""

    def temporary(length: int) -> int:
        inputs, events, _ = jax.eval_shape(lambda: setting(64, length))
        lags = jax.ShapeDtypeStruct((H, length), jnp.float32)
        inputs = (*inputs[:3], inputs[3] | {"lag": lags})

        def loss(inputs, events) -> jax.Array:
            q, k, v, params = inputs
            return ATTENTION[kind][0](q, k, v, events, bias, params, length).sum()

        compiled = jax.jit(jax.grad(loss)).lower(inputs, events).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    short, long = temporary(1_024), temporary(2_048)
    assert long < 2.3 * short
    assert long < B * H * 2_048**2 * 4 / 4  # far from one array of all pairs
