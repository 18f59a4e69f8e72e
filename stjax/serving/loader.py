"""Runs a recommender that `python -m stjax.serving export` wrote; needs jax, numpy and flatbuffers alone.

A copy of this file is in every export: an example to start from, which checks nothing and takes one event or
request at a time. The functions run batches as well.
"""

import json
from pathlib import Path

import numpy as np
from jax import device_put, export, jit


class Served:
    """The states of users, none at first.

    Events and requests are dicts of user, item (of events), time in Unix seconds, utc_offset in seconds,
    place (degrees) and context, a dict of further fields; what is unknown is left out.
    """

    def __init__(self, folder):
        folder, self.states, self.offsets, self.seen = Path(folder), {}, {}, {}
        about, words = [json.loads((folder / f"{n}.json").read_bytes()) for n in ("schema", "vocabulary")]
        self.about, self.items, self.first = about, words["item"], about["ids"]["first"]
        self.ids = {name: {w: i for i, w in enumerate(own, self.first)} for name, own in words.items()}
        self.weights = device_put(dict(np.load(folder / "weights.npz")))
        files = [(folder / f"{name}.bin").read_bytes() for name in ("cold", "observe", "recommend")]
        cold, self.reads, self.answers = [jit(export.deserialize(bytearray(f)).call) for f in files]
        self.cold = cold(np.zeros(1, np.int32))

    def observe(self, events):
        """Read events, in any order, but none of a user before one that an earlier call has read."""
        for event in sorted(events, key=lambda event: event["time"]):
            user, columns = event["user"], self._columns("events", event | {"valid": True})
            self.states[user] = self.reads(self.weights, self.states.get(user, self.cold), columns)
            self.offsets[user] = event.get("utc_offset", self.offsets.get(user, 0))
            self.seen.setdefault(user, set()).add(event["item"])

    def recommend(self, requests, k=10):
        """The k best items for each request as (item, log-probability), the best first.

        Of a request's lists "allow" only, none of "deny", and with "exclude_seen" none that the user had.
        """
        return [self._best(request)[:k] for request in requests]

    def _best(self, request):
        user, columns = request["user"], self._columns("query", request)
        seen = self.seen.get(user, ()) if request.get("exclude_seen") else ()
        left = {*request.get("allow", self.items)}.difference(request.get("deny", ()), seen)
        allowed = np.zeros((1, self.about["items"]), bool)
        allowed[0, [self.ids["item"].get(item, 1) for item in left]] = True  # 1 is never answered
        scores, ids = self.answers(self.weights, self.states.get(user, self.cold), columns, allowed)
        best = zip(ids[0].tolist(), scores[0].tolist(), strict=True)
        return [(self.items[i - self.first], score) for i, score in best if score > -np.inf]

    def _columns(self, kind, row):
        row = {"utc_offset": self.offsets.get(row["user"], 0), "context": {}} | row
        row["time"], columns = int(row["time"] // 1) - self.about["epoch"], {}
        for name, own in self.about[kind].items():
            value = row["context"].get(own["field"]) if "field" in own else row.get(name)
            if "vocabulary" in own:
                value = 0 if value is None else self.ids[own["vocabulary"]].get(value, 1)
            columns[name] = np.full((1, *own["shape"][1:]), np.nan if value is None else value, own["dtype"])
        return columns


if __name__ == "__main__":
    served = Served(Path(__file__).parent)
    request = {"user": "somebody", "time": served.about["epoch"] + 3_600}
    print(*served.recommend([request], k=3))
    served.observe([request | {"item": served.items[0]}])
    print(*served.recommend([request], k=3))
