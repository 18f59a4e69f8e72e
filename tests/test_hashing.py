"""Ids that share rows: hashes against Python's integers, chance, models of a size that ids do not change."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from stjax.errors import ConfigError
from stjax.events import FIRST, UNSEEN
from stjax.nn import GRU, ConcatFusion, ItemEmbed, Recommender, Retrieval, UserEmbed
from stjax.nn.content import CompressedEmbed
from stjax.ops import hashing
from stjax.serving.items import reserved
from stjax.training.optimizer import decays
from stjax.training.paths import named, vocabulary_of
from tests.models import random_batch, random_parameters, run
from tests.random_events import SCHEMA, random_catalogue
from tests.strict import strict
from tests.test_parity import check
from tests.test_sharding import specs

pytestmark = strict

LAST = 2**31 - 1
D, ROWS = 6, 11
KINDS = ("hashed", "quotient")


def mixed(x: int, before: int, between: int) -> int:
    x ^= before
    x = (x ^ x >> 16) * 0x7FEB352D % 2**32
    x = (x + between) % 2**32
    x = (x ^ x >> 15) * 0x846CA68B % 2**32
    return x ^ x >> 16


def hashed(x: int, function: int, seed: int) -> int:
    return mixed(x, *(mixed(2 * function + k, seed, 2**32 - 1 - seed) for k in (0, 1)))


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_hashes_and_rows_are_those_of_integers(seed: int) -> None:
    ids = [0, 1, 2, 3, 65_537, LAST - 1, LAST]
    for function in (0, 1, 5):
        expected = [hashed(x, function, seed) for x in ids]
        found = jax.jit(hashing.hashed, static_argnums=(1, 2))(jnp.asarray(ids), function, seed)
        assert found.tolist() == expected
    for rows in (1, 2, 97, LAST):
        found = hashing.hashed_rows(jnp.asarray(ids).reshape(7, 1), rows, 3, seed)
        assert found.shape == (7, 1, 3) and found.dtype == jnp.int32
        assert found[:, 0].tolist() == [[hashed(x, k, seed) % rows for k in range(3)] for x in ids]


def test_hashes_do_not_change() -> None:
    """Tables that were trained are read by them."""
    found = hashing.hashed_rows(jnp.asarray([0, 2, 12_345, LAST]), 1_000_003, 2)
    assert found.tolist() == [[838414, 401076], [539797, 991896], [557486, 388157], [572231, 883001]]


def collisions(rows: np.ndarray) -> float:
    counts = np.unique(rows, return_counts=True)[1].astype(np.float64)
    return float((counts * (counts - 1) / 2).sum())


@pytest.mark.parametrize("ids", [np.arange(20_011), np.arange(20_011) * 2**16, LAST - np.arange(20_011)],
                         ids=["first", "strided", "last"])  # fmt: skip
def test_functions_and_seeds_collide_as_chance_has_it(ids: np.ndarray) -> None:
    """Pairs of ids in one row, and in one row by each of two functions: within 5 standard errors."""
    rows, ids = 1_009, (ids % 2**31).astype(np.int32)
    pairs = len(np.unique(ids)) * (len(np.unique(ids)) - 1) / 2
    ids = np.unique(ids)
    found = [np.asarray(hashing.hashed_rows(jnp.asarray(ids), rows, 3, seed), np.int64) for seed in (0, 1)]
    columns = [column for each in found for column in each.T]
    for k, one in enumerate(columns):
        assert abs(collisions(one) - pairs / rows) < 5 * np.sqrt(pairs / rows)
        assert one.min() < 5 and one.max() >= rows - 5
        for other in columns[:k]:
            both = collisions(one * rows + other)
            assert abs(both - pairs / rows**2) < 5 * np.sqrt(pairs / rows**2)


def test_pairs_of_quotient_and_remainder_belong_to_one_id() -> None:
    rows = 101
    quotient, remainder = map(np.asarray, hashing.quotient_remainder(jnp.arange(rows**2), rows))
    np.testing.assert_array_equal(quotient * rows + remainder, np.arange(rows**2))
    for pair in (quotient, remainder):
        assert pair.min() == 0 and pair.max() == rows - 1
    last = np.arange(LAST - 1_000, LAST, dtype=np.int64)
    for many in (1, 3, rows, 46_341, LAST):  # 46,341^2 is above 2^31
        found = [
            np.asarray(x, np.int64) for x in hashing.quotient_remainder(jnp.asarray(last, jnp.int32), many)
        ]
        assert min(x.min() for x in found) >= 0 and max(x.max() for x in found) < many
        if many > rows:
            np.testing.assert_array_equal(found[0] * many + found[1], last)


def reference(params: Any, kind: str, ids: np.ndarray) -> np.ndarray:
    p = jax.tree.map(np.asarray, params)
    out = []
    for i in ids.tolist():
        if i < FIRST:
            out.append(p["special"]["embedding"][i])
        elif kind == "hashed":
            table = p["hashed"]["embedding"]
            out.append(sum(table[hashed(i, k, 0) % ROWS] for k in range(3)) / np.sqrt(3))
        else:
            q, r = (p[name]["embedding"] for name in ("quotient", "remainder"))
            out.append(q[i // ROWS] * r[i % ROWS])
    return np.stack(out)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_and_gradients(kind: Any) -> None:
    model, ids = CompressedEmbed(D, kind, ROWS, 3), jnp.arange(SCHEMA.items)
    start = model.init(jax.random.key(0), ids, SCHEMA.items)
    params = jax.tree.map(lambda x: x + 0.3 * jnp.cos(jnp.arange(0.0, x.size)).reshape(x.shape), start)
    expected = reference(params["params"], kind, np.arange(SCHEMA.items))

    def total(params: Any) -> Any:
        x = model.apply(params, ids, SCHEMA.items)
        return (x * jnp.arange(1.0, 1 + x.size).reshape(x.shape)).sum(), x

    (_, x), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    np.testing.assert_allclose(x, expected, atol=1e-6)
    weight = np.arange(1, 1 + x.size).reshape(x.shape)
    np.testing.assert_allclose(gradient["params"]["special"]["embedding"], weight[:FIRST])
    if kind == "hashed":
        own = np.zeros((ROWS, D))
        for i in range(FIRST, SCHEMA.items):
            for k in range(3):
                own[hashed(i, k, 0) % ROWS] += weight[i] / np.sqrt(3)
        np.testing.assert_allclose(gradient["params"]["hashed"]["embedding"], own, rtol=1e-5)
    x = np.asarray(model.apply(start, ids, SCHEMA.items))
    assert (x[:FIRST] == 0).all() and x[FIRST:].std() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_items_and_users(kind: Any) -> None:
    catalogue = jax.tree.map(jnp.asarray, random_catalogue())
    items = ItemEmbed(D, attributes=False, place=False, compression=kind, rows=ROWS, functions=3)
    params = random_parameters(items, catalogue)
    expected = reference(params["params"], kind, np.arange(SCHEMA.items))
    np.testing.assert_allclose(run(items, params, catalogue), expected, atol=1e-6)
    users = UserEmbed(D, attributes=False, compression=kind, rows=ROWS, functions=3)
    event = random_batch(5, 1)[0].events[:, 0]
    params = random_parameters(users, event, catalogue)
    expected = reference(params["params"]["users"], kind, np.asarray(event.user))
    np.testing.assert_allclose(run(users, params, event, catalogue), expected, atol=1e-6)


def compressed(kind: Any, other: Any) -> Recommender:
    items = ItemEmbed(D, attributes=False, place=False, compression=kind, rows=ROWS)
    users = UserEmbed(3, attributes=False, compression=other, rows=ROWS)
    return Recommender(items, {"user": users}, ConcatFusion(8), GRU(), Retrieval())


def test_the_forms_agree() -> None:
    check(compressed("hashed", "quotient"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_beyond_training_is_an_unseen_one(kind: Any) -> None:
    """Not the sum of what other items have made of the rows of its hash."""
    items = ItemEmbed(D, attributes=False, place=False, compression=kind, rows=ROWS, functions=3)
    serving = jax.tree.map(jnp.asarray, reserved(random_catalogue(), 3))
    params = random_parameters(items, serving)
    found = np.asarray(run(items, params, serving))
    assert found.shape == (SCHEMA.items + 3, D)
    np.testing.assert_array_equal(found[SCHEMA.items :], np.broadcast_to(found[UNSEEN], (3, D)))
    np.testing.assert_array_equal(found[UNSEEN], params["params"]["special"]["embedding"][UNSEEN])
    known = run(items, params, jax.tree.map(jnp.asarray, random_catalogue()))
    np.testing.assert_array_equal(found[: SCHEMA.items], known)


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_a_model_is_not_that_of_its_ids(kind: Any) -> None:
    sizes = []
    for items, users in ((23, 7), (101, 53)):
        schema = dataclasses.replace(SCHEMA, items=items, users=users)
        batch, catalogue = random_batch(2, 3, schema=schema)
        model = compressed(kind, kind)
        shapes = jax.eval_shape(lambda *a, m=model: m.init(*a, method="loss"), jax.random.key(0), batch,
                                catalogue)["params"]  # fmt: skip
        assert shapes["head"].pop("bias")["bias"].shape == (items,)  # popularity stays one number an item
        sizes.append(jax.tree.map(lambda x: x.shape, shapes))
    assert sizes[0] == sizes[1]
    for path, x in jax.tree_util.tree_leaves_with_path(shapes):
        name = named(path)
        if {"hashed", "quotient", "remainder", "special"} & set(name.split("/")):
            assert x.shape[0] == (FIRST if "special" in name else ROWS)
            # no decay of rows that a batch does not touch, and no rows by id
            assert not decays(path, x) and vocabulary_of(name) is None


def test_devices_have_copies_or_share_by_a_rule() -> None:
    params = {"items": {"hashed": {"embedding": jax.ShapeDtypeStruct((24, 7), np.float32)}}}
    assert specs(params, 3, 4) == {"items": {"hashed": {"embedding": P(None, None)}}}
    rules = ((".*/(hashed|quotient|remainder)/embedding", ("model",)),)
    assert specs(params, 3, 4, rules=rules) == {"items": {"hashed": {"embedding": P("model")}}}
    with pytest.raises(
        ConfigError, match=r"items/hashed/embedding \(24, 7\) .*compression.* a multiple of 5"
    ):
        specs(params, 1, 5, rules=rules)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"compression": "hash"}, "compression='hash' must be one of none, hashed, quotient"),
        ({"compression": "hashed", "rows": 0}, "rows=0 .* at least 1"),
        ({"compression": "quotient", "rows": -3}, "rows=-3 .* at least 1"),
        ({"compression": "hashed", "functions": 0}, "functions=0 must be at least 1"),
        ({"compression": "quotient", "rows": 4}, "rows=4 give 16 pairs .* 23 ids: set rows to at least 5"),
    ],
)
def test_what_cannot_be_is_refused(wrong: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(ItemEmbed(D, **wrong).init, jax.random.key(0), random_catalogue())


def test_a_user_without_ids_compresses_none() -> None:
    user, event = UserEmbed(D, ids=False, compression="hashed"), random_batch(2, 1)[0].events
    with pytest.raises(ValueError, match="compression='hashed' is of user ids: set ids=True, or 'none'"):
        jax.eval_shape(user.init, jax.random.key(0), event, random_catalogue())
