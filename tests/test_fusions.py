"""Fusions: each by its formula, in any order of the parts, with missing ones, in parallel and by steps."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.events import FIRST
from stjax.nn import ContextEmbed, ItemEmbed, Recommender, Retrieval, SpaceEmbed
from stjax.nn.base import Fusion
from stjax.nn.fusion import AttentionFusion, ConcatFusion, ConvolutionFusion, GatedFusion, HyperFusion
from stjax.ops import convolution
from tests.models import questions, random_batch, random_parameters, run, run_steps
from tests.random_events import random_events
from tests.strict import strict

pytestmark = strict

B, L, D = 3, 11, 6
WIDTHS = {"item": 7, "place": 2, "time": 5}
FUSIONS = {
    "concat": ConcatFusion(D),
    "gated": GatedFusion(D),
    "attention": AttentionFusion(D, heads=2),
    "convolution": ConvolutionFusion(D, width=4),
    "hyper": HyperFusion(D, rank=3, hidden=5),
    "hyper by time": HyperFusion(D, context=("time",), rank=3, hidden=5),
}
BY_POSITION = [name for name in FUSIONS if name != "convolution"]


def random_parts(seed: int, *lead: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=(*lead, d)), jnp.float32) for name, d in WIDTHS.items()}


def setting(name: str) -> tuple[Fusion, Any, dict[str, jax.Array], Any]:
    """The fusion, random parameters, parts (B, L, D_name) and events of unequal length."""
    fusion, parts = FUSIONS[name], random_parts(1, B, L)
    events = jax.tree.map(jnp.asarray, random_events(B, L, seed=2))
    assert len(np.unique(events.valid.sum(axis=1))) > 1
    return fusion, random_parameters(fusion, parts, events), parts, events


def dense(p: dict, x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(p["kernel"]) + (np.asarray(p["bias"]) if "bias" in p else 0)


def norm(p: dict, x: np.ndarray) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * np.asarray(p["scale"]) + np.asarray(p["bias"])


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def by_formula(name: str, p: dict, past: list[dict[str, np.ndarray]]) -> np.ndarray:
    """F of the last of some events, {name: (D_name,)} each, oldest first."""
    parts = past[-1]
    u = np.concatenate([parts[n] for n in sorted(parts)])
    if name == "concat":
        return norm(p["LayerNorm_0"], dense(p["Dense_0"], u))
    if name == "gated":
        gates = 1 / (1 + np.exp(-dense(p["gates"], u)))
        own = [dense(p[f"part_{n}"], parts[n]) for n in sorted(parts)]
        return norm(p["LayerNorm_0"], (gates.reshape(-1, D) * own).sum(axis=0))
    if name == "attention":
        x = dense(p["join"], u)
        q, mixed = dense(p["query"], x).reshape(2, 3), np.zeros((2, 3))
        for head in range(2):
            pairs = [dense(p[f"part_{n}"], parts[n]).reshape(2, 2, 3)[:, head] for n in sorted(parts)]
            weights = np.exp([q[head] @ key / math.sqrt(3) for key, _ in pairs])
            mixed[head] = sum(w * value for w, (_, value) in zip(weights / weights.sum(), pairs, strict=True))
        return norm(p["norm"], x + dense(p["out"], mixed.reshape(D)))
    if name == "convolution":
        kernel, y = np.asarray(p["kernel"]["kernel"]), np.asarray(p["bias"]).copy()
        for j, event in enumerate(past[::-1][:4]):
            y += np.concatenate([event[n] for n in sorted(event)]) @ kernel[:, j * D : j * D + D]
        return norm(p["norm"], dense(p["own"], u) + gelu(y))
    h = gelu(dense(p["hyper"], parts["time"] if name == "hyper by time" else u))
    w = np.asarray(p["base"]["kernel"]).T.copy()  # (D, S), here formed as the formula has it
    a = dense(p["weights"], h)
    for r in range(3):
        w += a[r] * np.outer(np.asarray(p["up"]["kernel"])[r], np.asarray(p["down"]["kernel"])[:, r])
    return norm(p["norm"], w @ u + np.asarray(p["base"]["bias"]) + dense(p["bias"], h))


@pytest.mark.parametrize("name", FUSIONS)
def test_equals_its_formula(name: str) -> None:
    fusion, variables, parts, events = setting(name)
    out = run(fusion, variables, parts, events)
    assert out.shape == (B, L, D)
    past = {n: np.asarray(x, np.float64) for n, x in parts.items()}
    for b in range(B):
        for at in range(L):
            some = [{n: x[b, m] for n, x in past.items()} for m in range(at + 1)]
            np.testing.assert_allclose(out[b, at], by_formula(name, variables["params"], some), atol=1e-4)


@pytest.mark.parametrize("name", FUSIONS)
def test_the_order_of_the_parts_does_not_matter(name: str) -> None:
    fusion, variables, parts, events = setting(name)
    turned = {n: parts[n] for n in reversed(parts)}
    assert list(turned) != sorted(turned)
    one, other = (fusion.apply(variables, x, events) for x in (parts, turned))  # jit would sort them
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", BY_POSITION)
def test_position_by_position_in_any_shape(name: str) -> None:
    fusion, variables, parts, events = setting(name)
    out = run(fusion, variables, parts, events)
    one = run(fusion, variables, {n: x[1, 4] for n, x in parts.items()}, events[1, 4])
    np.testing.assert_allclose(out[1, 4], one, atol=1e-6)


@pytest.mark.parametrize("name", FUSIONS)
def test_gradients_are_finite_and_reach_every_parameter_and_part(name: str) -> None:
    fusion, variables, parts, events = setting(name)

    @jax.jit
    def gradients(variables: Any, parts: Any) -> Any:
        def loss(variables: Any, parts: Any) -> jax.Array:
            out = jnp.asarray(fusion.apply(variables, parts, events))
            return jnp.where(events.valid[..., None], jnp.sin(out), 0.0).sum()

        return jax.grad(loss, argnums=(0, 1))(variables, parts)

    for path, g in jax.tree_util.tree_leaves_with_path(gradients(variables, parts)):
        assert np.isfinite(g).all(), path
        assert (np.asarray(g) != 0).any(), path
    missing = parts | {"place": jnp.zeros_like(parts["place"])}  # zeros stand in
    for path, g in jax.tree_util.tree_leaves_with_path(gradients(variables, missing)):
        assert np.isfinite(g).all(), path


@pytest.mark.parametrize("name", FUSIONS)
def test_one_vector_can_stand_in_for_a_modality(name: str) -> None:
    fusion, variables, parts, events = setting(name)
    full, vectors = run(fusion, variables, parts, events), random_parts(3)
    for left_out, vector in vectors.items():
        missing = parts | {left_out: jnp.broadcast_to(vector, parts[left_out].shape)}
        out = run(fusion, variables, missing, events)
        assert np.isfinite(out).all()
        assert np.abs(out - full).mean() > 0.01  # the modality did count


@pytest.mark.parametrize("name", FUSIONS)
def test_step_by_step_with_pauses_equals_the_whole(name: str) -> None:
    """Events that are not valid come in between, with anything in their parts, and leave the state alone."""
    fusion, variables, parts, events = setting(name)
    whole, valid = run(fusion, variables, parts, events), np.asarray(events.valid)
    rng = np.random.default_rng(5)
    state, at, step = fusion.init_state(B, tuple(sorted(parts))), np.zeros(B, int), 0
    bounded = jax.tree.map(jnp.shape, state)
    assert all(x.shape[0] == B for x in jax.tree.leaves(state))
    while (at < valid.sum(axis=1)).any():
        real = (rng.random(B) < 0.7) & (at < valid.sum(axis=1))
        garbage = random_parts(100 + step, B)
        now = {n: jnp.where(real[:, None], x[np.arange(B), at % L], garbage[n]) for n, x in parts.items()}
        event = events[np.arange(B), at % L].replace(valid=jnp.asarray(real))
        after, out = run(fusion, variables, state, now, event, method="step")
        np.testing.assert_allclose(out[real], whole[np.arange(B), at % L][real], atol=1e-5)
        for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
            np.testing.assert_array_equal(old[~real], new[~real])
        state, at, step = after, at + real, step + 1
    assert jax.tree.map(jnp.shape, state) == bounded


@pytest.mark.parametrize("name", FUSIONS)
def test_neither_the_future_nor_padding_is_read(name: str) -> None:
    fusion, variables, parts, events = setting(name)
    out = np.asarray(run(fusion, variables, parts, events))
    other, valid = random_parts(7, B, L), np.asarray(events.valid)
    refilled = {n: jnp.where(valid[..., None], x, other[n]) for n, x in parts.items()}
    np.testing.assert_array_equal(out[valid], np.asarray(run(fusion, variables, refilled, events))[valid])
    later = {n: x.at[:, 5:].set(other[n][:, 5:]) for n, x in parts.items()}
    changed = np.asarray(run(fusion, variables, later, events))
    np.testing.assert_array_equal(out[:, :5], changed[:, :5])
    assert (np.abs(out[:, 5:] - changed[:, 5:]).max(axis=-1) > 1e-3).all()


def test_a_convolution_looks_back_as_far_as_it_is_wide() -> None:
    fusion, variables, parts, events = setting("convolution")
    out = run(fusion, variables, parts, events)
    earlier = {n: x.at[:, 2].add(1.0) for n, x in parts.items()}
    moved = np.abs(np.asarray(run(fusion, variables, earlier, events)) - out).max(axis=(0, 2)) > 1e-6
    np.testing.assert_array_equal(np.flatnonzero(moved), [2, 3, 4, 5])


@pytest.mark.parametrize("width", [1, 2, L + 2])
def test_causal_convolution_of_any_width(width: int) -> None:
    """Against numpy's convolution, one channel after the other; in both forms."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(B, L)), rng.normal(size=(width, D))
    z = jnp.asarray(x[:, :, None, None] * kernel, jnp.float32)
    y = jax.jit(convolution.causal)(z)
    pending = jnp.zeros((B, width - 1, D))
    for at in range(L):
        pending, stepped = jax.jit(convolution.causal_step)(pending, z[:, at], jnp.ones(B, bool))
        np.testing.assert_allclose(y[:, at], stepped, atol=1e-5)
    for b in range(B):
        for d in range(D):
            np.testing.assert_allclose(y[b, :, d], np.convolve(x[b], kernel[:, d])[:L], atol=1e-5)


@pytest.mark.parametrize(
    ("fusion", "message"),
    [
        (AttentionFusion(D, heads=4), "heads=4 does not divide the 6 features"),
        (ConvolutionFusion(D, width=0), "width=0 must be at least 1"),
        (HyperFusion(D, context=("weather",)), "'weather'.*is not among the parts.*'time'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(fusion: Fusion, message: str) -> None:
    events = jax.tree.map(jnp.asarray, random_events(B, L))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(fusion.init, jax.random.key(0), random_parts(0, B, L), events)


def test_a_model_that_serves_without_a_modality_steps_as_it_scores() -> None:
    model = Recommender(
        items=ItemEmbed(5),
        encoders={"place": SpaceEmbed(3, scales=2), "context": ContextEmbed(4)},
        fusion=FUSIONS["convolution"],
        head=Retrieval(known=()),
        modality_dropout=0.3,
    )
    batch, catalogue = random_batch(B, L)
    variables = random_parameters(model, batch, catalogue, method="loss")
    history, query, _ = questions(batch.events, model.known)
    some, answers = np.asarray(history.valid.any(axis=1)), []
    assert some.sum() >= 2
    for serving in (model, model.clone(absent=("place",))):
        whole = run(serving, variables, history, query, catalogue, method="scores")
        state = run_steps(serving, variables, history, catalogue)
        stepped = run(serving, variables, state, query, catalogue, method="answer")
        np.testing.assert_allclose(whole[some][:, FIRST:], stepped[some][:, FIRST:], atol=1e-4)
        answers.append(np.asarray(whole[some][:, FIRST:]))
    assert np.isfinite(answers).all()
    assert np.abs(answers[0] - answers[1]).max() > 1e-3
