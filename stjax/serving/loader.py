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
        texts = [Path(folder, f"{name}.json").read_bytes() for name in ("schema", "vocabulary")]
        self.about, words = map(json.loads, texts)
        self.items, self.first = words["item"], self.about["ids"]["first"]
        self.ids = {name: {w: i for i, w in enumerate(own, self.first)} for name, own in words.items()}
        self.weights = device_put(dict(np.load(Path(folder, "weights.npz"))))
        files = [Path(folder, f"{name}.bin").read_bytes() for name in ("cold", "observe", "recommend")]
        cold, self.reads, self.answers = [jit(export.deserialize(bytearray(f)).call) for f in files]
        self.users, self.new = {}, (cold(np.zeros(1, np.int32)), 0, frozenset())

    def observe(self, event):
        """Read the next event of a user; those of one user must come in the order of time."""
        state, offset, seen = self.users.get(event["user"], self.new)
        event = {"utc_offset": offset, "valid": True} | event
        state = self.reads(self.weights, state, dict(self._columns("events", event)))
        self.users[event["user"]] = state, event["utc_offset"], seen | {event["item"]}

    def recommend(self, request, k=10):
        """The k best items as (item, log-probability), the best first.

        Of the request's list "allow" only, none of "deny", and with "exclude_seen" none that the user had.
        """
        state, offset, seen = self.users.get(request["user"], self.new)
        seen = seen if request.get("exclude_seen") else ()
        left = {*request.get("allow", self.items)}.difference(request.get("deny", ()), seen)
        # What is not known has the id 1, which is never answered.
        allowed = np.isin(np.arange(self.about["items"]), [self.ids["item"].get(item, 1) for item in left])
        columns = dict(self._columns("query", {"utc_offset": offset} | request))
        (scores,), (ids,) = (x.tolist() for x in self.answers(self.weights, state, columns, allowed[None]))
        return [(self.items[i - self.first], s) for i, s in zip(ids, scores, strict=True) if s > -np.inf][:k]

    def _columns(self, kind, row):
        row = {"context": {}} | row | {"time": int(row["time"] // 1) - self.about["epoch"]}
        for name, own in self.about[kind].items():
            value = row["context"].get(own["field"]) if "field" in own else row.get(name)
            if "vocabulary" in own:
                value = self.ids[own["vocabulary"]].get(value, 1) if value else 0
            yield name, np.full((1, *own["shape"][1:]), np.nan if value is None else value, own["dtype"])


if __name__ == "__main__":
    served = Served(Path(__file__).parent)
    somebody = {"user": "somebody", "time": served.about["epoch"] + 3_600}
    print(*served.recommend(somebody, k=3))
    served.observe(somebody | {"item": served.items[0]})
    print(*served.recommend(somebody, k=3))
