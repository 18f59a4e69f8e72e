"""Memory of compiled programs: attention by length, losses by catalogue, training steps by batch.

    python -m benchmarks.memory [length] [catalogue] [batch] [--longest 16384]

Compiles only; nothing runs. One JSON line a program, with the temporary bytes that XLA reserves beside
arguments and results.

length: one layer, forward and backward (B=1, D=64, H=2, window = L, a bias with time gaps, distances and
power laws): in tiles as the library does it, and up to 4,096 in the plain form, whose (B, H, L, L) arrays
grow with the square of L. catalogue: the gradient of losses over 6,400 positions, D=64, for 10^4 to 10^6
items. batch: the steps of `benchmarks.throughput`, of 8 to 512 sequences of 50 events.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks.throughput import CASES, Ours
from stjax.events import FIRST, Events
from stjax.nn.base import Interest
from stjax.nn.interest.attention import SelfAttention
from stjax.nn.interest.bias import SpatioTemporalBias
from stjax.nn.interest.hstu import HSTU
from stjax.ops import blocked, losses, softmax

BATCH, FEATURES = 1, 64
LENGTHS = (256, 1_024, 4_096, 16_384)
PLAIN = 4_096
CATALOGUES, POSITIONS = (10**4, 10**5, 10**6), 6_400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("against", nargs="*", choices=[[], "length", "catalogue", "batch"], default=[])
    parser.add_argument("--longest", type=int, default=LENGTHS[-1], help="leave out lengths above it")
    args = parser.parse_args()
    chosen = args.against or ["length", "catalogue", "batch"]
    if "length" in chosen:
        by_length(args.longest)
    if "catalogue" in chosen:
        by_catalogue()
    if "batch" in chosen:
        by_batch()


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


def temporary(compiled: Any) -> int:
    memory = compiled.memory_analysis()
    if memory is None:
        raise SystemExit(f"{jax.devices()[0].device_kind} does not say how much memory a program takes")
    return memory.temp_size_in_bytes


def show(line: dict[str, Any]) -> None:
    facts = {"benchmark": "memory", "features": FEATURES, "jax": jax.__version__}
    print(json.dumps(facts | line | {"device": jax.devices()[0].device_kind}), flush=True)


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
