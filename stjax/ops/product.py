"""Products in a low precision with sums in float32, forward and backward."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def product(formula: str, a: jax.Array, b: jax.Array, dtype: Any = None) -> jax.Array:
    """The einsum of two arrays, whose factors are rounded to `dtype` and whose sums are float32.

    dtype: None is that of `a`. Gradients multiply in the same dtype and add in float32 as well, and arrive in
    the dtypes of a and b: those of float32 parameters are never rounded, which the transposed product of JAX
    would multiply in float32, or round. Every index of one array must be one of the other or of the result.
    Returns float32. Mixed precision as in Micikevicius et al., ICLR 2018; bfloat16 needs no loss scaling.
    """
    dtype = jnp.dtype(a.dtype if dtype is None else dtype)
    if dtype == jnp.float32:
        return jnp.einsum(formula, a.astype(dtype), b.astype(dtype))
    return _product(formula, dtype, a.dtype, b.dtype, a, b)


def _plain(formula: str, dtype: Any, a_dtype: Any, b_dtype: Any, a: jax.Array, b: jax.Array) -> jax.Array:
    def low(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum(formula, a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)

    def rounded(a: jax.Array, b: jax.Array) -> jax.Array:
        """The same numbers: a product of two such factors is exact in float32."""
        info = jnp.finfo(dtype)
        a, b = (jax.lax.reduce_precision(x.astype(jnp.float32), info.nexp, info.nmant) for x in (a, b))
        return jnp.einsum(formula, a, b)

    # XLA on CPU has no products of many bfloat16 matrices with float32 sums.
    return jax.lax.platform_dependent(a, b, cpu=rounded, default=low)


def _forward(formula, dtype, a_dtype, b_dtype, a, b):
    a, b = a.astype(dtype), b.astype(dtype)  # so they are kept for the way back
    return _plain(formula, dtype, a_dtype, b_dtype, a, b), (a, b)


def _backward(formula, dtype, a_dtype, b_dtype, saved, g):
    (a, b), (inputs, out) = saved, formula.split("->")
    first, second = inputs.split(",")
    d_a = product(f"{out},{second}->{first}", g, b, dtype).astype(a_dtype)
    d_b = product(f"{first},{out}->{second}", a, g, dtype).astype(b_dtype)
    return d_a, d_b


_product = jax.custom_vjp(_plain, nondiff_argnums=(0, 1, 2, 3))
_product.defvjp(_forward, _backward)
