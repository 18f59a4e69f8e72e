"""Mixed precision, read from the program of a gradient: which numbers are bfloat16 on an accelerator."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.nn import Choice, ConcatFusion, ItemEmbed, Mean, Ranking, Recommender, Retrieval, pairs
from tests.library import ENCODERS, FUSIONS, INTERESTS
from tests.models import random_batch, random_parameters
from tests.strict import strict
from tests.test_precision import KNOWN, build

pytestmark = strict

B, L, D = 3, 11, 8


def small(fusion: str, interest: str, **parts: Any) -> Recommender:
    parts = {"items": ItemEmbed(6), "encoders": {"user": ENCODERS["user"]}, "head": Retrieval()} | parts
    return Recommender(
        fusion=FUSIONS[fusion], interest=INTERESTS[interest], precision="bfloat16", dropout=0.3, **parts
    )


MODELS = {
    "pointer": build("gru-gated", precision="bfloat16"),
    "attention": small("attention", "attention-rotary-bias"),
    "hstu": small("convolution", "hstu-bias"),
    "state-space": small("hyper", "state-space"),
    "ranking": small("gated", "mean", ranking=Ranking((Choice(),), hidden=7, experts=2)),
}
SIGMOIDS = {"hstu", "state-space", "ranking"}  # gates of activations: their exponential may be a bfloat16

# Arrays of so many times, distances, counts, or pairwise features of them are multiplied in float32.
WAVES = {17, 21}  # of day and week and the log gap, and of the year
PAIRS = pairs.Pairs("category", *[(1,) * n for n in (4, 2)], time=True, space=True, window=1).count
RAW = {1, 2, 4, *WAVES, 2 * pairs.WAVES, PAIRS}


def instructions(model: Recommender) -> list[tuple[str, list[tuple[list[int], str]]]]:
    """Of the program of a gradient in training, for GPUs: each operation, and (shape, dtype) of its operands
    and its result."""
    batch, catalogue = random_batch(B, L)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(partial(model.init, method="loss"), keys, batch, catalogue)

    def loss(variables: Any) -> jax.Array:
        rngs = {"dropout": jax.random.key(2)}
        return model.apply(variables, batch, catalogue, True, method="loss", rngs=rngs)[0]

    text = jax.jit(jax.grad(loss)).trace(variables).lower(lowering_platforms=("cuda",)).as_text()
    found = []
    for line in text.splitlines():
        if name := re.search(r"stablehlo\.(\w+)", line):
            arrays = re.findall(r"tensor<((?:\d+x)*)(\w+)>", line.split(" : ")[-1])
            found.append((name[1], [([int(n) for n in s.split("x")[:-1]], t) for s, t in arrays]))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_products_are_of_bfloat16_with_sums_in_float32(name: str) -> None:
    program, low = instructions(MODELS[name]), 0
    for kind, arrays in program:
        dtypes = [dtype for _, dtype in arrays]
        if kind == "dot_general":
            if dtypes == ["bf16", "bf16", "f32"]:
                low += 1
                continue
            assert dtypes == ["f32", "f32", "f32"], arrays
            assert RAW & {n for shape, _ in arrays[:2] for n in shape}, arrays
        # Sums, softmaxes, means and variances, times, gradients of tables: float32.
        elif kind in ("reduce", "log", "log_plus_one", "rsqrt", "sqrt", "sine", "cosine", "scatter"):
            assert "bf16" not in dtypes, (kind, arrays)
        elif kind == "exponential" and name not in SIGMOIDS:
            assert "bf16" not in dtypes, arrays
    kinds = [kind for kind, _ in program]
    assert low > 20
    assert "reduce" in kinds and "rsqrt" in kinds and "exponential" in kinds  # the text is read at all


def test_a_model_learns_in_bfloat16_as_in_float32() -> None:
    """The gradient points where that of float32 does, and the loss falls along it by as much."""
    batch, catalogue = random_batch(7, L)
    model = Recommender(ItemEmbed(13), {}, ConcatFusion(16), Mean(), Retrieval(KNOWN[:1]), dropout=0.0)
    variables = random_parameters(model, batch, catalogue, method="loss")
    found = {}
    for precision in ("float32", "bfloat16"):
        one = model.clone(precision=precision)
        step = jax.jit(
            jax.value_and_grad(lambda v, one=one: one.apply(v, batch, catalogue, method="loss")[0])
        )
        state, losses, first = variables, [], None
        for _ in range(5):
            loss, gradient = step(state)
            first = gradient if first is None else first
            state = jax.tree.map(lambda p, g: p - 0.1 * g, state, gradient)
            losses.append(float(loss))
        flat = np.concatenate([np.asarray(g).ravel() for g in jax.tree.leaves(first)])
        assert flat.dtype == jnp.float32
        found[precision] = flat, losses
    (exact, losses), (near, others) = found["float32"], found["bfloat16"]
    assert exact @ near > 0.999 * np.linalg.norm(exact) * np.linalg.norm(near)
    assert others[-1] < others[0] - 0.5 * (losses[0] - losses[-1])
    np.testing.assert_allclose(others, losses, rtol=0.01)
