"""The best possible in the synthetic city: by the hidden truth, and by what the log can tell of it.

    python -m benchmarks.accuracy.city [--part test]

The oracle knows every user's home, work, favourites, rhythm and taste. The filter knows the city's tables,
homes, workplaces and rhythms, and infers taste and favourites from the events before, by Bayes' rule: no
model that learns from the log can be expected to rank better. Both read the target's time. Prints a JSON line
each and a Markdown table.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

import numpy as np

from benchmarks.accuracy.studies import _vary
from benchmarks.accuracy.study import CODES, NEW
from stjax.data.city.people import NEAR_HOME, people
from stjax.data.city.world import HABIT, MOVES, SLOT, WORK, period
from stjax.data.dataset import Dataset
from stjax.data.oracle import Oracle
from stjax.evaluation import evaluate
from stjax.events import FIRST, Events, Query

TRANSIT = MOVES.index("transit")  # by whose distances favourites are drawn
METRICS = ("Acc@1", "HR@10", "NDCG@10", "MRR")


@dataclass(frozen=True)
class Filter:
    """Scores every item by log P(item | the user's events before, the target's time)."""

    oracle: Oracle
    name: str = "Bayes filter"
    known: tuple[str, ...] = ("time",)

    def __call__(self, history: Events, query: Query, rows: np.ndarray) -> np.ndarray:
        """Log-probabilities float32 (B, V); rows (B,) of the targets in the store."""
        del history
        assert query.time is not None and query.utc_offset is not None
        now = period((np.asarray(query.time) + np.asarray(query.utc_offset)) // SLOT)
        of_world = np.stack([self.next_venue(int(r), int(at)) for r, at in zip(rows, now, strict=True)])
        with np.errstate(divide="ignore"):
            return np.log(self.oracle.in_columns(of_world)).astype(np.float32)

    def next_venue(self, row: int, now: int) -> np.ndarray:
        """P(venue) float64 (V,) of the event at a row of the store, in the period `now`."""
        world, column = self.oracle.world, self.oracle.store.columns
        start = int(self.oracle.store.offsets[self.oracle.store.user_of(np.asarray(row))])
        events = slice(start, max(row, start + 1))  # rows of padding may be a user's first
        user, item, device, move = (
            np.asarray(column[name][events]).astype(np.int64) - FIRST
            for name in ("user", "item", "device", "scene")
        )
        local = np.asarray(column["time"][events]) + np.asarray(column["utc_offset"][events])
        folk = people(world, user[:1])
        home, work, rhythm = int(folk.home[0]), int(folk.work[0]), int(folk.rhythm[0])

        # A visit to t after which all else is equal: (1 - h) q(t) if t is no favourite, h more if it is.
        before, after = item[:-1], item[1:]
        kind, habit = world.category[after], HABIT[device[:-1]]
        chosen = kind > WORK
        explored = world.venue[move[:-1], world.cell[before], after]
        likelier = np.where(chosen, np.log1p(habit / ((1 - habit) * np.maximum(explored, 1e-300))), 0.0)
        near = NEAR_HOME * world.venue[TRANSIT, world.cell[home]]
        near += (1 - NEAR_HOME) * world.venue[TRANSIT, world.cell[work]]
        log_favourite = np.log(near)
        np.add.at(log_favourite, after, likelier)
        sizes, first = np.diff(world.start), world.start[:-1]
        log_favourite -= np.repeat(np.maximum.reduceat(log_favourite, first), sizes)
        favourite = np.exp(log_favourite)
        favourite /= np.repeat(np.add.reduceat(favourite, first), sizes)

        drift, archetypes = world.city.drift, world.city.archetypes
        taste = np.full(archetypes, 1 / archetypes)
        likes = world.taste[:, period(local[1:] // SLOT), world.category[before], kind].T  # (events, Z)
        for liked, counts in zip(likes, chosen, strict=True):
            taste = (1 - drift) * taste + drift / archetypes
            if counts:
                taste = taste * liked / (taste @ liked)
        taste = (1 - drift) * taste + drift / archetypes

        wish = taste @ world.taste[:, now, world.category[item[-1]]]
        habit = HABIT[device[-1]]
        to_home, to_work = world.anchor[rhythm, now]
        p = (1 - to_home - to_work) * wish[world.category]
        p = p * (habit * favourite + (1 - habit) * world.venue[move[-1], world.cell[item[-1]]])
        p[home] += to_home
        p[work] += to_work
        return p


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", choices=CODES, default="valid")
    part = parser.parse_args().part
    experiment = _vary.config("synthetic")
    store = experiment.source.open()
    dataset = Dataset(store, experiment.protocol(store))
    oracle = Oracle.of(dataset, time=True)
    lines = [f"| | {' | '.join(METRICS)} | MRR {NEW} |", f"|---|{'---:|' * (len(METRICS) + 1)}"]
    for scorer in (oracle, Filter(oracle)):
        report = evaluate(scorer, dataset, CODES[part], length=1)
        found = {name: report.mean(name) for name in METRICS}
        found |= {f"MRR {NEW}": report.segments()["novelty"][NEW]["metrics"]["MRR"]["mean"]}
        print(json.dumps({"scorer": scorer.name, "title": report.title, "metrics": found}), flush=True)
        lines.append(f"| {scorer.name} | {' | '.join(f'{value:.4f}' for value in found.values())} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
