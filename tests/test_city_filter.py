"""What can be inferred in the synthetic city: the filter that bounds every model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy.city import Filter
from stjax.data.city import City
from stjax.data.city.world import SLOT, period
from stjax.data.oracle import Oracle
from stjax.data.store import EventStore
from stjax.data.synthetic import write_city
from stjax.events import FIRST, Query

CITY = City(users=97, events_per_user=41, items=211, seed=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return write_city(CITY, Path(tmp_path_factory.mktemp("city")) / "store")


def last_rows(store: EventStore, late: bool) -> np.ndarray:
    """Three rows of every user: the first that can be predicted, or the last."""
    first, stop = store.offsets[:-1], store.offsets[1:]
    return np.concatenate([(stop - k if late else first + k) for k in (1, 2, 3)])


def log_p(scorer: Oracle | Filter, store: EventStore, rows: np.ndarray) -> np.ndarray:
    """Log-probability of what happened at each row."""
    query = Query(time=store.columns["time"][rows], utc_offset=store.columns["utc_offset"][rows])
    scores = scorer(None, query, rows)  # type: ignore[arg-type]  # neither reads the history it is given
    assert scores.shape == (len(rows), store.schema.items)
    np.testing.assert_allclose(np.exp(scores.astype(np.float64)).sum(axis=1), 1.0, atol=1e-4)
    return scores[np.arange(len(rows)), store.columns["item"][rows]].astype(np.float64)


def test_it_learns_from_the_log_and_never_beats_the_truth(store: EventStore) -> None:
    oracle = Oracle.of(store, time=True)
    behind = {}
    for late in (False, True):
        rows = last_rows(store, late)
        behind[late] = (log_p(oracle, store, rows) - log_p(Filter(oracle), store, rows)).mean()
    assert 0 < behind[True] < 0.6 * behind[False]


def test_the_first_prediction_knows_nothing_but_homes(store: EventStore) -> None:
    """After one event the favourites are the prior's, near home and work, and every taste is as likely."""
    oracle = Oracle.of(store, time=True)
    world, row = oracle.world, int(store.offsets[4]) + 1
    now = int(period((store.columns["time"][row] + store.columns["utc_offset"][row]) // SLOT))
    p = Filter(oracle).next_venue(row, now)
    last = int(store.columns["item"][row - 1]) - FIRST
    wish = world.taste.mean(axis=0)[now, world.category[last]]
    total = np.add.reduceat(p, world.start[:-1])
    roaming = total[2:].sum()
    np.testing.assert_allclose(total[2:] / roaming, wish[2:], rtol=1e-6)
