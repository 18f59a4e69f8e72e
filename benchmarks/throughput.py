"""Training steps of sequence models: targets a second, beside PyTorch's where a peer is given.

    python -m benchmarks.throughput [--rounds 9] [--only CASE ...] [--peer PYTHON_WITH_TORCH]

Batches of 128 sequences of random items, all positions valid, 3,400 items, sampled softmax with 128
negatives drawn uniformly, AdamW, dropout 0.2, float32, as `train.py` makes the step.

hstu-200: two blocks, D=50, one head, 200 events. intervals-50: attention with a bias of time intervals (as
TiSASRec), two blocks, D=50, one head, 50 events. gru-*, attention-*: one GRU layer, or two pre-norm attention
blocks with two heads and a feed-forward network four times as wide; D=64, 50 and 200 events.

The peer (`peers/torch_step.py`) trains models of the same sizes: the last four by PyTorch's own modules
(`nn.GRU`, `scaled_dot_product_attention`), the first two by the formulas of HSTU, with a bias of lags and of
time gaps as ours, and of TiSASRec in plain PyTorch operations. It waits while we measure: rounds alternate.
Prints a JSON line a case: medians over rounds, and the ratio of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import KEEPS_FREED_MEMORY
from benchmarks.device_time import facts as device_facts
from benchmarks.device_time import traced_seconds
from benchmarks.work import matmul_flops, moved_bytes
from stjax.events import FIRST, Batch, Catalogue, Events, Schema
from stjax.nn import (
    GRU,
    HSTU,
    ConcatFusion,
    Interest,
    ItemEmbed,
    Recommender,
    Retrieval,
    SampledSoftmax,
    SelfAttention,
    SpatioTemporalBias,
)
from stjax.training import Optimizer
from stjax.training.optimizer import learning_rate, make_optimizer
from stjax.training.state import count_parameters, make_initial, make_train_step

ROWS, ITEMS, NEGATIVES, DROPOUT, BATCHES = 128, 3_400, 128, 0.2, 8
PEER = Path(__file__).parent / "peers" / "torch_step.py"


@dataclass(frozen=True)
class Case:
    """A model of a size. peer: PyTorch's counterpart."""

    interest: Interest
    features: int
    length: int
    peer: str


def attention(length: int) -> SelfAttention:
    return SelfAttention(layers=2, heads=2, window=length, dropout=DROPOUT)


CASES = {
    "hstu-200": Case(HSTU(layers=2, heads=1, window=200, dropout=DROPOUT), 50, 200, "hstu"),
    "intervals-50": Case(
        SelfAttention(
            layers=2,
            heads=1,
            window=50,
            dropout=DROPOUT,
            expansion=1,
            bias=SpatioTemporalBias(gap_buckets=26, distance_buckets=0),
        ),
        50,
        50,
        "intervals",
    ),
    "gru-50": Case(GRU(dropout=DROPOUT), 64, 50, "gru"),
    "gru-200": Case(GRU(dropout=DROPOUT), 64, 200, "gru"),
    "attention-50": Case(attention(50), 64, 50, "attention"),
    "attention-200": Case(attention(200), 64, 200, "attention"),
}


class Ours:
    """The jitted step of a case and what it trains on."""

    def __init__(self, case: Case, rows: int = ROWS) -> None:
        model = Recommender(
            items=ItemEmbed(case.features),
            encoders={},
            fusion=ConcatFusion(case.features),
            interest=case.interest,
            head=Retrieval(objective=SampledSoftmax(NEGATIVES, batch_share=0.0)),
            dropout=DROPOUT,
        )
        schema = Schema(ITEMS + FIRST, 1 + FIRST, 345_600, place=False)
        place = np.full((schema.items, 2), np.nan, np.float32)
        self.catalogue = jax.device_put(Catalogue(place, schema))
        random = np.random.default_rng(0)
        self.batches = [jax.device_put(batch(random, case.length, rows)) for _ in range(BATCHES)]
        settings, self.key = Optimizer(), jax.random.key(0)
        optimizer = make_optimizer(settings, 1000)
        self.state = make_initial(model, optimizer)(self.key, self.batches[0], self.catalogue)
        step: Any = make_train_step(model, optimizer, learning_rate(settings, 1000))
        traced = step.trace(self.key, self.state, self.batches[0], self.catalogue)
        self.flops, self.step = matmul_flops(traced.jaxpr.jaxpr), traced.lower().compile()

    def seconds(self) -> float:
        """Of one step, a mean over all batches."""
        start = time.perf_counter()
        for one in self.batches:
            self.state, _ = self.step(self.key, self.state, one, self.catalogue)
        jax.block_until_ready(self.state)
        return (time.perf_counter() - start) / BATCHES


class Peer:
    """PyTorch's step of a case, in a process of its own that measures a round when told to."""

    def __init__(self, python: str, case: Case) -> None:
        sizes = {"kind": case.peer, "features": case.features, "length": case.length, "dropout": DROPOUT}
        sizes |= {"rows": ROWS, "items": ITEMS, "negatives": NEGATIVES, "steps": BATCHES}
        command = [python, str(PEER), json.dumps(sizes | {"threads": os.cpu_count()})]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts = json.loads(self._line())

    def seconds(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("round\n")
        self.process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the peer ended with {self.process.wait()}")
        return line


def batch(random: np.random.Generator, length: int, rows: int) -> Batch:
    shape = (rows, length + 1)
    events = Events(
        item=random.integers(FIRST, ITEMS + FIRST, shape).astype(np.int32),
        user=np.full(shape, FIRST, np.int32),
        time=np.cumsum(random.integers(60, 86_400, shape), axis=1).astype(np.int32),
        utc_offset=np.zeros(shape, np.int32),
        place=np.full((*shape, 2), np.nan, np.float32),
        valid=np.ones(shape, bool),
    )
    return Batch(events, np.ones((rows, length), np.float32))


def measure(name: str, case: Case, rounds: int, python: str | None) -> dict[str, Any]:
    ours = Ours(case)
    peer = Peer(python, case) if python else None
    for _ in range(2):  # not counted
        ours.seconds()
        if peer:
            peer.seconds()
    mine, theirs = [], []
    for _ in range(rounds):
        mine.append(ours.seconds())
        if peer:
            theirs.append(peer.seconds())
    targets, memory = ROWS * case.length, ours.step.memory_analysis()
    line = {
        "benchmark": "throughput",
        "case": name,
        "targets_per_second": round(targets / statistics.median(mine)),
        "milliseconds": round(1e3 * statistics.median(mine), 2),
        "milliseconds_each": [round(1e3 * t, 1) for t in mine],
        "temporary_bytes": memory.temp_size_in_bytes if memory else None,
        "parameters": count_parameters(ours.state.params),
    }
    busy = traced_seconds(ours.seconds)
    own, kind = busy and busy / BATCHES, jax.devices()[0].device_kind
    line |= device_facts(own, ours.flops, moved_bytes(ours.step), kind)
    if peer:
        peer.close()
        line |= {
            "peer_targets_per_second": round(targets / statistics.median(theirs)),
            "peer_milliseconds": round(1e3 * statistics.median(theirs), 2),
            "peer_milliseconds_each": [round(1e3 * t, 1) for t in theirs],
            "times_as_fast_as_the_peer": round(statistics.median(theirs) / statistics.median(mine), 3),
            **peer.facts,
        }
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has torch")
    args = parser.parse_args()
    facts = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "cpus": os.cpu_count()}
    for name in args.only:
        line = measure(name, CASES[name], args.rounds, args.peer)
        print(json.dumps(line | facts | {"keeps_freed_memory": KEEPS_FREED_MEMORY}), flush=True)


if __name__ == "__main__":
    main()
