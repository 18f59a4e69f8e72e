"""Pointwise attention with a spatiotemporal bias (HSTU, Zhai et al., ICML 2024) as a kernel for TPUs.

Logits, with their bias, live in the chip's own memory only, forward and backward, where they are made again:
what lies in HBM is linear in L. Tiles outside of the window and above the diagonal are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from stjax.ops import devices
from stjax.ops.bias import Parameters
from stjax.ops.bias_tpu import ROWS, Terms, pack_moments
from stjax.ops.moments import Moments
from stjax.ops.pointwise_kernels import backward_kernel, forward_kernel

LANES, BLOCK = 128, 256
RING_BYTES, MEMORY_BYTES = 16 << 20, 64 << 20  # of the chip's own memory: the ring at most, and all


def covers(q: jax.Array, params: Parameters, events: Moments, window: int) -> bool:
    """Whether the kernel can take these arguments of `silu_attention`."""
    rows, length, _, width = q.shape
    terms, count = Terms.of(params, events), devices.sharing()
    block = block_size(length)
    ring = (_reach(window, length, block) + 1) * block * _up(width, LANES) * 4
    return (
        q.dtype in (jnp.float32, jnp.bfloat16)
        and count is not None
        and rows % count == 0
        and max(terms.gap, terms.distance) <= LANES
        and ring <= RING_BYTES
    )


def silu_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    events: Moments,
    params: Parameters,
    window: int,
    block: int | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Position l reads positions m with 0 <= l - m < window by silu(q k^T + bias) v, not divided.

    q, k, v: (B, L, H, D), float32 or bfloat16. params: of `stjax.ops.bias.logit_bias`; gradients reach q, k,
    v and params. block: positions a tile, a multiple of 128. interpret: run it without a TPU, slowly.
    Returns (B, L, H, D).
    """
    rows, length, heads, width = q.shape
    block = block_size(length) if block is None else block
    terms, reach = Terms.of(params, events), _reach(window, length, block)
    plan = Plan(terms, min(window, length), block, reach, heads, interpret)
    extra, wider = -length % block, -width % LANES

    def flat(x: jax.Array) -> jax.Array:  # HBM is laid out in lanes of 128 anyway
        x = jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, wider)))
        return x.reshape(rows, length + extra, heads * (width + wider))

    moments = jnp.pad(pack_moments(events), ((0, 0), (0, 0), (0, extra)))
    scalars, lags = terms.pack(params, heads, block, reach)
    y = _attention(plan, scalars, lags, moments, flat(q), flat(k), flat(v))
    return y.reshape(rows, length + extra, heads, width + wider)[:, :length, :, :width]


def block_size(length: int) -> int:
    return min(BLOCK, _up(length, LANES))


def _reach(window: int, length: int, block: int) -> int:
    return -(-(min(window, length) - 1) // block)


def _up(n: int, multiple: int) -> int:
    return n + -n % multiple


@dataclass(frozen=True)
class Plan:
    """What is static. reach: how many blocks before its own a block of queries reads."""

    terms: Terms
    window: int
    block: int
    reach: int
    heads: int
    interpret: bool

    def call(self, kernel: Any, q: jax.Array, products: int, once: int, **options: Any) -> Any:
        """A kernel over (row, head, block, step), arrays being (B, L, H * D) as q.

        products: of (block, block) with D, a tile. once: arrays that are read or written once; two others are
        read anew for each tile.
        """
        rows, length, features = q.shape
        blocks, width = length // self.block, features // self.heads
        tiles = sum(min(self.reach, i) + 1 for i in range(blocks)) * rows * self.heads
        cost = pl.CostEstimate(
            flops=2 * products * tiles * self.block**2 * width,
            transcendentals=tiles * self.block**2,
            bytes_accessed=(once * rows * length * features + 2 * tiles * self.block * width)
            * q.dtype.itemsize,
        )
        return pl.pallas_call(
            kernel,
            grid=(rows, self.heads, blocks, self.reach + 1),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"),
                vmem_limit_bytes=MEMORY_BYTES,
            ),
            cost_estimate=cost,
            interpret=self.interpret,
            **options,
        )

    def specs(self, lags: jax.Array, width: int, query: Any, key: Any) -> dict[str, pl.BlockSpec]:
        """Of the arguments; query and key give the number of a block from a block and a step."""

        def positions(where: Any) -> pl.BlockSpec:
            return pl.BlockSpec((None, self.block, width), lambda b, h, n, t: (b, where(n, t), h))

        def moments(where: Any) -> pl.BlockSpec:
            return pl.BlockSpec((None, ROWS, self.block), lambda b, h, n, t: (b, 0, where(n, t)))

        return {
            "scalars": pl.BlockSpec(memory_space=pltpu.SMEM),
            "lags": pl.BlockSpec((None, *lags.shape[1:]), lambda b, h, n, t: (h, 0, 0, 0)),
            "here": moments(query),
            "there": moments(key),
            "q": positions(query),
            "k": positions(key),
        }


def _forward_call(plan: Plan, whole: Any, rows: Any) -> jax.Array:
    (scalars, lags), (moments, q, k, v) = whole, rows
    width = q.shape[2] // plan.heads

    def key(n: Any, t: Any) -> Any:  # before the first block, any that is there
        return jnp.maximum(n - (plan.reach - t), 0)

    at = plan.specs(lags, width, lambda n, t: n, key)
    call = plan.call(
        partial(forward_kernel, plan.terms, plan.window, plan.reach),
        q,
        products=2,
        once=2,
        in_specs=[*at.values(), at["k"]],
        out_specs=at["q"],
        out_shape=jax.ShapeDtypeStruct(v.shape, v.dtype),
        scratch_shapes=[pltpu.VMEM((plan.block, width), jnp.float32)],
    )
    return call(scalars, lags, moments, moments, q, k, v)


def _backward_call(plan: Plan, whole: Any, rows: Any) -> tuple[jax.Array, ...]:
    (scalars, lags), (moments, q, k, v, dy) = whole, rows
    width, blocks, count = q.shape[2] // plan.heads, q.shape[1] // plan.block, q.shape[0]

    def query(n: Any, t: Any) -> Any:
        return jnp.minimum(n + t, blocks - 1)

    at = plan.specs(lags, width, query, lambda n, t: n)
    sums = (scalars.shape[1], 1, plan.block)
    each = [
        pl.BlockSpec((None, None, *s), lambda b, h, n, t: (b, h, 0, 0, 0)) for s in (sums, lags.shape[1:])
    ]
    call = plan.call(
        partial(backward_kernel, plan.terms, plan.window, plan.reach),
        q,
        products=5,
        once=5,
        in_specs=[*at.values(), at["k"], at["q"]],
        out_specs=[at["k"], at["k"], at["k"], *each],
        out_shape=[
            *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)),
            *(jax.ShapeDtypeStruct((count, plan.heads, *s), jnp.float32) for s in (sums, lags.shape[1:])),
        ],
        scratch_shapes=[
            pltpu.VMEM((plan.reach + 1, plan.block, width), jnp.float32),
            *(pltpu.VMEM((plan.block, width), jnp.float32) for _ in range(2)),
        ],
    )
    return tuple(call(scalars, lags, moments, moments, q, k, v, dy))


def _forward(plan: Plan, scalars, lags, moments, q, k, v):
    y = devices.by_rows(partial(_forward_call, plan), (scalars, lags), (moments, q, k, v))
    return y, (scalars, lags, moments, q, k, v)


def _backward(plan: Plan, saved, dy: jax.Array):
    scalars, lags, *rows = saved
    call = partial(_backward_call, plan)
    dq, dk, dv, d_scalars, d_lags = devices.by_rows(call, (scalars, lags), (*rows, dy))
    return d_scalars.sum(axis=(0, 3, 4)), d_lags.sum(axis=0), None, dq, dk, dv


def _plain(plan: Plan, scalars, lags, moments, q, k, v) -> jax.Array:
    return _forward(plan, scalars, lags, moments, q, k, v)[0]


_attention = jax.custom_vjp(_plain, nondiff_argnums=(0,))
_attention.defvjp(_forward, _backward)
