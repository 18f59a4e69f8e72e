"""What may be answered: every filter against the full ranking, filtered by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stjax.events import FIRST
from stjax.serving import Engine, Event, Request
from stjax.serving.codec import BadEvent
from tests.counting import ITEMS, counting
from tests.serving import ALL, SHAPES, parts, plain, request, start, stream, whole

HERE = (40.7, -74.0)


@pytest.fixture(scope="module")
def made():
    return parts(plain(known=("time", "place")))


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return stream(59)


@pytest.fixture(scope="module")
def engine(made, events: list[Event]) -> Engine:
    engine = start(made, capacity=4)
    engine.observe(events)
    return engine


def kilometres(a, b) -> float:
    """Great-circle distance by the haversine formula, float64."""
    (lat1, lon1), (lat2, lon2) = np.radians(a), np.radians(b)
    h = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * 6371.0088 * math.asin(math.sqrt(h))


def allowed(made, events: list[Event], asked: Request) -> set[str]:
    """The items that the request allows."""
    _, _, catalogue, vocabulary = made
    items = set(vocabulary["item"].texts)
    if asked.exclude_seen:
        items -= {event.item for event in events if event.user == asked.user}
    if asked.allow is not None:
        items &= set(asked.allow)
    items -= set(asked.deny)

    def values(item: str, name: str) -> set[str]:
        row = vocabulary["item"].id(item)
        ids = np.atleast_1d({**catalogue.items.categorical, **catalogue.items.multi}[name][row])
        return {vocabulary[name].text(k) for k in ids.tolist() if k >= FIRST}

    for name, wanted in asked.where.items():
        items = {item for item in items if values(item, name) & set(wanted)}
    if asked.within_km is not None:
        places = {item: catalogue.place[vocabulary["item"].id(item)] for item in items}
        near = {item for item, place in places.items() if not np.isnan(place).any()}
        items = {item for item in near if kilometres(asked.place, places[item]) <= asked.within_km}
    return items


FILTERS = [
    {"exclude_seen": True},
    {"allow": ["item4", "item9", "item2"]},
    {"deny": ["item4", "item9", "item2", "nothing known"]},
    {"where": {"category": ["category2"]}},
    {"where": {"category": ["category2", "category3"], "genres": ["genres3", "genres4"]}},
    {"within_km": 5.0},
    {"within_km": 30_000.0},
    {"within_km": 6.0, "exclude_seen": True, "deny": ["item5"]},
    {"where": {"genres": ["genres2"]}, "allow": [f"item{k}" for k in range(2, 20)], "exclude_seen": True},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("user", ["user3", "user9"])
def test_a_filter_leaves_the_ranking_of_what_it_allows(engine, made, events, user: str, filters) -> None:
    asked = request(user, 3, **filters)
    may = allowed(made, events, asked)
    assert len(may) < ALL or "within_km" in filters or user == "user9"
    everything = whole(made, events, asked)
    for k in (1, 4, ALL):
        found = engine.recommend([asked], k)[0]
        expected = sorted(may, key=lambda item: -everything[item])[:k]
        assert found.items == expected
        np.testing.assert_allclose(found.scores, [everything[item] for item in expected], atol=1e-4)


def test_many_requests_with_filters_of_their_own(engine, made, events) -> None:
    requests = [request(f"user{2 + k % 7}", k, **FILTERS[k % len(FILTERS)]) for k in range(23)]
    requests[5] = request("user5", 5)
    for asked, found in zip(requests, engine.recommend(requests, 5), strict=True):
        everything = whole(made, events, asked)
        may = sorted(allowed(made, events, asked), key=lambda item: -everything[item])
        assert found.items == may[:5]


def test_distance_is_from_the_last_known_place_where_none_is_given(engine, made, events) -> None:
    own = [event for event in events if event.user == "user3" and event.place is not None][-1]
    asked = Request("user3", request("x").time, within_km=7.0)
    there = allowed(made, events, Request("user3", place=own.place, within_km=7.0))
    assert set(engine.recommend([asked], ALL)[0].items) == there and there


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"allow": []}, "allow=.*at least one"),
        ({"allow": "item3"}, "allow='item3' must be ids"),
        ({"allow": ["gone"]}, "none of the 1 items is known"),
        ({"deny": "item3"}, "deny='item3' must be a list"),
        ({"where": {"colour": ["red"]}}, "no item field 'colour'.*category"),
        ({"where": {"category": ["red"]}}, "'red' is no value"),
        ({"where": {"category": []}}, "at least one"),
        ({"within_km": -1.0, "place": HERE}, "within_km=-1.0 must be"),
        ({"within_km": math.nan, "place": HERE}, "within_km=nan must be"),
        ({"within_km": 3.0}, "give `place`"),
    ],
    ids=str,
)
def test_what_a_filter_cannot_mean_is_told(engine, filters, words: str) -> None:
    with pytest.raises(BadEvent, match=words):
        engine.recommend([Request("nobody", request("x").time, **filters)])


def test_unknown_items_of_lists_are_counted(engine) -> None:
    before = engine.status()["counts"].get("allow: unknown item", 0)
    engine.recommend([Request("user3", request("x").time, allow=["item3", "gone", "lost"])], 3)
    assert engine.status()["counts"]["allow: unknown item"] == before + 2
    assert engine.status()["counts"]["answers shorter than k"] > 0


def test_k_is_bounded() -> None:
    engine = counting()
    for k in (0, ITEMS + 1):
        with pytest.raises(BadEvent, match=f"k={k} must be from 1 to {ITEMS}"):
            engine.recommend([Request("u1")], k)
    assert SHAPES.tops[-1] == ALL
