"""An engine on meshes of virtual devices answers what one device does, and no device holds or gets it all."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from stjax.ops.topk import top_k
from stjax.serving.answers import starting_at
from stjax.serving.seen import flags, packed
from tests.serving_meshes import child
from tests.strict import strict

pytestmark = strict
MESHES = ("4x2", "2x4")
ROWS, FEATURES, ANSWERS = 224, 16, 61  # of the items' table, and of an answer; see serving_meshes.py
BY_ITEM = (
    *("params/items/table", "params/head/bias/bias", "params/encoders_user/users/embedding"),
    *("catalogue/place", "catalogue/items/categorical/category", "catalogue/items/multi/genres"),
    *("catalogue/items/numeric/price", "catalogue/items/vector/text", "table", "space"),
)


def test_a_mesh_answers_what_one_device_does() -> None:
    *each, refused = child(8, *MESHES)
    for found, mesh in zip(each, MESHES, strict=True):
        data, model = map(int, mesh.split("x"))
        # After the restart from a snapshot of another mesh, after events, and after a new item.
        for difference in found["differences"]:
            assert difference["scores"] < 1e-5 and difference["others"] == 0, found["differences"]
        assert found["named"] > 0  # the new item, by those near to it
        assert found["evictions"] > 23
        warmed, after = found["compiled"]
        assert warmed == after
        told, real = found["device bytes"]
        assert told == real

        shares = {name: share for name, share in found["shares"].items() if share != 0}
        for name in BY_ITEM:
            assert shares.pop(name) == 1 / model, name
        for name, share in shares.items():
            assert share == (1 / data if name.startswith("states/") else 1), name

        # Rows that are looked up are summed; a program of the engine never makes a table whole.
        sizes = {name: [math.prod(shape) for shape in own] for name, own in found["gathered"].items()}
        assert all(max(own, default=0) < ROWS * FEATURES / model for own in sizes.values()), sizes
        assert max(sizes["recommend"]) <= max(2, 4 // data) * model * min(ANSWERS, ROWS // model), sizes
        assert not sizes["derive"] and found["reduced"]["fetch"]

    capacity, items, table, devices = refused
    assert "capacity=9" in capacity and "such as 12" in capacity
    assert "spare_items=14" in items and "set spare_items 17" in items
    assert "(211,)" in table and "rows_multiple 4" in table
    assert "3 x sharding.model 2 is not 8" in devices


@pytest.mark.parametrize("k", [1, 5, 13, 39])
def test_the_best_of_the_parts_are_those_of_all(k: int) -> None:
    """Also where there are ties, and where a part has fewer than k."""
    random = np.random.default_rng(k)
    scores = random.integers(0, 9, (7, 39)).astype(np.float32)
    scores[random.random(scores.shape) < 0.3] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    shares = scores.reshape(7, 3, 13).swapaxes(0, 1)  # of three devices
    best, columns = jax.vmap(lambda own: top_k(own, k, "devices"), axis_name="devices")(shares)
    for device in range(3):
        np.testing.assert_array_equal(columns[device], order)
        np.testing.assert_array_equal(best[device], np.take_along_axis(scores, order, axis=1))


def test_bits_from_anywhere() -> None:
    random = np.random.default_rng(0)
    own = random.random((5, 192)) < 0.5
    bits = np.stack([packed(row) for row in own])
    count, firsts = 53, np.arange(192)
    found = jax.jit(jax.vmap(lambda first: starting_at(bits, first, count)))(firsts)
    for first, rows in zip(firsts, np.asarray(found), strict=True):
        expected = own[:, first : first + count]
        found_bits = np.stack([flags(row) for row in rows])[:, : expected.shape[1]]
        np.testing.assert_array_equal(found_bits, expected)
