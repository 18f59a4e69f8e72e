"""Memory of attention over long histories: temporary bytes of one layer, forward and backward, by length.

    python -m benchmarks.memory [--longest 16384]

Compiles only; nothing runs. One JSON line a layer and length (B=1, D=64, H=2, window = L, a bias with time
gaps, distances and power laws): in tiles as the library does it, and up to 4,096 in the plain form, whose
(B, H, L, L) arrays grow with the square of L.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp

from stjax.events import Events
from stjax.nn.base import Interest
from stjax.nn.interest.attention import SelfAttention
from stjax.nn.interest.bias import SpatioTemporalBias
from stjax.nn.interest.hstu import HSTU
from stjax.ops import blocked

BATCH, FEATURES = 1, 64
LENGTHS = (256, 1_024, 4_096, 16_384)
PLAIN = 4_096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--longest", type=int, default=LENGTHS[-1], help="leave out lengths above it")
    longest = parser.parse_args().longest
    bias = SpatioTemporalBias(gap_buckets=26, distance_buckets=16, power_law=True)
    facts = {"benchmark": "memory", "batch": BATCH, "features": FEATURES, "jax": jax.__version__}
    facts["device"] = jax.devices()[0].device_kind
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
                line = {"layer": kind.__name__, "form": form, "length": length}
                line |= {"temporary_bytes": size, "bytes_per_event": round(size / length)}
                print(json.dumps(facts | line), flush=True)


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
    memory = compiled.memory_analysis()
    if memory is None:
        raise RuntimeError(f"{jax.devices()[0].device_kind} does not say how much memory a program takes")
    return memory.temp_size_in_bytes


if __name__ == "__main__":
    main()
