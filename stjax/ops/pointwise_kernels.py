"""The two kernels of pointwise attention on TPUs; `pointwise_tpu` calls them.

A tile is a block of queries against a block of keys, in one head of one row. The forward pass goes over the
keys of each block of queries. The backward pass goes over the queries of each block of keys; the gradients of
the queries that a window reaches are kept meanwhile in a ring of blocks. reach: how many blocks before its
own a block of queries reads. All other arguments are references into the chip's memory; `total`, `ring` and
those with a trailing underscore are to what is kept from tile to tile, float32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from stjax.ops.bias_tpu import Terms, Tile


def _product(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """The product of two matrices over these axes, float32."""
    axes = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def forward_kernel(
    terms: Terms, window: int, reach: int, scalars, lags, here, there, q, k, v, y, total
) -> None:
    head, i, step = (pl.program_id(n) for n in (1, 2, 3))
    apart = reach - step

    @pl.when(step == 0)
    def _() -> None:
        total[...] = jnp.zeros_like(total)

    @pl.when(i >= apart)
    def _() -> None:
        tile = Tile(terms, scalars, lags, head, apart, here[...], there[...])
        mask = tile.mask(window)
        s = _product(q[...], k[...], (1, 1)) + tile.logits(mask)
        weights = jnp.where(mask, s * jax.nn.sigmoid(s), 0.0)
        total[...] += _product(weights.astype(v.dtype), v[...], (1, 0))

    @pl.when(apart == 0)
    def _() -> None:
        y[...] = total[...].astype(y.dtype)


def backward_kernel(
    terms: Terms,
    window: int,
    reach: int,
    scalars,
    lags,
    here,
    there,
    q,
    k,
    v,
    dy,
    dq,
    dk,
    dv,
    d_scalars,
    d_lags,
    ring,
    dk_,
    dv_,
) -> None:
    head, j, apart = (pl.program_id(n) for n in (1, 2, 3))
    slot = jax.lax.rem(j + apart, reach + 1)

    @pl.when((j == 0) & (apart == 0))
    def _() -> None:
        d_scalars[...] = jnp.zeros_like(d_scalars)
        d_lags[...] = jnp.zeros_like(d_lags)

    @pl.when(apart == 0)
    def _() -> None:
        dk_[...] = jnp.zeros_like(dk_)
        dv_[...] = jnp.zeros_like(dv_)

    @pl.when((j == 0) | (apart == reach))  # the first keys that these queries read
    def _() -> None:
        ring[slot] = jnp.zeros(ring.shape[1:], ring.dtype)

    @pl.when(j + apart < pl.num_programs(2))
    def _() -> None:
        tile = Tile(terms, scalars, lags, head, apart, here[...], there[...])
        mask = tile.mask(window)
        s = _product(q[...], k[...], (1, 1)) + tile.logits(mask)
        gate = jax.nn.sigmoid(s)
        weights = jnp.where(mask, s * gate, 0.0)
        d_weights = _product(dy[...], v[...], (1, 1))
        ds = jnp.where(mask, d_weights * (gate + weights * (1.0 - gate)), 0.0)
        tile.add_gradient(ds, mask, d_scalars, d_lags)
        ds = ds.astype(q.dtype)
        dv_[...] += _product(weights.astype(dy.dtype), dy[...], (0, 0))
        dk_[...] += _product(ds, q[...], (0, 0))
        ring[slot] += _product(ds, k[...], (1, 0))

    @pl.when(apart == 0)  # the last keys that the queries of block j read: their own
    def _() -> None:
        dq[...] = ring[slot].astype(dq.dtype)

    @pl.when(apart == reach)
    def _() -> None:
        dk[...] = dk_[...].astype(dk.dtype)
        dv[...] = dv_[...].astype(dv.dtype)
