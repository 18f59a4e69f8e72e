"""Ahead-of-time proof for TPUs: the true training and serving programs, compiled for a topology without one.

    pip install '.[aot]'
    JAX_PLATFORMS=cpu JAX_DEFAULT_PRNG_IMPL=rbg python -m benchmarks.aot [--models ...] [--topologies ...]

libtpu compiles for a described topology; no array is allocated, nothing runs. One JSON line a model, topology
and program: what a chip holds beside its HBM (the compiler refuses a program that does not fit, and the line
then says what it needed), arithmetic, traffic, every collective, and a roofline. With JAX's own generator,
threefry, dropout compiles ten times as slowly as with the chips' (rbg).

Models: the quickstart as its config has it, batches filled up to the chips; HSTU and StateSpace of 8 layers,
D=1,024, L=4,096, one sequence a chip, over 10^8 items of 32 features, which the fusion projects up to D.
Batches are shared by all chips, and so are the rows of tables (a rule of `Sharding` with both axes); dense
weights are shared and gathered while in use (FSDP).

What is counted and what is estimated: memory is XLA's plan, padding of tiles included. `matmul_flops` are of
the traced program, each loop as often as it runs, over all chips. `xla_flops` and `xla_bytes` are of the
compiled one, on one chip, but count the body of a loop once. `hbm_bytes` are what its instructions read and
write outside of the chip's own memory, loops as often as they run. The roofline divides by the published
peaks and is a bound, not a measurement: `seconds` where compute, memory and network overlap wholly,
`seconds_apart` where not at all. It knows no latency, which long loops of small tiles are made of.

Peaks of a chip: https://cloud.google.com/tpu/docs/v5e, .../v5p, .../v6e. ICI is one direction of all links.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import PartitionSpec

from benchmarks.hlo import Collective, Program
from benchmarks.work import matmul_flops
from stjax.events import Batch, Catalogue, Events, Query, Schema
from stjax.nn import (
    HSTU,
    ConcatFusion,
    ItemEmbed,
    Recommender,
    Retrieval,
    SampledSoftmax,
    StateSpace,
    TimeEmbed,
)
from stjax.nn.base import Interest
from stjax.serving.items import reserved
from stjax.serving.programs import Programs, Weights
from stjax.serving.settings import Shapes
from stjax.training import parse
from stjax.training.experiment import Optimizer, Rules, Sharding
from stjax.training.optimizer import learning_rate, make_optimizer
from stjax.training.setup import open_dataset
from stjax.training.sharding import Layout
from stjax.training.state import make_initial, make_train_step

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.py"
TOPOLOGIES = ("v5e:4x4", "v5p:4x4x4", "v6e:16x16")
PROGRAMS = ("train", "observe", "recommend")
ITEMS, USERS = 10**8, 10**6
LAYERS, WIDTH, LENGTH, FEATURES, NEGATIVES = 8, 1_024, 4_096, 32, 1_024
SERVED, SLOTS, TOP = 8, 16, 100  # users of a call, slots for states, items of an answer
GIB, TOTAL_STEPS = 2**30, 10_000
BY_ALL: Rules = (
    (r"(.*/)?(items|users)/(table|embedding)", (("data", "model"), None)),
    (r"head/bias/bias", (("data", "model"),)),
)


class Chip(NamedTuple):
    """Published figures of a chip: GB of memory, bf16 FLOP/s, bytes/s of memory and of the network."""

    hbm: float
    flops: float
    memory: float
    network: float


CHIPS = {
    "v5e": Chip(16, 197e12, 819e9, 200e9),
    "v5p": Chip(95, 459e12, 2765e9, 600e9),
    "v6e": Chip(32, 918e12, 1640e9, 400e9),
}


@dataclass(frozen=True)
class Case:
    """A model and the data it would see. rows: of a batch on so many chips. served: the catalogue that an
    engine holds, where its rows are others."""

    model: Recommender
    catalogue: Catalogue  # shapes only are read
    length: int
    rows: Callable[[int], int]
    sharding: Sharding
    served: Catalogue | None = None


def quickstart() -> Case:
    """The experiment of the config, on its data, with the rows of tables shared by four chips."""
    sharding = Sharding(model=4, rows_multiple=4)
    experiment = replace(parse([], default=QUICKSTART).experiment, sharding=sharding)
    batching, catalogue = experiment.batching, open_dataset(experiment).catalogue
    size = batching.batch_size
    return Case(
        experiment.model,
        catalogue,
        batching.length,
        lambda n: -(-size // n) * n,
        sharding,
        reserved(catalogue, -len(catalogue.place) % 4),
    )


def large(interest: Interest, features: int, items: int) -> Case:
    """A wide model over a large table; items have neither fields nor places, which would be dense too."""
    model = Recommender(
        items=ItemEmbed(features, attributes=False, place=False),
        encoders={"time": TimeEmbed()},
        fusion=ConcatFusion(WIDTH),
        interest=interest,
        # Uniform negatives: a share of the batch's would need an array of all items on every chip.
        head=Retrieval(objective=SampledSoftmax(NEGATIVES, batch_share=0.0)),
    )
    schema = Schema(items, USERS, epoch=0, place=False)
    catalogue = Catalogue(jax.ShapeDtypeStruct((items, 2), np.float32), schema)
    return Case(model, catalogue, LENGTH, lambda n: n, Sharding(fsdp=True, rules=BY_ALL))


def cases(
    layers: int = LAYERS, features: int = FEATURES, items: int = ITEMS
) -> dict[str, Callable[[], Case]]:
    hstu = HSTU(layers=layers, heads=8, window=LENGTH)
    return {
        "quickstart": quickstart,
        "hstu": partial(large, hstu, features, items),
        "state_space": partial(large, StateSpace(layers=layers, modes=WIDTH), features, items),
    }


class Abstract:
    """The arguments of a case's programs on a topology: shapes with a place, no arrays."""

    def __init__(self, case: Case, devices: list[Any]) -> None:
        self.case, self.layout = case, Layout.of(case.sharding, devices)
        self.chips = len(devices)
        self.optimizer = make_optimizer(Optimizer(), TOTAL_STEPS)
        self.catalogue = self.everywhere(case.catalogue)
        key = jax.eval_shape(lambda: jax.random.key(0))
        self.key = self.everywhere(key)
        rows, length, by_data = case.rows(self.chips), case.length, PartitionSpec("data")
        weight = self.array((rows, length), np.float32, by_data)
        self.batch = Batch(self.events((rows, length + 1), by_data), weight)
        initial = make_initial(case.model, self.optimizer)
        shapes = jax.eval_shape(initial, self.key, self.batch, self.catalogue)
        self.shardings = self.layout.shardings(self.optimizer, shapes)
        self.state = jax.tree.map(self.placed, shapes, self.shardings.state)

    def array(self, shape: tuple[int, ...], dtype: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.layout.sharding(spec))

    def placed(self, x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    def everywhere(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: self.placed(x, self.layout.everywhere), tree)

    def events(self, shape: tuple[int, ...], spec: PartitionSpec) -> Events:
        """Events with all fields of the schema."""
        schema = self.case.catalogue.schema
        ints, floats = (partial(self.array, dtype=dtype, spec=spec) for dtype in (np.int32, np.float32))
        return Events(
            item=ints(shape),
            user=ints(shape),
            time=ints(shape),
            utc_offset=ints(shape),
            place=floats((*shape, 2)),
            valid=self.array(shape, np.bool_, spec),
            categorical={f.name: ints(shape) for f in schema.select("event", "categorical")},
            numeric={f.name: floats(shape) for f in schema.select("event", "numeric")},
            vector={f.name: floats((*shape, f.size)) for f in schema.select("event", "vector")},
        )

    def trace(self, program: str) -> Any:
        """The program, traced."""
        if program == "train":
            rate = learning_rate(Optimizer(), TOTAL_STEPS)
            step: Any = make_train_step(self.case.model, self.optimizer, rate, self.shardings)
            return step.trace(self.key, self.state, self.batch, self.catalogue)
        model, nowhere = self.case.model, PartitionSpec()
        programs: Any = Programs(model, SLOTS - 1, Shapes())
        slots = self.array((SERVED,), np.int32, nowhere)
        if program == "observe":
            events = self.events((SERVED, 1), nowhere)
            return programs.observe.trace(self.states, self.weights, slots, slots, events)
        query = Query.of(self.events((SERVED,), nowhere), model.known)
        return programs.recommend.trace(self.states, self.weights, slots, query, None, None, TOP)

    @property
    def weights(self) -> Weights:
        """As an engine holds them; what has a row for each item lies as the table does."""
        case, shared = self.case, self.state.params["items"]["table"].sharding.spec[0]
        catalogue = case.served or case.catalogue
        items = catalogue.place.shape[0]
        by_rows = partial(self.array, dtype=np.float32, spec=PartitionSpec(shared, None))
        table = by_rows((items, case.model.items.features))
        return Weights(self.state.params, self.everywhere(catalogue), table, by_rows((items, 3)))

    @property
    def states(self) -> Any:
        """States of all slots. Of a large array the first dimension that divides is shared, but not the
        slots: of attention the window, so that a chip writes its own rows and adds up what it read of them.
        (Shared by features, a few lie on each chip, and a TPU fills them up to 128.)"""

        def place(x: Any) -> jax.ShapeDtypeStruct:
            axes: list[Any] = [None] * x.ndim
            dividing = [k for k in range(1, x.ndim) if x.shape[k] % self.chips == 0]
            if dividing and x.size >= self.case.sharding.fsdp_size:
                axes[dividing[0]] = ("data", "model")
            return self.array(x.shape, x.dtype, PartitionSpec(*axes))

        return jax.tree.map(place, jax.eval_shape(lambda: self.case.model.init_state(SLOTS)))


def bytes_of_a_chip(tree: Any) -> int:
    """Of arrays with a place, what one chip holds."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def roofline(chip: Chip, flops: float, memory: float, network: float) -> dict[str, Any]:
    """Of one step of one chip: FLOPs of products, bytes of HBM, bytes sent."""
    parts = {
        "compute": flops / chip.flops,
        "memory": memory / chip.memory,
        "network": network / chip.network,
    }
    most, apart = max(parts.values()), sum(parts.values())
    return {
        **{f"{name}_ms": round(1e3 * s, 3) for name, s in parts.items()},
        "bound": max(parts, key=lambda name: parts[name]),
        "seconds": round(most, 6),
        "seconds_apart": round(apart, 6),
        "mfu": round(parts["compute"] / most, 4) if most else 0.0,
        "mfu_apart": round(parts["compute"] / apart, 4) if apart else 0.0,
    }


def table_sized(
    collectives: list[Collective], table: tuple[int, ...], share: tuple[int, ...]
) -> Literal["table", "share"] | None:
    """Whether any is as large as the table, (V, D), or moves rows of it as a chip holds them."""
    if any(math.prod(c.shape) >= math.prod(table) for c in collectives):
        return "table"
    own, rows = math.prod(share), {table[0], share[0]}
    return "share" if any(math.prod(c.shape) >= own and rows & set(c.shape) for c in collectives) else None


def proof(abstract: Abstract, program: str, chip: Chip) -> dict[str, Any]:
    """What the compiled program says."""
    start = time.perf_counter()
    traced = abstract.trace(program)
    flops = matmul_flops(traced.jaxpr.jaxpr, "tpu")
    lowered = traced.lower(lowering_platforms=("tpu",))
    state, table = abstract.state, abstract.state.params["items"]["table"]
    share = table.sharding.shard_shape(table.shape)
    facts: dict[str, Any] = {
        "chips": abstract.chips,
        "hbm_gib": chip.hbm,
        "parameters_gib": _gib(bytes_of_a_chip(state.params)),
        "matmul_flops": flops,
    }
    if program == "train":
        facts["optimizer_gib"] = _gib(bytes_of_a_chip(state.optimizer))
        facts["batch"] = list(abstract.batch.weight.shape)
    else:
        facts |= {"table_gib": _gib(bytes_of_a_chip(abstract.weights.table)), "users": SERVED}
        facts |= {"states_gib": _gib(bytes_of_a_chip(abstract.states)), "slots": SLOTS}
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        facts |= {"fits": False, "compile_seconds": round(time.perf_counter() - start)}
        return facts | {"refused": refusal(str(error))}
    memory, cost, read = compiled.memory_analysis(), compiled.cost_analysis(), Program(compiled.as_text())
    collectives, moved = read.collectives(), read.hbm_bytes()
    sent = sum(c.sent * c.count for c in collectives)
    return facts | {
        "fits": True,
        "arguments_gib": _gib(memory.argument_size_in_bytes),
        "temporaries_gib": _gib(memory.temp_size_in_bytes),
        "code_gib": _gib(memory.generated_code_size_in_bytes),
        "peak_gib": _gib(memory.peak_memory_in_bytes),
        "xla_flops": cost.get("flops"),
        "xla_bytes": cost.get("bytes accessed"),
        "hbm_bytes": moved,
        "sent_bytes": round(sent),
        "table": list(table.shape),
        "table_sized_collective": table_sized(
            collectives, (abstract.case.catalogue.schema.items, table.shape[1]), share
        ),
        "roofline": roofline(chip, flops / abstract.chips, moved, sent),
        "compile_seconds": round(time.perf_counter() - start),
        "collectives": [_line(c) for c in collectives],
    }


def refusal(message: str) -> str:
    """What a compiler says that found no room: the first lines, without the list of allocations."""
    lines = [line.strip() for line in message.splitlines() if "hbm" in line.lower()]
    return " ".join(lines[:2] or message.splitlines()[:1])[:300]


def _line(c: Collective) -> dict[str, Any]:
    return {"kind": c.kind, "shape": list(c.shape), "bytes": c.bytes, "group": c.group, "count": c.count}


def _gib(size: float) -> float:
    return round(size / GIB, 3)


def describe(topology: str) -> list[Any]:
    """The devices of a topology, none of which is there. Raises RuntimeError without libtpu."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # asks no server about a machine that is not there
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several processes may compile
    try:
        return list(topologies.get_topology_desc(topology, platform="tpu").devices)
    except Exception as error:
        raise RuntimeError(f"no description of TPUs (pip install '.[aot]' for libtpu): {error}") from error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=cases(), default=list(cases()))
    parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES, help="e.g. v5e:4x4")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--layers", type=int, default=LAYERS, help="of the two large models")
    parser.add_argument("--features", type=int, default=FEATURES, help="of their items")
    parser.add_argument("--items", type=int, default=ITEMS, help="of their catalogue")
    options = parser.parse_args()
    versions = {"jax": jax.__version__, "libtpu": version("libtpu")}
    versions["generator"] = jax.config.values["jax_default_prng_impl"]
    for model in options.models:
        case = cases(options.layers, options.features, options.items)[model]()
        size = {"layers": options.layers, "features": options.features} if model != "quickstart" else {}
        for topology in options.topologies:
            chip = CHIPS[topology.partition(":")[0]]
            abstract = Abstract(case, describe(topology))
            for program in options.programs:
                facts = {"benchmark": "aot", "model": model, "topology": topology, "program": program}
                print(json.dumps(facts | versions | size | proof(abstract, program, chip)), flush=True)


if __name__ == "__main__":
    main()
