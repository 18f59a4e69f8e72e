"""State and the step: pure functions, without input, output or clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from stjax.events import Batch, Catalogue
from stjax.ops import devices

Metrics = dict[str, jax.Array]
Initial = Callable[[jax.Array, Batch, Catalogue], "State"]
Step = Callable[[jax.Array, "State", Batch, Catalogue], tuple["State", Metrics]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """All that training changes. step: int32 scalar, steps done. params: float32."""

    step: Any
    params: Any
    optimizer: Any


@dataclass(frozen=True)
class Shardings:
    """Where arrays lie. state: a tree as a State. used: of the parameters while a step uses them. metrics: of
    all metrics."""

    state: Any
    used: Any
    metrics: Any


def make_initial(model: nn.Module, optimizer: optax.GradientTransformation, shardings: Any = None) -> Initial:
    """The jitted function (key, batch, catalogue) -> the state before the first step.

    batch: any batch of the training shape; only its shapes matter. shardings: of the state, a tree as it is.
    """

    def make(key: jax.Array, batch: Batch, catalogue: Catalogue) -> State:
        params_key, dropout_key = jax.random.split(key)
        keys = {"params": params_key, "dropout": dropout_key}
        params = model.init(keys, batch, catalogue, train=False, method="loss")["params"]
        return State(step=jnp.int32(0), params=params, optimizer=optimizer.init(params))

    return jax.jit(make, out_shardings=shardings)


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    rate: Callable[[Any], Any],
    shardings: Shardings | None = None,
    rows: type[Any] | None = None,
    accumulate: int = 1,
    donate: bool = True,
) -> Step:
    """The jitted step (key, state, batch, catalogue) -> (state, metrics).

    key: the same at every step; all randomness is a function of it and of the step's number. It is an
    argument, so that one compiled program serves every seed. A loss or gradient norm that is not finite
    leaves the state as it was, and `metrics["finite"]` says so: the caller decides when to look.
    metrics: scalars `loss`, `gradient_norm`, `learning_rate`, `finite`, `weight` (of the batch), and
    what the model's loss adds.
    shardings: where several devices train. rows: `stjax.training.rows.Rows` for steps that touch only what
    the batch reads of large tables. accumulate: parts of a batch, of equally many rows, that are read one
    after the other; the gradient is that of the whole, but each part has its own dropout and draws.
    donate: the new state takes the memory of the old one, which cannot be read any more.
    """

    used = None if shardings is None else shardings.used
    if used is not None and rows is not None:
        used = rows.used(used)

    def step(key: jax.Array, state: State, batch: Batch, catalogue: Catalogue) -> tuple[State, Metrics]:
        with devices.within(None if shardings is None else shardings.metrics.mesh):
            return _step(key, state, batch, catalogue)

    def _step(key: jax.Array, state: State, batch: Batch, catalogue: Catalogue) -> tuple[State, Metrics]:
        key = jax.random.fold_in(key, state.step)
        if rows is None:
            return update(key, state, batch, catalogue, {})
        key, drawing = jax.random.split(key)
        read = rows.of(model, drawing, batch, catalogue.schema)
        new, metrics = update(
            key, read.take(state), read.batch(batch), read.catalogue(catalogue), read.variables()
        )
        return read.put(state, new), metrics

    def update(
        key: jax.Array, state: State, batch: Batch, catalogue: Catalogue, variables: dict[str, Any]
    ) -> tuple[State, Metrics]:

        def loss_of(params: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
            if used is not None:
                params = jax.lax.with_sharding_constraint(params, used)
            return model.apply(  # pyright: ignore[reportReturnType] (Linen types it by `mutable`)
                {"params": params, **variables},
                batch,
                catalogue,
                train=True,
                method="loss",
                rngs={"dropout": key},
            )

        differentiate = jax.value_and_grad(loss_of, has_aux=True)
        if accumulate == 1:
            (loss, aux), gradient = differentiate(state.params, key, batch)
        else:
            (loss, aux), gradient = _by_parts(differentiate, accumulate, state.params, key, batch)
        norm = optax.tree.norm(gradient)
        updates, moments = optimizer.update(gradient, state.optimizer, state.params)
        after = State(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            optimizer=moments,
        )
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
        metrics = {"loss": loss, "gradient_norm": norm, "learning_rate": rate(state.step)}
        return kept, {**aux, **metrics, "finite": finite, "weight": batch.weight.sum()}

    out = None if shardings is None else (shardings.state, shardings.metrics)
    return jax.jit(step, donate_argnums=1 if donate else (), out_shardings=out)


def _by_parts(differentiate: Any, parts: int, params: Any, key: jax.Array, batch: Batch) -> Any:
    """Loss, scalars and gradient of a batch, each a mean over its weights, from those of its parts."""

    def cut(x: Any) -> jax.Array:  # every n-th row, so that devices which share the rows share each part
        return jnp.asarray(x).reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

    def body(total: Any, part: tuple[jax.Array, Batch]) -> tuple[Any, Any]:
        k, own = part
        found, gradient = differentiate(params, jax.random.fold_in(key, k), own)
        weight = own.weight.sum()
        return jax.tree.map(lambda t, g: t + weight * g, total, gradient), (weight, found)

    zeros = jax.tree.map(jnp.zeros_like, params)
    total, (weight, found) = jax.lax.scan(body, zeros, (jnp.arange(parts), jax.tree.map(cut, batch)))
    whole = jnp.maximum(weight.sum(), 1.0)
    return jax.tree.map(lambda x: weight @ x / whole, found), jax.tree.map(lambda t: t / whole, total)


def count_parameters(params: Any) -> int:
    """Number of trainable scalars."""
    return sum(x.size for x in jax.tree.leaves(params))
