"""Runs a recommender that `python -m stjax.serving export` wrote; needs jax, numpy and flatbuffers alone.

A copy of this file is in every export: an example to start from, which checks nothing.
"""

import json
import math
from pathlib import Path

import jax
import numpy as np
from jax import export


class Served:
    """The states of users, none at first.

    Events and requests are dicts of user, item (of events), time in Unix seconds, utc_offset in seconds,
    place (degrees) and context, a dict of further fields; what is unknown may be left out.
    """

    def __init__(self, folder):
        folder, self.states, self.offsets, self.seen = Path(folder), {}, {}, {}
        self.about = json.loads((folder / "schema.json").read_text("utf-8"))
        self.words = json.loads((folder / "vocabulary.json").read_text("utf-8"))
        first = self.about["ids"]["first"]
        self.ids = {name: {w: k for k, w in enumerate(words, first)} for name, words in self.words.items()}
        self.weights = jax.device_put(dict(np.load(folder / "weights.npz")))
        files = [(folder / f"{name}.bin").read_bytes() for name in ("cold", "observe", "recommend")]
        cold, self.reads, self.answers = [jax.jit(export.deserialize(bytearray(f)).call) for f in files]
        self.cold = {name: np.asarray(x[0]) for name, x in cold(np.zeros(1, np.int32)).items()}

    def observe(self, events):
        """Read events, in any order, but none of a user before one that an earlier call has read."""
        waiting = {}
        for event in sorted(events, key=lambda event: event["time"]):
            waiting.setdefault(event["user"], []).append(event | {"valid": True})
        while waiting := {user: own for user, own in waiting.items() if own}:
            rows = [own.pop(0) for own in waiting.values()]  # the next of each user
            states, columns = self._arrays(rows, "events")
            states = jax.device_get(self.reads(self.weights, states, columns))
            for k, row in enumerate(rows):
                self.states[row["user"]] = {name: x[k].copy() for name, x in states.items()}
                self.offsets[row["user"]] = self._value("utc_offset", {}, row)
                self.seen.setdefault(row["user"], []).append(columns["item"][k])

    def recommend(self, requests, k=10):
        """The k best items for each request as (item, log-probability), the best first.

        With "exclude_seen" in a request, only items that are new to the user; other filters are made alike.
        """
        states, columns = self._arrays(requests, "query")
        allowed = np.ones((len(states["h"]), self.about["items"]), bool)
        for row, request in zip(allowed, requests, strict=False):
            if request.get("exclude_seen"):
                row[self.seen.get(request["user"], [])] = False
        found = jax.device_get(self.answers(self.weights, states, columns, allowed))
        items, first = self.words["item"], self.about["ids"]["first"]
        answers = np.moveaxis(found, 0, -1)[: len(requests), :k]  # (B, k, 2), scores and ids
        return [[(items[int(i) - first], float(s)) for s, i in own if s > -np.inf] for own in answers]

    def _arrays(self, rows, kind):
        """States and columns of events or requests, filled up to a power of two: each size is compiled."""
        size = 1 << (len(rows) - 1).bit_length()
        own = [self.states.get(row["user"], self.cold) for row in rows] + [self.cold] * (size - len(rows))
        states = {name: np.stack([state[name] for state in own]) for name in self.cold}
        columns = {}
        for name, about in self.about[kind].items():
            columns[name] = np.zeros((size, *about["shape"][1:]), about["dtype"])
            for k, row in enumerate(rows):
                columns[name][k] = self._value(name, about, row)
        return states, columns

    def _value(self, name, about, row):
        value = row.get("context", {}).get(about["field"]) if "field" in about else row.get(name)
        if "vocabulary" in about:
            return 0 if value is None else self.ids[about["vocabulary"]].get(value, 1)
        if name == "time":
            return math.floor(value) - self.about["epoch"]
        if name == "utc_offset":
            return self.offsets.get(row["user"], 0) if value is None else value
        return np.nan if value is None else value


if __name__ == "__main__":
    served = Served(Path(__file__).parent)
    request = {"user": "somebody", "time": served.about["epoch"] + 3_600}
    for events in ([], [{**request, "item": served.words["item"][0]}]):
        served.observe(events)
        print(served.recommend([request], k=3)[0])
