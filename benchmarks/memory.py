"""Memory of compiled programs: attention by length, losses by catalogue, training steps by batch.

    python -m benchmarks.memory [length] [catalogue] [batch] [precision] [--longest L] [--topology T]

Compiles only; nothing runs. One JSON line a program, with the temporary bytes that XLA reserves beside
arguments and results.

length: one layer, forward and backward (B=1, D=64, H=2, window = L, a bias with time gaps, distances and
power laws): in tiles as the library does it, and up to 4,096 in the plain form, whose (B, H, L, L) arrays
grow with the square of L. catalogue: the gradient of losses over 6,400 positions, D=64, for 10^4 to 10^6
items. batch: the steps of `benchmarks.throughput`, of 8 to 512 sequences of 50 events. precision: the
gradient of a model of four layers, 32 sequences of 512 events, D=256, in float32 and bfloat16, with and
without rematerialisation; with --topology for one chip of a TPU that need not be there (extra `aot`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.aot import describe
from benchmarks.throughput import CASES, ITEMS, Ours, batch
from stjax.events import FIRST, Catalogue, Events, Schema
from stjax.nn import GRU, ConcatFusion, ItemEmbed, Recommender, Retrieval, SampledSoftmax, StateSpace
from stjax.nn.base import Interest
from stjax.nn.interest.attention import SelfAttention
from stjax.nn.interest.bias import SpatioTemporalBias
from stjax.nn.interest.hstu import HSTU
from stjax.ops import blocked, losses, softmax

BATCH, FEATURES = 1, 64
LENGTHS = (256, 1_024, 4_096, 16_384)
PLAIN = 4_096
ALL = ["length", "catalogue", "batch", "precision"]
CATALOGUES, POSITIONS = (10**4, 10**5, 10**6), 6_400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "against", nargs="*", choices=[[], *ALL], default=[], metavar="AGAINST", help=", ".join(ALL)
    )
    parser.add_argument("--longest", type=int, default=LENGTHS[-1], help="leave out lengths above it")
    parser.add_argument("--topology", help="of the chip that `precision` is compiled for, such as v5e:2x2")
    args = parser.parse_args()
    chosen = args.against or ALL
    if "length" in chosen:
        by_length(args.longest)
    if "catalogue" in chosen:
        by_catalogue()
    if "batch" in chosen:
        by_batch()
    if "precision" in chosen:
        by_precision(args.topology)


def by_catalogue() -> None:
    floats = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    target = jax.ShapeDtypeStruct((POSITIONS,), jnp.int32)
    drawn = jax.ShapeDtypeStruct((1_024,), jnp.int32)

    def full(h, table, bias, weight, target, drawn) -> jax.Array:
        return softmax.catalogue_loss(h, table, bias, target, weight, FIRST)

    def sampled(h, table, bias, weight, target, drawn) -> jax.Array:
        log_prob = losses.sampled_log_prob(h, table, bias, target, drawn, jnp.zeros(drawn.shape), FIRST)
        return -losses.weighted_sum(log_prob, weight)

    for name, loss in (("full softmax", full), ("sampled softmax, 1,024 draws", sampled)):
        for items in CATALOGUES:
            shapes = ((POSITIONS, FEATURES), (items, FEATURES), (items,), (POSITIONS,))
            compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*map(floats, shapes), target, drawn).compile()
            line = {"against": "catalogue", "loss": name, "items": items, "positions": POSITIONS}
            show(line | {"table_bytes": 4 * items * FEATURES, "temporary_bytes": temporary(compiled)})


def by_batch() -> None:
    for name in ("gru-50", "attention-50", "intervals-50"):
        for rows in (8, 32, 128, 512):
            step = Ours(CASES[name], rows).step
            line = {"against": "batch", "case": name, "sequences": rows, "length": CASES[name].length}
            show(line | {"temporary_bytes": temporary(step)})


def by_precision(topology: str | None) -> None:
    device = describe(topology)[0] if topology else jax.devices()[0]
    place = jax.sharding.SingleDeviceSharding(device)
    rows, length, width = 32, 512, 256
    schema = Schema(ITEMS + FIRST, 1 + FIRST, 345_600, place=False)
    catalogue = Catalogue(np.full((schema.items, 2), np.nan, np.float32), schema)
    inputs = batch(np.random.default_rng(0), length, rows), catalogue
    for name, interest in {
        "GRU": GRU(layers=4),
        "SelfAttention": SelfAttention(layers=4, heads=4, window=length),
        "HSTU": HSTU(layers=4, heads=4, window=length),
        "StateSpace": StateSpace(layers=4),
    }.items():
        for precision in ("float32", "bfloat16"):
            for remat in (False, True):
                model = Recommender(
                    ItemEmbed(width),
                    encoders={},
                    fusion=ConcatFusion(width),
                    interest=dataclasses.replace(interest, remat=remat),
                    head=Retrieval(objective=SampledSoftmax(128)),
                    precision=precision,
                )

                def loss(params: Any, key: jax.Array, *inputs: Any, model: Any = model) -> jax.Array:
                    made = model.apply(
                        {"params": params}, *inputs, True, method="loss", rngs={"dropout": key}
                    )
                    return made[0]

                key = jax.eval_shape(lambda: jax.random.key(0))
                params = jax.eval_shape(partial(model.init, method="loss"), key, *inputs)["params"]
                args = jax.tree.map(
                    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), (params, key, *inputs)
                )
                size = temporary(jax.jit(jax.grad(loss)).lower(*args).compile())
                line = {"against": "precision", "model": name, "precision": precision, "remat": remat}
                show(line | {"temporary_bytes": size, "device": topology or device.device_kind})


def temporary(compiled: Any) -> int:
    memory = compiled.memory_analysis()
    if memory is None:
        raise SystemExit(f"{jax.devices()[0].device_kind} does not say how much memory a program takes")
    return memory.temp_size_in_bytes


def show(line: dict[str, Any]) -> None:
    facts = {"benchmark": "memory", "features": FEATURES, "jax": jax.__version__}
    print(json.dumps(facts | {"device": jax.devices()[0].device_kind} | line), flush=True)


def by_length(longest: int) -> None:
    bias = SpatioTemporalBias(gap_buckets=26, distance_buckets=16, power_law=True)
    for kind in (SelfAttention, HSTU):
        for length in (n for n in LENGTHS if n <= longest):
            model = kind(layers=1, heads=2, window=length, bias=bias)
            for form, plain_length in (("tiles", 0), ("plain", PLAIN)):
                if form == "plain" and length > PLAIN:
                    continue
                # Of CPU and of other platforms, none by strips.
                at = plain_length
                with mock.patch.multiple(blocked, PLAIN_LENGTH=at, CPU_PLAIN_LENGTH=at, STRIPS_LENGTH=at):
                    size = temporary_bytes(model, BATCH, length, FEATURES)
                line = {
                    "against": "length",
                    "batch": BATCH,
                    "layer": kind.__name__,
                    "form": form,
                    "length": length,
                }
                line |= {"temporary_bytes": size, "bytes_per_event": round(size / length)}
                show(line)


def temporary_bytes(model: Interest, batch: int, length: int, features: int) -> int:
    """What the compiled gradient to input and parameters reserves beside its arguments and results."""
    shape = (batch, length)
    floats, ints = (partial(jax.ShapeDtypeStruct, dtype=dtype) for dtype in (jnp.float32, jnp.int32))
    events = Events(
        item=ints(shape),
        user=ints(shape),
        time=ints(shape),
        utc_offset=ints(shape),
        place=floats((*shape, 2)),
        valid=jax.ShapeDtypeStruct(shape, bool),
    )
    x = floats((*shape, features))
    variables = jax.eval_shape(model.init, jax.random.key(0), x, events)

    def loss(variables, x: jax.Array, events: Events) -> jax.Array:
        return model.apply(variables, x, events).sum()  # pyright: ignore

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(variables, x, events).compile()
    return temporary(compiled)


if __name__ == "__main__":
    main()
