"""Every part of the library alone: forward, forward with backward, step; work, traffic, state.

    python -m benchmarks.micro [--only PART ...] [--batch 32] [--length 128] [--features 64]

One JSON line per part on sequences of a synthetic city: milliseconds (medians over rounds) for the
parallel form of (B, L) events and for one step of B users; FLOPs and bytes as XLA counts them for the
gradient program; bytes of state per user; parameters. Compare within one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax import nn as library
from stjax.data.city import City
from stjax.data.dataset import Dataset
from stjax.data.pipeline import Batches
from stjax.data.protocols import GlobalTemporal
from stjax.data.sources import SyntheticCity
from stjax.events import Batch, Catalogue, Events
from stjax.nn import Encoder, Fusion, Interest, Recommender, Retrieval
from stjax.nn.space import located
from stjax.training.state import count_parameters

ROUNDS, AT_LEAST = 7, 0.02  # rounds, and seconds that each of them lasts


@dataclass(frozen=True)
class Setting:
    """What the parts read."""

    batch: Batch
    catalogue: Catalogue
    features: int

    @property
    def events(self) -> Events:
        return located(self.batch.events[:, :-1], self.catalogue)

    def random(self, *trailing: int) -> jax.Array:
        return jax.random.normal(jax.random.key(0), (*self.events.item.shape, *trailing))


@dataclass(frozen=True)
class Case:
    """A part with its parallel form, of parameters and inputs, and its step form."""

    kind: str
    name: str
    module: nn.Module
    inputs: tuple[Any, ...]
    method: str | None = None
    state: Any = None
    step: tuple[Any, ...] | None = None


def encoder(name: str, module: Encoder, s: Setting) -> Case:
    first = s.events[:, 0]
    state = module.init_state(first.item.shape[0])
    return Case("encoder", name, module, (s.events, s.catalogue), None, state, (first, s.catalogue))


def fusion(name: str, module: Fusion, s: Setting) -> Case:
    parts = {
        "item": s.random(s.features),
        "time": s.random(32),
        "space": s.random(32),
        "context": s.random(32),
    }
    first = {key: x[:, 0] for key, x in parts.items()}
    state = module.init_state(len(s.batch.weight), tuple(sorted(parts)))
    return Case("fusion", name, module, (parts, s.events), None, state, (first, s.events[:, 0]))


def interest(name: str, module: Interest, s: Setting) -> Case:
    x = s.random(s.features)
    state = module.init_state(len(x), s.features)
    return Case("interest", name, module, (x, s.events), None, state, (x[:, 0], s.events[:, 0]))


def head(name: str, module: Retrieval, s: Setting) -> Case:
    """The loss of a model that has nothing but this head behind one vector per event."""
    model = Recommender(encoders={}, interest=Nothing(), head=module)
    return Case("head", name, model, (s.batch, s.catalogue), "loss")


class Nothing(Interest):
    """The event itself: what a head costs is not hidden behind an interest model."""

    def __call__(self, x: jax.Array, events: Events, train: bool = False) -> jax.Array:
        return x

    def init_state(self, batch: int, features: int) -> Any:
        return ()

    def step(self, state: Any, x: jax.Array, event: Events) -> tuple[Any, jax.Array]:
        return state, x


def measure(case: Case) -> dict[str, Any]:
    """Times and sizes of one part."""
    keys = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    variables = jax.jit(lambda *args: case.module.init(keys, *args, method=case.method))(*case.inputs)

    def forward(variables: Any, *args: Any) -> Any:
        train = {"train": True} if case.method == "loss" else {}
        rngs = {"dropout": jax.random.key(3)}
        out = case.module.apply(variables, *args, method=case.method, rngs=rngs, **train)
        return out[0] if isinstance(out, tuple) else out

    def total(variables: Any, *args: Any) -> jax.Array:
        return jnp.sum(jnp.stack([jnp.sum(x) for x in jax.tree.leaves(forward(variables, *args))]))

    def through(variables: Any, inputs: Any) -> Any:
        """Gradients of the parameters, and of the inputs where they are features and not ids."""
        features, rest = inputs[0], inputs[1:]
        if case.kind in ("fusion", "interest"):
            return jax.grad(total, (0, 1))(variables, features, *rest)
        return jax.grad(total)(variables, *inputs)

    gradient = jax.jit(through).lower(variables, case.inputs).compile()
    cost = gradient.cost_analysis() or {}
    memory = gradient.memory_analysis()
    result = {
        "benchmark": "micro",
        "kind": case.kind,
        "part": case.name,
        "parameters": count_parameters(variables),
        "forward_ms": milliseconds(jax.jit(forward), variables, *case.inputs),
        "gradient_ms": milliseconds(gradient, variables, case.inputs),
        "gradient_mflop": round(cost.get("flops", 0.0) / 1e6, 1),
        "gradient_mbyte": round(cost.get("bytes accessed", 0.0) / 1e6, 1),
        "temporary_mbyte": round(memory.temp_size_in_bytes / 1e6, 1) if memory else None,
    }
    if case.step is not None:

        def step(variables: Any, state: Any, *args: Any) -> Any:
            return case.module.apply(variables, state, *args, method="step")

        users = len(jax.tree.leaves(case.step)[0])
        sizes = sum(x.nbytes for x in jax.tree.leaves(case.state))
        result |= {
            "step_ms": milliseconds(jax.jit(step), variables, case.state, *case.step),
            "state_bytes_per_user": sizes // users,
        }
    return result


def milliseconds(function: Callable[..., Any], *args: Any) -> float:
    """Median over rounds of the mean of a round, after one that compiles and warms up."""
    jax.block_until_ready(function(*args))
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    repeats = max(1, int(AT_LEAST / (time.perf_counter() - start + 1e-9)))
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        jax.block_until_ready([function(*args) for _ in range(repeats)])
        rounds.append((time.perf_counter() - start) / repeats)
    return round(1e3 * statistics.median(rounds), 3)


def setting(batch: int, length: int, features: int) -> Setting:
    """Full sequences of a synthetic city."""
    store = SyntheticCity(City(users=4 * batch, events_per_user=4 * length)).open()
    dataset = Dataset(store, GlobalTemporal()(store))
    batches = Batches(dataset, length=length, batch_size=batch, overlap=0, buckets=None, seed=0)
    return Setting(jax.device_put(batches[0]), jax.device_put(dataset.catalogue), features)


def cases(s: Setting) -> Iterator[Case]:
    """Every part. A new one gets its line here."""
    d, length = s.features, s.events.item.shape[1]
    everywhere = library.SpatioTemporalBias()
    for name, module in {
        "TimeEmbed": library.TimeEmbed(),
        "Time2Vec": library.Time2Vec(),
        "GapEmbed": library.GapEmbed(),
        "WindowCounts": library.WindowCounts(),
        "DecayedCounts": library.DecayedCounts(),
        "RhythmEmbed": library.RhythmEmbed(),
        "SpaceEmbed, space2vec": library.SpaceEmbed(),
        "SpaceEmbed, sphere2vec": library.SpaceEmbed(encoding="sphere2vec"),
        "SpaceEmbed, harmonics": library.SpaceEmbed(encoding="harmonics"),
        "CellEmbed": library.CellEmbed(),
        "MovementEmbed": library.MovementEmbed(),
        "HomeEmbed": library.HomeEmbed(),
        "ContextEmbed": library.ContextEmbed(),
        "ProfileEmbed": library.ProfileEmbed(),
        "UserEmbed": library.UserEmbed(),
    }.items():
        yield encoder(name, module, s)
    for name, module in {
        "ConcatFusion": library.ConcatFusion(d),
        "GatedFusion": library.GatedFusion(d),
        "AttentionFusion": library.AttentionFusion(d),
        "ConvolutionFusion": library.ConvolutionFusion(d),
        "HyperFusion": library.HyperFusion(d),
    }.items():
        yield fusion(name, module, s)
    for name, module in {
        "GRU": library.GRU(),
        "GRU, gated": library.GRU(gates=("time", "distance")),
        "LSTM": library.LSTM(),
        "LSTM, gated": library.LSTM(gates=("time", "distance")),
        "SelfAttention": library.SelfAttention(layers=1, window=length),
        "SelfAttention, rotary": library.SelfAttention(layers=1, window=length, positions="rotary"),
        "SelfAttention, biased": library.SelfAttention(layers=1, window=length, bias=everywhere),
        "HSTU": library.HSTU(layers=1, window=length),
        "HSTU, biased": library.HSTU(layers=1, window=length, bias=everywhere),
        "StateSpace": library.StateSpace(layers=1),
    }.items():
        yield interest(name, module, s)
    for name, module in {
        "softmax": Retrieval(),
        "softmax, distance": Retrieval(distance=library.Distance()),
        "softmax, 4 interests": Retrieval(interests=4),
        "softmax, pointer": Retrieval(pointer=library.Pointer(window=length)),
        "sampled softmax": Retrieval(objective=library.SampledSoftmax()),
        "gBCE": Retrieval(objective=library.GBCE()),
        "in-batch": Retrieval(objective=library.InBatch()),
        "softmax, auxiliary": Retrieval(auxiliary=(library.Auxiliary("category"),)),
    }.items():
        yield head(name, module, s)
    tasks = tuple(library.Task(name, name, "regression") for name in ("click", "purchase", "rating"))
    ranked = s.random(d), jnp.repeat(s.random(d)[:, :, None], 8, axis=2)
    yield Case("head", "ranking, 3 tasks of 8", library.Ranking(tasks), ranked)
    plain = Recommender(encoders={}, fusion=library.ConcatFusion(d), interest=Nothing(), head=Retrieval())
    yield Case("head", "softmax, MetaLearned", library.MetaLearned(plain), (s.batch, s.catalogue), "loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts or kinds, by name")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--features", type=int, default=64)
    args = parser.parse_args()
    s = setting(args.batch, args.length, args.features)
    facts = {"batch": args.batch, "length": args.length, "features": args.features}
    facts |= {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
    for case in cases(s):
        if not args.only or {case.name, case.kind} & set(args.only):
            print(json.dumps(measure(case) | facts), flush=True)


if __name__ == "__main__":
    main()
