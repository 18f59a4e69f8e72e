"""Mixed precision: what is bfloat16, what stays float32, and that little changes by it."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.events import FIRST
from stjax.nn import (
    Auxiliary,
    ConcatFusion,
    Distance,
    ItemEmbed,
    Pointer,
    Recommender,
    Retrieval,
    SelfAttention,
)
from stjax.nn.layers import Dense, LayerNorm
from stjax.nn.precision import compute_dtype, in_precision
from stjax.ops.product import product
from tests.library import ENCODERS, FUSIONS, INTERESTS, WINDOW
from tests.models import questions, random_batch, random_parameters, run, run_steps
from tests.strict import strict

pytestmark = strict

B, L = 3, 11
KNOWN = ("time", "place", "scene")


def build(interest: str = "gru", fusion: str = "concat", **fields) -> Recommender:
    return Recommender(
        items=ItemEmbed(6),
        encoders={name: ENCODERS[name] for name in ("time", "space", "user")},
        fusion=FUSIONS[fusion],
        interest=INTERESTS[interest],
        head=Retrieval(
            known=KNOWN,
            pointer=Pointer(5, window=WINDOW),
            distance=Distance(),
            auxiliary=(Auxiliary("category"),),
        ),
        **fields,
    )


@pytest.mark.parametrize("formula", ["nd,dk->nk", "bqhd,bmhd->bhqm", "nd,nd->n"])
def test_products_round_their_factors_and_nothing_else(formula: str) -> None:
    rng = np.random.default_rng(0)
    first, second = formula.split("->")[0].split(",")
    sizes = dict(zip("bdhkmnq", (2, 7, 3, 5, 11, 13, 4), strict=True))
    a, b = (jnp.asarray(rng.normal(size=[sizes[i] for i in x]), jnp.float32) for x in (first, second))

    def rounded(x: jax.Array) -> np.ndarray:
        return np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32), np.float64)

    y, pull = jax.vjp(lambda a, b: product(formula, a, b, jnp.bfloat16), a, b)
    np.testing.assert_allclose(y, np.einsum(formula, rounded(a), rounded(b)), rtol=1e-5, atol=1e-5)
    g = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    d_a, d_b = pull(g)
    out = formula.split("->")[1]
    want_a = np.einsum(f"{out},{second}->{first}", rounded(g), rounded(b))
    want_b = np.einsum(f"{first},{out}->{second}", rounded(a), rounded(g))
    np.testing.assert_allclose(d_a, want_a, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d_b, want_b, rtol=1e-5, atol=1e-5)
    assert y.dtype == d_a.dtype == d_b.dtype == jnp.float32


def test_layers_are_those_of_flax() -> None:
    """The same parameters from the same key, and the same results, so that checkpoints stay valid."""
    from flax import linen as nn

    x = jnp.asarray(np.random.default_rng(1).normal(2.0, 3.0, (5, 7, 11)), jnp.float32)
    for ours, theirs in ((Dense(13), nn.Dense(13)), (LayerNorm(), nn.LayerNorm())):
        variables = theirs.init(jax.random.key(0), x)
        jax.tree.map(np.testing.assert_array_equal, variables, ours.init(jax.random.key(0), x))
        variables = random_parameters(ours, x)
        np.testing.assert_allclose(run(ours, variables, x), run(theirs, variables, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "interest",
    [
        pytest.param(name, marks=() if name in ("gru", "attention-rotary-bias") else pytest.mark.slow)
        for name in INTERESTS
    ],
)
def test_bfloat16_answers_nearly_as_float32_does(interest: str) -> None:
    """In all forms, with the same parameters; parameters, states, losses and answers are float32."""
    model, low = build(interest), build(interest, precision="bfloat16")
    batch, catalogue = random_batch(B, L)
    variables = random_parameters(model, batch, catalogue, method="loss")
    shapes = jax.eval_shape(partial(low.init, method="loss"), jax.random.key(0), batch, catalogue)
    jax.tree.map(
        lambda x, y: np.testing.assert_equal((x.shape, x.dtype), (y.shape, y.dtype)), shapes, variables
    )
    loss, near = (run(m, variables, batch, catalogue, method="loss")[0] for m in (model, low))
    assert near.dtype == jnp.float32
    assert 0 < abs(float(loss - near)) < 0.03
    history, query, _ = questions(batch.events, KNOWN)
    some = np.asarray(history.valid.any(axis=1))
    answers = [run(m, variables, history, query, catalogue, method="scores") for m in (model, low)]
    state = run_steps(low, variables, history, catalogue)
    answers.append(run(low, variables, state, query, catalogue, method="answer"))
    for x in jax.tree.leaves(state):
        assert x.dtype in (jnp.float32, jnp.int32, jnp.bool_)
    first, *others = (np.asarray(x)[some][:, FIRST:] for x in answers)
    for other in others:
        assert other.dtype == np.float32
        np.testing.assert_allclose(other, first, rtol=0.01, atol=0.15)  # 2^-8 of logits of -30 as well


def test_an_unknown_precision_is_refused() -> None:
    batch, catalogue = random_batch(B, L)
    model = build(precision="float16")
    with pytest.raises(ValueError, match=r"precision='float16' must be one of float32, bfloat16"):
        jax.eval_shape(partial(model.init, method="loss"), jax.random.key(0), batch, catalogue)


def test_the_precision_of_one_model_does_not_reach_another() -> None:
    """Not through a failing trace either, nor through what is compiled."""
    batch, catalogue = random_batch(B, L)
    low = build(precision="bfloat16")
    variables = random_parameters(low, batch, catalogue, method="loss")
    with pytest.raises(AttributeError):  # None has no events
        low.apply(variables, None, catalogue, method="loss")
    assert compute_dtype() == jnp.float32

    class Low:
        precision = "bfloat16"

        @in_precision
        def run(self) -> jax.Array:
            return layer(weights, x)

    x, layer = jnp.ones((2, 3)), jax.jit(Dense(5).apply)
    weights = Dense(5).init(jax.random.key(0), x)
    dtypes = [layer(weights, x).dtype, Low().run().dtype, layer(weights, x).dtype]
    assert dtypes == [jnp.float32, jnp.bfloat16, jnp.float32]


def test_bfloat16_keeps_less_for_the_backward_pass() -> None:
    """Bytes of all that the backward pass is given, parameters and inputs included; nothing runs."""
    batch, catalogue = random_batch(7, 37)

    def kept(model: Recommender) -> int:
        init = partial(model.init, method="loss")
        variables = jax.eval_shape(init, jax.random.key(0), batch, catalogue)

        def pull(variables):
            return jax.vjp(lambda v: model.apply(v, batch, catalogue, method="loss")[0], variables)[1]

        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(pull, variables)))

    model = Recommender(
        ItemEmbed(32), encoders={}, fusion=ConcatFusion(32), interest=SelfAttention(window=37)
    )
    assert kept(model.clone(precision="bfloat16")) < 0.65 * kept(model)
