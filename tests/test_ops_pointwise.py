"""The kernel of pointwise attention for TPUs, interpreted: equal to the plain form, values and gradients."""

from __future__ import annotations

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops import blocked, moments, pointwise, pointwise_tpu
from stjax.ops.bias import logit_bias
from tests.random_events import random_events
from tests.strict import strict

pytestmark = strict

B, L, H, D = 2, 149, 2, 5
NAMES = {
    "lag": ("lag",),
    "buckets": ("lag", "gap", "distance"),
    "laws": ("gap_weight", "log_tau", "distance_weight", "log_km", "unknown"),
}
NAMES["all"] = NAMES["buckets"] + NAMES["laws"]


def setting(names: tuple[str, ...], window: int, dtype=jnp.float32):
    """q, k, v, the cotangent, moments with a row that has no valid event, bias parameters, all random."""
    rng = np.random.default_rng(window)
    q, k, v, g = (jnp.asarray(rng.normal(size=(B, L, H, D)), dtype) for _ in range(4))
    events = jax.tree.map(jnp.asarray, random_events(B, L, seed=window))
    valid = jnp.stack([jnp.asarray(rng.uniform(size=L) < 0.9), jnp.zeros(L, bool)])
    now = moments.moments(valid, events.time, events.place)
    shapes = {"lag": (H, window), "gap": (H, 19), "distance": (H, 17)}
    params = {n: jnp.asarray(rng.uniform(0.2, 2, shapes.get(n, (H,))), jnp.float32) for n in names}
    return (q, k, v, params), now, g


def both(f, inputs, g):
    """Values and the gradients to all inputs."""

    def loss(inputs):
        y = f(*inputs)
        return (y * g).astype(jnp.float32).sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(inputs)
    return y, gradients


def forms(now: moments.Moments, window: int):
    """The kernel with tiles of 128, and the plain form with one tile, not divided either."""

    def kernel(q, k, v, params) -> jax.Array:
        return pointwise_tpu.silu_attention(q, k, v, now, params, window, block=128, interpret=True)

    def plain(q, k, v, params) -> jax.Array:
        y = blocked.silu_attention(q, k, v, now, logit_bias, params, window, block=L)
        return y * blocked.count_read(now.valid, window).astype(y.dtype)[..., None, None]

    return kernel, plain


@pytest.mark.parametrize(
    ("names", "window"), [("all", L), ("buckets", 17), ("laws", 131), ("all", 211), ("lag", 1)]
)
def test_the_kernel_equals_the_plain_form(names: str, window: int) -> None:
    """A window shorter, equal and longer than L, which is no multiple of a block."""
    inputs, now, g = setting(NAMES[names], window)
    kernel, plain = forms(now, window)
    expected, got = both(plain, inputs, g), both(kernel, inputs, g)

    def near(path, expected: jax.Array, got: jax.Array) -> None:
        scale = max(1.0, float(jnp.abs(expected).max()))
        np.testing.assert_allclose(got / scale, expected / scale, atol=1e-5, err_msg=str(path))

    jax.tree_util.tree_map_with_path(near, expected, got)
    assert (np.asarray(got[0])[1] == 0).all()
    assert all((np.asarray(d) != 0).any() for d in jax.tree.leaves(got[1]))


def test_the_kernel_in_bfloat16_is_near_the_plain_form_in_float32() -> None:
    """Root mean square of the error, in units of the largest value."""
    inputs, now, g = setting(NAMES["all"], 131, jnp.bfloat16)
    kernel, plain = forms(now, 131)
    got = both(kernel, inputs, g)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (inputs, g))
    expected = both(plain, *wide)

    def near(path, expected: jax.Array, got: jax.Array) -> None:
        error = got.astype(jnp.float32) - expected
        relative = jnp.sqrt((error**2).mean()) / jnp.abs(expected).max()
        assert float(relative) < 1e-3, (path, float(relative))

    assert got[0].dtype == got[1][0].dtype == jnp.bfloat16
    jax.tree_util.tree_map_with_path(near, expected, got)


def largest(jaxpr: jax.extend.core.Jaxpr) -> int:
    """Numbers in the largest array of a program, but for what kernels keep in the chip's own memory."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [x.aval.size for x in equation.outvars]
        if equation.primitive.name != "pallas_call":
            for inner in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
                if _is_jaxpr(inner):
                    sizes.append(largest(getattr(inner, "jaxpr", inner)))
    return max(sizes)


def _is_jaxpr(x: object) -> bool:
    return isinstance(x, (jax.extend.core.Jaxpr, jax.extend.core.ClosedJaxpr))


def test_memory_of_the_kernel_is_linear_in_the_length() -> None:
    """Forward and backward: what lies in HBM. The plain form holds the logits of all pairs."""

    def numbers(kernel: bool, length: int) -> int:
        (*_, params), _, _ = setting(NAMES["all"], 2 * length)
        x = jax.ShapeDtypeStruct((1, length, H, 128), jnp.float32)
        now = moments.moments(
            jnp.ones((1, length), bool), jnp.zeros((1, length), jnp.int32), jnp.zeros((1, length, 2))
        )

        def loss(q, k, v, params) -> jax.Array:
            if kernel:
                return pointwise_tpu.silu_attention(q, k, v, now, params, 2 * length).sum()
            return blocked.silu_attention(q, k, v, now, logit_bias, params, 2 * length, block=length).sum()

        program = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3))).trace(x, x, x, params)
        return largest(program.jaxpr.jaxpr)

    assert numbers(True, 4096) == 4 * numbers(True, 1024) == 4096 * H * 128
    assert numbers(False, 4096) >= 4096**2


def test_tpus_get_the_kernel_where_it_covers_the_arguments() -> None:
    """In the lowered program, of which nothing is compiled."""
    inputs, now, _ = setting(NAMES["all"], 131)

    def kernels(platform: str, bias=logit_bias, dtype=jnp.float32, length: int = L, **options) -> int:
        q, k, v, params = inputs
        q, k, v, own = jax.tree.map(lambda x: x[:, :length], (q, k, v, now._replace(place=None)))

        def loss(q, k, v, params) -> jax.Array:
            q, k, v = (x.astype(dtype) for x in (q, k, v))
            return pointwise.silu_attention(q, k, v, own, bias, params, 131, **options).sum()

        traced = jax.jit(jax.grad(loss, argnums=(0, 3))).trace(q, k, v, params)
        return traced.lower(lowering_platforms=(platform,)).as_text().count("tpu_custom_call")

    assert kernels("tpu") == 2  # forward and backward
    assert kernels("tpu", dtype=jnp.bfloat16) == 2
    assert kernels("cpu") == 0
    assert kernels("tpu", lambda *inputs: logit_bias(*inputs)) == 0
    assert kernels("tpu", dtype=jnp.float16) == 0
    assert kernels("tpu", block=32) == 0
    assert kernels("tpu", length=blocked.PLAIN_LENGTH) == 0
