"""The optimizer: schedule, clipping and decay against plain NumPy; the guard against NaN."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from stjax.events import Batch
from stjax.training import Optimizer
from stjax.training.optimizer import decay_mask, learning_rate, make_optimizer
from stjax.training.state import State, make_initial, make_train_step

PARAMS = {
    "items": {"embedding": jnp.full((5, 3), 2.0)},
    "space": {"table": {"inner": jnp.full((2, 3), 2.0)}},
    "dense": {"kernel": jnp.full((3, 7), 2.0), "bias": jnp.full((7,), 2.0)},
    "norm": {"scale": jnp.full((3,), 2.0)},
}


def test_decay_acts_on_matrices_alone() -> None:
    mask = decay_mask(PARAMS)
    assert mask["dense"] == {"kernel": True, "bias": False}
    assert mask["items"] == {"embedding": False}
    assert mask["space"] == {"table": {"inner": False}}
    assert mask["norm"] == {"scale": False}


def test_without_gradient_only_matrices_shrink() -> None:
    settings = Optimizer(
        learning_rate=0.1, schedule="constant", warmup_steps=0, weight_decay=0.5, clip_norm=0
    )
    optimizer = make_optimizer(settings, 10)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    expected = jax.tree.map(jnp.zeros_like, PARAMS)
    expected["dense"]["kernel"] = jnp.full((3, 7), -0.1 * 0.5 * 2.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)


def test_schedules() -> None:
    settings = Optimizer(learning_rate=0.3, schedule="cosine", warmup_steps=4)
    rate = [float(learning_rate(settings, 14)(step)) for step in range(15)]
    np.testing.assert_allclose(rate[:5], [0.3 * k / 5 for k in (1, 2, 3, 4, 5)], rtol=1e-6)
    expected = [0.15 * (1 + math.cos(math.pi * k / 10)) for k in range(11)]
    np.testing.assert_allclose(rate[4:], expected, atol=1e-7)

    constant = learning_rate(dataclasses.replace(settings, schedule="constant"), 14)
    np.testing.assert_allclose([float(constant(step)) for step in (4, 9, 99)], 0.3, rtol=1e-6)


def test_three_steps_against_numpy() -> None:
    settings = Optimizer(
        learning_rate=0.01, warmup_steps=1, schedule="constant", weight_decay=0.1, clip_norm=1.5
    )
    random = np.random.default_rng(0)
    w = random.normal(size=(3, 2))
    optimizer = make_optimizer(settings, 3)
    params: Any = {"kernel": jnp.asarray(w, jnp.float32)}
    state = optimizer.init(params)
    m = v = np.zeros_like(w)
    for step in range(3):
        gradient = random.normal(size=w.shape) * 3
        updates, state = optimizer.update({"kernel": jnp.asarray(gradient, jnp.float32)}, state, params)
        params = jax.tree.map(jnp.add, params, updates)

        norm = np.sqrt((gradient**2).sum())
        assert norm > settings.clip_norm
        g = gradient * settings.clip_norm / norm
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        direction = m / (1 - 0.9 ** (step + 1)) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        rate = 0.01 * min((step + 1) / 2, 1)
        w = w - rate * (direction + 0.1 * w)
    np.testing.assert_allclose(params["kernel"], w, rtol=2e-5)


class Line(nn.Module):
    """Loss (w x)^2 with noise, where the batch's weight is x and nothing else is read."""

    @nn.compact
    def loss(self, batch: Any, catalogue: Any, train: bool = False) -> Any:
        w = self.param("w", nn.initializers.ones, (2,))
        noise = jax.random.uniform(self.make_rng("dropout")) if train else 0.0
        loss = jnp.square((w * batch.weight).sum())
        return loss + 0 * noise, {"noise": noise}


def steps(batches: list[Any], seed: int = 0) -> tuple[list[State], list[Any]]:
    """States (copied, as the step donates its own) and metrics of training on the batches."""
    settings = Optimizer(warmup_steps=0, schedule="constant")
    optimizer = make_optimizer(settings, 9)
    step = make_train_step(Line(), optimizer, learning_rate(settings, 9))
    key = jax.random.key(seed)
    catalogue: Any = ()
    nothing: Any = ()
    batches = [Batch(nothing, x) for x in batches]
    state = make_initial(Line(), optimizer)(key, batches[0], catalogue)
    states, metrics = [jax.tree.map(np.array, state)], []
    for batch in batches:
        state, said = step(key, state, batch, catalogue)
        states.append(jax.tree.map(np.array, state))
        metrics.append(jax.device_get(said))
    return states, metrics


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])  # 1e30: the square overflows
def test_a_step_that_is_not_finite_changes_nothing(bad: float) -> None:
    good = jnp.asarray([1.0, 2.0])
    states, metrics = steps([good, jnp.asarray([bad, 1.0]), good])
    assert [bool(m["finite"]) for m in metrics] == [True, False, True]
    jax.tree.map(np.testing.assert_array_equal, states[1], states[2])
    assert int(states[2].step) == 1
    assert int(states[3].step) == 2
    assert (states[3].params["w"] != states[1].params["w"]).all()


def test_randomness_is_a_function_of_seed_and_step() -> None:
    batches = [jnp.asarray([1.0, 2.0])] * 3
    noise = [[float(m["noise"]) for m in steps(batches, seed)[1]] for seed in (0, 0, 1)]
    assert noise[0] == noise[1]
    assert len({*noise[0], *noise[2]}) == 6
