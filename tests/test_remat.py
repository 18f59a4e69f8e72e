"""Rematerialisation: the same losses and gradients, and less that is kept for the backward pass."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.nn import GRU, HSTU, LSTM, Interest, SelfAttention, StateSpace
from tests.random_events import random_events
from tests.strict import strict

pytestmark = strict

MODELS: dict[str, Interest] = {
    "gru": GRU(layers=2, dropout=0.2),
    "lstm": LSTM(layers=2, dropout=0.2),
    "attention": SelfAttention(layers=2, heads=2, window=37, dropout=0.2),
    "hstu": HSTU(layers=2, heads=2, window=37, dropout=0.2),
    "state_space": StateSpace(layers=2, modes=8, dropout=0.2),
}


def setting(name: str, **changes: Any) -> tuple[Any, tuple[Any, ...]]:
    """A loss of (variables, x, events) with dropout, and these."""
    model = dataclasses.replace(MODELS[name], **changes)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(7, 37, 16)), jnp.float32)
    events = jax.tree.map(jnp.asarray, random_events(7, 37, seed=1))
    variables = jax.jit(model.init)(jax.random.key(0), x, events)

    def loss(variables: Any, x: jax.Array, events: Any) -> jax.Array:
        y = model.apply(variables, x, events, True, rngs={"dropout": jax.random.key(2)})
        return (y**2).sum()  # pyright: ignore

    return loss, (variables, x, events)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("gru", "hstu") else pytest.mark.slow) for n in MODELS]
)
def test_gradients_are_the_same(name: str) -> None:
    (plain, inputs), (again, others) = setting(name), setting(name, remat=True)
    jax.tree.map(np.testing.assert_array_equal, inputs, others)  # the same parameters from the same key
    expected, found = (jax.jit(jax.value_and_grad(f, (0, 1)))(*inputs) for f in (plain, again))
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected[1]))

    def near(path: Any, a: jax.Array, b: jax.Array) -> None:
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6 * scale, err_msg=str(path))

    jax.tree_util.tree_map_with_path(near, expected, found)


@pytest.mark.parametrize("name", MODELS)
def test_less_is_kept_for_the_backward_pass(name: str) -> None:
    """Bytes of all that the backward pass is given, parameters and inputs included; nothing runs.

    XLA on CPU finds out that a value was there before and keeps it all the same, so a compiled program of
    this machine tells nothing.
    """

    def kept(**changes: Any) -> int:
        loss, (variables, x, events) = setting(name, **changes)
        pull = jax.eval_shape(lambda v, x: jax.vjp(lambda v, x: loss(v, x, events), v, x)[1], variables, x)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pull))

    assert kept(remat=True) < 0.4 * kept()
