"""The retrieval head's options: distance, several interests, auxiliary targets, the pointer in blocks."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.events import FIRST, Query
from stjax.nn import (
    GRU,
    ConcatFusion,
    ContextEmbed,
    ConvolutionFusion,
    ItemEmbed,
    Mean,
    NextTime,
    Pointer,
    Recommender,
    Retrieval,
    SpaceEmbed,
    TimeEmbed,
    pairs,
)
from stjax.nn import pointer as pointer_module
from stjax.nn.distance import Distance
from stjax.nn.heads import Auxiliary
from stjax.nn.objectives import GBCE, InBatch, Objective, SampledSoftmax
from stjax.nn.ranking import Choice, Ranking, Task
from stjax.ops import sequence
from tests.models import questions, random_batch, random_parameters, run, run_steps
from tests.strict import strict

pytestmark = strict

B, L, WINDOW = 3, 11, 7
KNOTS = (0.1, 1.0, 30.0)
HEADS = {
    "distance": Retrieval(known=("place",), distance=Distance(KNOTS)),
    "distance, place unknown": Retrieval(distance=Distance(KNOTS), pointer=Pointer(5, WINDOW)),
    "interests": Retrieval(known=("time",), interests=3),
    "everything": Retrieval(
        known=("time", "place", "scene"),
        pointer=Pointer(5, WINDOW),
        distance=Distance(KNOTS),
        interests=2,
        auxiliary=(Auxiliary("category", 0.5),),
    ),
}


def build(head: Retrieval) -> Recommender:
    return Recommender(
        items=ItemEmbed(6),
        encoders={"space": SpaceEmbed(5, scales=3)},
        fusion=ConcatFusion(8),
        interest=GRU(),
        head=head,
    )


def setting(head: Retrieval):
    model = build(head)
    batch, catalogue = random_batch(B, L)
    return model, random_parameters(model, batch, catalogue, method="loss"), batch, catalogue


@pytest.mark.parametrize(
    "head",
    # What is in everything is slow.
    [
        pytest.param(h, marks=pytest.mark.slow if n in ("distance", "interests") else ())
        for n, h in HEADS.items()
    ],
    ids=HEADS,
)
def test_forms_agree_and_the_loss_is_of_the_scores(head: Retrieval) -> None:
    model, variables, batch, catalogue = setting(head)
    history, query, _ = questions(batch.events, head.known)
    whole = run(model, variables, history, query, catalogue, method="scores")
    np.testing.assert_allclose(jnp.exp(whole).sum(axis=1), 1.0, atol=1e-4)
    state = run_steps(model, variables, history, catalogue)
    stepped = run(model, variables, state, query, catalogue, method="answer")
    some = np.asarray(history.valid.any(axis=1))
    np.testing.assert_allclose(whole[some][:, FIRST:], stepped[some][:, FIRST:], atol=1e-4)
    total, events = 0.0, batch.events
    for stop in range(1, L + 1):
        prefix = events.replace(valid=events.valid & (jnp.arange(L + 1)[None] < stop))
        query = Query.of(events[:, stop], head.known)
        scores = run(model, variables, prefix, query, catalogue, method="scores")
        log_p = scores[jnp.arange(B), events.item[:, stop]]
        total += float(jnp.where(batch.weight[:, stop - 1] > 0, log_p, 0.0).sum())
    loss, logged = run(model, variables, batch, catalogue, method="loss")
    side = sum(a.weight * float(logged[f"{a.field}_loss"]) for a in head.auxiliary)
    np.testing.assert_allclose(loss - side, -total / batch.weight.sum(), rtol=1e-4)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_gradients_are_finite_and_reach_every_parameter(head: Retrieval) -> None:
    model, variables, batch, catalogue = setting(head)
    gradients = jax.grad(lambda v: run(model, v, batch, catalogue, method="loss")[0])(variables)
    for path, g in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(g).all(), path
        assert (np.asarray(g) != 0).any(), path


def test_nearer_items_score_more_where_the_weights_say_so() -> None:
    model, variables, batch, catalogue = setting(HEADS["distance"])
    history, query, _ = questions(batch.events, ("place",))
    query = Query(place=jnp.broadcast_to(jnp.asarray([40.7, -74.0]), (B, 2)))
    weights = variables["params"]["head"]["distance"]["weights"]

    def answer(slope: float) -> np.ndarray:
        changed = {"kernel": jnp.zeros_like(weights["kernel"]), "bias": jnp.full((4,), slope).at[0].set(0.0)}
        head = variables["params"]["head"] | {"distance": {"weights": changed}}
        changed = {"params": variables["params"] | {"head": head}}
        return np.asarray(run(model, changed, history, query, catalogue, method="scores"))[:, FIRST:]

    difference = answer(-2.0) - answer(0.0)
    place = np.asarray(catalogue.place, np.float64)[FIRST:]
    km = 111.2 * np.hypot(place[:, 0] - 40.7, (place[:, 1] + 74.0) * np.cos(np.radians(40.7)))
    placed = np.isfinite(km)
    order = np.argsort(km[placed])
    assert (np.diff(difference[0][placed][order]) <= 1e-5).all()
    assert difference[0][placed][order][0] > difference[0][placed][order][-1] + 1


def test_an_auxiliary_target_is_the_category_of_the_next_item() -> None:
    head = Retrieval(auxiliary=(Auxiliary("category", 0.5),))
    model, variables, batch, catalogue = setting(head)
    loss, logged = run(model, variables, batch, catalogue, method="loss")
    plain, none = run(build(Retrieval()), variables, batch, catalogue, method="loss")
    np.testing.assert_allclose(loss, plain + 0.5 * logged["category_loss"], rtol=1e-5)
    assert not none
    others = dict(catalogue.items.categorical) | {"category": jnp.zeros(len(catalogue.place), jnp.int32)}
    unknown = dataclasses.replace(catalogue, items=dataclasses.replace(catalogue.items, categorical=others))
    assert float(run(model, variables, batch, unknown, method="loss")[1]["category_loss"]) == 0
    missing = build(Retrieval(auxiliary=(Auxiliary("colour"),)))
    with pytest.raises(ValueError, match=r"no categorical item field 'colour'.*category"):
        run(missing, variables, batch, catalogue, method="loss")


def test_a_kind_that_is_foretold_speaks_for_the_past_events_of_that_kind() -> None:
    """Raising one kind's logit moves the pointer's mass between kinds, and nothing within a kind."""
    head = Retrieval(pointer=Pointer(5, WINDOW), auxiliary=(Auxiliary("category"),))
    model, variables, batch, catalogue = setting(head)
    history, query, _ = questions(batch.events, head.known)
    kinds = np.asarray(catalogue.items.categorical["category"])
    row = int(history.valid.sum(axis=1).argmax())
    items = np.unique(np.asarray(history.item[row])[np.asarray(history.valid[row])][-WINDOW:])
    items = items[items >= FIRST]
    kind = next(k for k in kinds[items] if k >= FIRST and (kinds[items] != k).any())

    def copied(raise_by: float) -> np.ndarray:
        side = variables["params"]["head"]["auxiliary_category"]
        bias = side["project"]["bias"].at[kind].add(raise_by)
        side = side | {"project": side["project"] | {"bias": bias}}
        params = variables["params"] | {"head": variables["params"]["head"] | {"auxiliary_category": side}}
        # Without the catalogue's share: all mass is the pointer's.
        gate = params["head"]["pointer"]["gate"]
        params["head"]["pointer"] = params["head"]["pointer"] | {"gate": gate | {"bias": gate["bias"] + 30.0}}
        return np.asarray(run(model, {"params": params}, history, query, catalogue, method="scores"))[
            row, items
        ]

    gained = copied(2.0) - copied(0.0)
    of_kind = kinds[items] == kind
    np.testing.assert_allclose(gained[of_kind], gained[of_kind][0], atol=1e-4)
    np.testing.assert_allclose(gained[~of_kind], gained[~of_kind][0], atol=1e-4)
    np.testing.assert_allclose(gained[of_kind][0] - gained[~of_kind][0], 2.0, atol=1e-4)


@pytest.mark.parametrize(("block", "unroll"), [(3, 8), (4, 2), (11, 0)])
def test_the_pointer_in_blocks_is_the_pointer(
    monkeypatch: pytest.MonkeyPatch, block: int, unroll: int
) -> None:
    """Unrolled blocks and the loop give the loss and the gradients of one block."""
    model, variables, batch, catalogue = setting(HEADS["distance, place unknown"])

    def loss(variables: Any) -> jax.Array:
        return model.apply(variables, batch, catalogue, method="loss")[0]

    expected = jax.jit(jax.value_and_grad(loss))(variables)
    monkeypatch.setattr(pointer_module, "BLOCK", block)
    monkeypatch.setattr(pointer_module, "UNROLL", unroll)
    found = jax.jit(jax.value_and_grad(lambda v: loss(v)))(variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_impossible_settings_are_refused() -> None:
    batch, catalogue = random_batch(B, L)
    for head, message in (
        (Retrieval(interests=0), "interests=0 must be at least 1"),
        (Retrieval(distance=Distance((3.0, 1.0))), r"knots=\(3.0, 1.0\) must be kilometres above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            random_parameters(build(head), batch, catalogue, method="loss")


@pytest.mark.parametrize(("sense", "matters"), [("time", False), ("space", False), ("both", True)])
def test_a_pointer_reads_only_what_it_may(sense: str, matters: bool) -> None:
    pointer = Pointer(5, WINDOW, time=sense != "time", space=sense != "space")
    model = Recommender(
        items=ItemEmbed(6, place=False),
        encoders={},
        fusion=ConcatFusion(8),
        interest=GRU(),
        head=Retrieval(pointer=pointer),
    )
    batch, catalogue = random_batch(B, L)
    variables = random_parameters(model, batch, catalogue, method="loss")
    events = batch.events
    moved = events.replace(place=events.place + 0.07 * jnp.arange(L + 1)[:, None].astype(jnp.float32))
    later = events.replace(time=events.time + 3_607 * jnp.arange(L + 1, dtype=jnp.int32))
    changed = {"time": [later], "space": [moved], "both": [later, moved]}[sense]
    one = run(model, variables, events, Query(), catalogue, method="scores")[:, FIRST:]
    for other in changed:
        two = run(model, variables, other, Query(), catalogue, method="scores")[:, FIRST:]
        assert (np.abs(one - two).max() > 1e-4) == matters


def test_a_pointer_can_ask_for_items_however_often_they_came() -> None:
    """With weight on the last event of each item alone, all items of the window are as likely."""
    model, variables, batch, catalogue = setting(Retrieval(pointer=Pointer(5, WINDOW)))
    params = jax.tree.map(jnp.zeros_like, variables["params"])
    head = params["head"]["pointer"]
    head["pair_weights"]["bias"] = head["pair_weights"]["bias"].at[pairs.ORDER.index("latest")].set(30.0)
    head["gate"]["bias"] = head["gate"]["bias"] + 30.0
    item = jnp.asarray([[3, 4, 7, 6, 5, 5, 3, 4, 5, 5, 6, 5]] * B)
    events = batch.events.replace(item=item, valid=jnp.ones_like(item, bool))
    scores = run(model, {"params": params}, events, Query(), catalogue, method="scores")
    found = np.exp(scores[0, FIRST:])
    recent = {3, 4, 5, 6}  # 7 is out of the window
    expected = [1 / len(recent) if i in recent else 0.0 for i in range(FIRST, len(catalogue.place))]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def ranker(**head: Any) -> Recommender:
    tasks = (Task("rated", "rating", "regression"), Task("liked", "rating", threshold=3.0, weight=0.5))
    return Recommender(
        items=ItemEmbed(6),
        encoders={},
        fusion=ConcatFusion(8),
        interest=GRU(),
        head=Retrieval(**head),
        ranking=Ranking(tasks, hidden=7),
    )


def test_a_ranking_head_answers_alike_in_both_forms_and_adds_its_loss() -> None:
    model = ranker(known=("time",))
    batch, catalogue = random_batch(B, L)
    variables = random_parameters(model, batch, catalogue, method="loss")
    history, query, _ = questions(batch.events, model.known)
    candidates = jnp.asarray(np.random.default_rng(2).integers(FIRST, 23, (B, 5)), jnp.int32)
    whole = run(model, variables, history, query, candidates, catalogue, method="rank")
    state = run(model, variables, model.init_state(B), history, catalogue, method="read")
    stepped = run(model, variables, state, query, candidates, catalogue, method="answer_rank")
    assert set(whole) == {"rated", "liked"}
    some = np.asarray(history.valid.any(axis=1))
    for name in whole:
        assert whole[name].shape == (B, 5)
        np.testing.assert_allclose(whole[name][some], stepped[name][some], atol=1e-4)
    loss, logged = run(model, variables, batch, catalogue, method="loss")
    plain = model.clone(ranking=None)
    alone, _ = run(plain, variables, batch, catalogue, method="loss")
    np.testing.assert_allclose(loss, alone + logged["rated_loss"] + 0.5 * logged["liked_loss"], rtol=1e-5)
    # The label of the event to be ranked is not read: another one changes the loss and no answer.
    rating = {"rating": batch.events.numeric["rating"] + 1.0}
    other = type(batch)(batch.events.replace(numeric=rating), batch.weight)
    assert abs(float(run(model, variables, other, catalogue, method="loss")[0] - loss)) > 1e-4
    with pytest.raises(ValueError, match="no ranking head"):
        run(plain, variables, history, query, candidates, catalogue, method="rank")


def test_a_label_that_the_query_knows_is_refused() -> None:
    model = ranker(known=("scene",)).clone(ranking=Ranking((Task("went", "scene", positive=(2,)),)))
    batch, catalogue = random_batch(B, L)
    with pytest.raises(ValueError, match=r"labels \['scene'\] are in head.known"):
        random_parameters(model, batch, catalogue, method="loss")


@pytest.mark.parametrize("objective", [SampledSoftmax(7), GBCE(7), InBatch()], ids=lambda o: type(o).__name__)
def test_every_objective_trains_the_whole_model(objective: Objective) -> None:
    pointer = Pointer(5, WINDOW) if isinstance(objective, SampledSoftmax) else None
    head = Retrieval(objective=objective, pointer=pointer, distance=Distance(KNOTS))
    model, variables, batch, catalogue = setting(head)

    def loss(variables: Any) -> jax.Array:
        key = {"dropout": jax.random.key(0)}
        return model.apply(variables, batch, catalogue, True, method="loss", rngs=key)[0]

    value, gradients = jax.jit(jax.value_and_grad(loss))(variables)
    assert np.isfinite(value)
    for path, g in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(g).all() and (np.asarray(g) != 0).any(), path
    if pointer is None:
        mixed = build(head.clone(pointer=Pointer(5, WINDOW)))
        with pytest.raises(ValueError, match="no probability that could be mixed"):
            random_parameters(mixed, batch, catalogue, method="loss")


def chooser(memory: int, ordered: bool = False, leave_one_out: bool = False) -> Recommender:
    return Recommender(
        items=ItemEmbed(6),
        encoders={"context": ContextEmbed(5)},
        fusion=ConcatFusion(8),
        interest=Mean(),
        head=Retrieval(known=("scene",)),
        ranking=Ranking((Choice(negatives=3),), hidden=7, memory=memory),
        ordered=ordered,
        leave_one_out=leave_one_out,
        dropout=0.0,
    )


@pytest.mark.parametrize("memory", [3, L + 2])
def test_a_choice_that_remembers_answers_alike_in_both_forms(memory: int) -> None:
    model = chooser(memory)
    batch, catalogue = random_batch(B, L)
    variables = random_parameters(model, batch, catalogue, method="loss")
    history, query, target = questions(batch.events, model.known)
    candidates = jnp.concatenate([history.item[:, :4], target[:, None]], axis=1)
    whole = run(model, variables, history, query, candidates, catalogue, method="rank")["chosen"]
    state = run(model, variables, model.init_state(B), history, catalogue, method="read")
    assert state.memory.item.shape == (B, memory)
    stepped = run(model, variables, state, query, candidates, catalogue, method="answer_rank")["chosen"]
    some = np.asarray(history.valid.any(axis=1))
    np.testing.assert_allclose(whole[some], stepped[some], atol=1e-4)
    # What is forgotten counts no longer.
    other = run(chooser(5), variables, history, query, candidates, catalogue, method="rank")["chosen"]
    assert np.abs(whole - other)[history.valid.sum(axis=1) > 5].max() > 1e-3


def test_without_order_every_order_of_the_history_answers_alike() -> None:
    model = chooser(memory=L)
    batch, catalogue = random_batch(B, L)
    variables = random_parameters(model, batch, catalogue, method="loss")
    history, query, _ = questions(batch.events, model.known)
    candidates = history.item[:, :4]
    order = sequence.shuffled(jax.random.key(1), history.valid)
    assert (order != jnp.arange(history.item.shape[1])).any()
    other = jax.tree.map(lambda x: sequence.take(x, order), history)
    for method, args in (("rank", (candidates,)), ("scores", ())):
        found = [run(model, variables, h, query, *args, catalogue, method=method) for h in (history, other)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *found)


def test_without_order_training_reads_a_new_order_each_time() -> None:
    batch, catalogue = random_batch(B, L)
    variables = random_parameters(chooser(0), batch, catalogue, method="loss")

    def losses(model: Recommender) -> list[float]:
        model = model.clone(ranking=None)  # whose draws would be others, too

        @jax.jit
        def loss(key: jax.Array) -> jax.Array:
            rngs = {"dropout": key}
            return model.apply(variables, batch, catalogue, train=True, method="loss", rngs=rngs)[0]

        return [float(loss(jax.random.key(k))) for k in range(3)]

    assert len(set(losses(chooser(0)))) == 3
    assert len(set(losses(chooser(0, ordered=True)))) == 1


def test_left_out_one_by_one_each_is_asked_for_given_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of training is that of the answers to what is asked at serving: history without the target."""
    batch, catalogue = random_batch(1, 6)
    valid, item = jnp.arange(7)[None] < 5, batch.events.item % 4 + FIRST
    events = dataclasses.replace(batch.events, valid=valid, item=item)
    drawn = jnp.array([FIRST, FIRST + 3, FIRST + 5])
    monkeypatch.setattr(
        Ranking,
        "candidates",
        lambda self, target, items, train: jnp.concatenate(
            [target[..., None], jnp.broadcast_to(drawn, (*target.shape, 3))], axis=-1
        ),
    )
    model = chooser(7, leave_one_out=True)
    weight = (jnp.arange(1, 7)[None] < 5).astype(jnp.float32)
    batch = dataclasses.replace(batch, events=events, weight=weight)
    variables = random_parameters(model, batch, catalogue, method="loss")
    each = []
    for left in range(5):
        keep = np.delete(np.arange(7), left)
        history, query = events[:, keep], Query.of(events[:, left], model.known)
        target = int(events.item[0, left])
        log_p = run(model, variables, history, query, catalogue, method="scores")[0, target]
        asked = jnp.concatenate([jnp.array([target]), drawn])[None]
        y = np.asarray(run(model, variables, history, query, asked, catalogue, method="rank")["chosen"][0])
        other = np.asarray(drawn) != target
        negative = np.log1p(np.exp(y[1:]))[other].mean()
        each.append(-log_p + (np.log1p(np.exp(-y[0])) + 2 * negative) / 3)

    @jax.jit
    def trained(key: jax.Array) -> jax.Array:
        return model.apply(variables, batch, catalogue, True, method="loss", rngs={"dropout": key})[0]

    # One event, drawn, is only read.
    possible = [(sum(each) - one) / 4 for one in each]
    found = [float(trained(jax.random.key(k))) for k in range(8)]
    nearest = [int(np.abs(np.subtract(possible, value)).argmin()) for value in found]
    np.testing.assert_allclose(found, [possible[k] for k in nearest], rtol=1e-5)
    assert len(set(nearest)) > 1 and np.diff(sorted(possible)).min() > 1e-4


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"ordered": True}, "ordered=False"),
        ({"interest": GRU()}, "an interest without order"),
        ({"encoders": {"time": TimeEmbed()}}, r"\['time'\] do not"),
        ({"fusion": ConvolutionFusion(8)}, "a fusion that looks at one event"),
        ({"head": Retrieval(pointer=Pointer(5, WINDOW))}, "head.pointer=None"),
        ({"when": NextTime(), "ranking": None}, "when=None"),
        ({"head": Retrieval(known=("time",))}, "no time and no place"),
    ],
)
def test_leaving_one_out_needs_parts_without_order(change: dict[str, Any], remedy: str) -> None:
    batch, catalogue = random_batch(B, L)
    model = chooser(0, leave_one_out=True).clone(**change)
    with pytest.raises(ValueError, match=f"leave_one_out=True: it needs .*{remedy}"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), batch, catalogue, method="loss"))
