"""Layer normalisation that keeps its input for the backward pass, and nothing else."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

EPSILON = 1e-6


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Each row (..., D) to mean 0 and variance 1, times scale (D,), plus bias (D,) (Ba et al., 2016).

        y = (x - mean) / sqrt(variance + 1e-6) * scale + bias

    Mean, variance and result are float32, whatever x is; its gradient has x's dtype. For the backward pass x
    is kept as it came and normalised again: differentiating the formula would keep several float32 arrays of
    its size, and is slower on CPU.
    """
    return _layer_norm(x, scale, bias)


def _normalised(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(x - mean) / deviation, and 1 / deviation."""
    x = x.astype(jnp.float32)
    mean = x.mean(axis=-1, keepdims=True)
    centred = x - mean
    inverse = jax.lax.rsqrt((centred * centred).mean(axis=-1, keepdims=True) + EPSILON)
    return centred * inverse, inverse


def _plain(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return _normalised(x)[0] * scale + bias


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, Any]:
    return _plain(x, scale, bias), (x, scale)


def _backward(saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale = saved
    y, inverse = _normalised(x)
    rows = tuple(range(g.ndim - 1))
    own = g * scale
    along = (own * y).mean(axis=-1, keepdims=True)
    dx = inverse * (own - own.mean(axis=-1, keepdims=True) - y * along)
    return dx.astype(x.dtype), (g * y).sum(axis=rows), g.sum(axis=rows)


_layer_norm = jax.custom_vjp(_plain)
_layer_norm.defvjp(_forward, _backward)
