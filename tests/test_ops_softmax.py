"""The catalogue softmax in blocks against the plain formula, values and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops import softmax
from tests.strict import strict

pytestmark = strict


def plain(h: jax.Array, table: jax.Array, bias: jax.Array, target: jax.Array, first: int) -> jax.Array:
    logits = (h @ table.T + bias[None]).at[:, :first].set(-jnp.inf)
    return jax.nn.log_softmax(logits)[jnp.arange(len(target)), target]


@pytest.mark.parametrize("entries", [1, 60, 1 << 20])
@pytest.mark.parametrize("first", [0, 2])
def test_equals_the_plain_formula(monkeypatch: pytest.MonkeyPatch, entries: int, first: int) -> None:
    monkeypatch.setattr(softmax, "BLOCK_ENTRIES", entries)  # blocks of 1, 3 and 13 of the 13 positions
    monkeypatch.setattr(softmax, "LEAST_ROWS", 1)
    k = jax.random.split(jax.random.key(6), 5)
    h, table = jax.random.normal(k[0], (13, 5)), jax.random.normal(k[1], (19, 5))
    bias, g = jax.random.normal(k[2], (19,)), jax.random.normal(k[3], (13,))
    target = jax.random.randint(k[4], (13,), first, 19)

    def value(f, h, table, bias):
        return jnp.vdot(f(h, table, bias, target, first), g)

    np.testing.assert_allclose(
        softmax.catalogue_log_prob(h, table, bias, target, first),
        plain(h, table, bias, target, first),
        atol=1e-5,
    )
    found = jax.grad(value, (1, 2, 3))(softmax.catalogue_log_prob, h, table, bias)
    expected = jax.grad(value, (1, 2, 3))(plain, h, table, bias)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_loss_is_the_weighted_sum_and_its_gradient() -> None:
    k = jax.random.split(jax.random.key(7), 5)
    h, table = jax.random.normal(k[0], (13, 5)), jax.random.normal(k[1], (19, 5))
    bias, target = jax.random.normal(k[2], (19,)), jax.random.randint(k[3], (13,), 2, 19)
    weight = jax.random.uniform(k[4], (13,)).at[4].set(0.0)

    def expected(h, table, bias):
        return -3.0 * jnp.vdot(plain(h, table, bias, target, 2), weight)

    def found(h, table, bias):
        of_padding = target.at[4].set(0)  # its weight is 0
        return 3.0 * softmax.catalogue_loss(h, table, bias, of_padding, weight, first=2)

    args = (h, table, bias)
    np.testing.assert_allclose(found(*args), expected(*args), rtol=1e-5)
    one, other = jax.value_and_grad(found, (0, 1, 2))(*args), jax.value_and_grad(expected, (0, 1, 2))(*args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one, other)


def test_a_target_that_is_no_candidate_has_no_gradient() -> None:
    h, table, bias = jnp.ones((2, 3)), jnp.ones((5, 3)), jnp.zeros(5)
    target = jnp.asarray([0, 4])
    log_p = softmax.catalogue_log_prob(h, table, bias, target, first=2)
    assert log_p[0] == -jnp.inf
    np.testing.assert_allclose(log_p[1], -np.log(3), rtol=1e-6)
    weight = jnp.asarray([0.0, 1.0])
    g = jax.grad(
        lambda h: jnp.where(weight > 0, softmax.catalogue_log_prob(h, table, bias, target, 2), 0).sum()
    )(h)
    assert np.isfinite(g).all() and (np.asarray(g[0]) == 0).all()


def test_no_array_of_positions_by_items_exists() -> None:
    """The compiled gradient's temporaries stay far below one (N, V) array of 64 MiB."""
    n, v, d = 4_096, 4_096, 16
    shapes = [(n, d), (v, d), (v,)]
    args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]

    def loss(h, table, bias, target):
        return softmax.catalogue_log_prob(h, table, bias, target, first=2).sum()

    compiled = (
        jax.jit(jax.grad(loss, (0, 1, 2))).lower(*args, jax.ShapeDtypeStruct((n,), jnp.int32)).compile()
    )
    memory = compiled.memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < n * v * 4 / 3


def test_loss_of_a_mixture_and_its_gradients() -> None:
    """-log(share * softmax + other), with positions whose share or other is next to nothing."""
    k = jax.random.split(jax.random.key(8), 7)
    h, table = jax.random.normal(k[0], (13, 5)), jax.random.normal(k[1], (19, 5))
    bias, target = jax.random.normal(k[2], (19,)), jax.random.randint(k[3], (13,), 2, 19)
    weight = jax.random.uniform(k[4], (13,)).at[4].set(0.0)
    share = jax.random.normal(k[5], (13,)).at[6].set(-30.0)
    other = jax.random.normal(k[6], (13,)).at[7].set(-(2.0**100))

    def expected(h, table, bias, share, other):
        mixed = jnp.logaddexp(share + plain(h, table, bias, target, 2), other)
        return -3.0 * jnp.vdot(mixed, weight)

    def found(h, table, bias, share, other):
        of_padding = target.at[4].set(0)  # its weight is 0
        loss = softmax.catalogue_loss(h, table, bias, of_padding, weight, 2, None, (share, other))
        return 3.0 * loss

    args = (h, table, bias, share, other)
    one, other_ = (jax.value_and_grad(f, tuple(range(5)))(*args) for f in (found, expected))
    np.testing.assert_allclose(one[0], other_[0], rtol=1e-5)
    for a, b in zip(one[1], other_[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    # Without a gradient the plain path runs: the same value.
    np.testing.assert_allclose(found(*args), one[0], rtol=1e-5)


def test_the_logits_of_one_row_are_those_of_many() -> None:
    """One row is multiplied in another order (see `catalogue_logits`)."""
    random = np.random.default_rng(11)
    h, table, bias = (random.normal(size=s).astype(np.float32) for s in ((3, 5), (17, 5), (17,)))

    def loss(h: jax.Array, table: jax.Array, bias: jax.Array) -> jax.Array:
        return (jnp.where(jnp.arange(17) < 2, 0.0, softmax.catalogue_logits(h, table, bias, 2)) ** 2).sum()

    whole = jax.grad(loss, (0, 1, 2))(h, table, bias)
    rows = [jax.grad(loss, (0, 1, 2))(h[k : k + 1], table, bias) for k in range(3)]
    for k in range(3):
        expected = h[k] @ table.T + bias
        np.testing.assert_allclose(
            softmax.catalogue_logits(h[k : k + 1], table, bias, 2)[0, 2:], expected[2:], rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(rows[k][0][0], whole[0][k], rtol=1e-5, atol=1e-5)
    for own, each in zip(whole[1:], zip(*(row[1:] for row in rows), strict=True), strict=True):
        np.testing.assert_allclose(sum(each), own, rtol=1e-5, atol=1e-5)
