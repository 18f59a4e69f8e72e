"""What `benchmarks.micro` measures of the library: every encoder, fusion, interest model and head."""

from __future__ import annotations

from collections.abc import Iterator
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
        "Mean": library.Mean(),
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
