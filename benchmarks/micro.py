"""Every part of the library and every operation alone: forward, gradient, step; share of the roofline.

    python -m benchmarks.micro [--only PART ...] [--batch 32] [--length 128] [--features 64]

One JSON line a part on sequences of a synthetic city: milliseconds (medians over rounds) for the parallel
form of (B, L) events, forward and with the gradient, and for one step of B users. `*_mflop`: of matrix
products, those of loops as often as they run. `*_mbyte`: arguments and results, which must move.
`*_share`: of the roofline that these two have on this machine, whose fastest product and copy are measured
first, in the same run. Sines, exponentials and gathers count nothing there, so what works by them has a small
share; above 1 are small things that stay in a cache, which is faster than the memory. Further: temporary
memory, bytes of state per user, parameters; on accelerators `*_mfu` and `*_hbm_share` of published peaks, by
the device's own time. Compare within one run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.device_time import facts as device_facts
from benchmarks.device_time import traced_seconds
from benchmarks.micro_ops import Op, ops
from benchmarks.micro_parts import Case, cases, setting
from benchmarks.work import Machine, matmul_flops, moved_bytes, needed_bytes, seconds
from stjax.training.state import count_parameters

CALLS = 20  # in a trace of an accelerator


def timed(name: str, machine: Machine, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """Time, work and share of one program."""
    traced = jax.jit(function).trace(*args)
    compiled = traced.lower().compile()
    taken, flops, moved = seconds(compiled, *args), matmul_flops(traced.jaxpr.jaxpr), needed_bytes(compiled)
    memory = compiled.memory_analysis()
    busy = traced_seconds(lambda: jax.block_until_ready([compiled(*args) for _ in range(CALLS)]))
    own = busy and busy / CALLS
    device = device_facts(own, flops, moved_bytes(compiled), jax.devices()[0].device_kind)
    return {
        f"{name}_ms": _ms(taken),
        f"{name}_mflop": round(flops / 1e6, 1),
        f"{name}_mbyte": round(moved / 1e6, 1),
        f"{name}_share": machine.share(taken, flops, moved),
        f"{name}_temporary_mbyte": round(memory.temp_size_in_bytes / 1e6, 1) if memory else None,
        **{f"{name}_{key}": value for key, value in device.items()},
    }


def _ms(taken: float) -> float:
    return round(1e3 * taken, 3)


def measure(case: Case, machine: Machine) -> dict[str, Any]:
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

    result = {"benchmark": "micro", "kind": case.kind, "part": case.name}
    result |= {"parameters": count_parameters(variables)}
    result |= timed("forward", machine, forward, variables, *case.inputs)
    result |= timed("gradient", machine, through, variables, case.inputs)
    if case.step is not None:

        def step(variables: Any, state: Any, *args: Any) -> Any:
            return case.module.apply(variables, state, *args, method="step")

        users = len(jax.tree.leaves(case.step)[0])
        sizes = sum(x.nbytes for x in jax.tree.leaves(case.state))
        result |= {
            "step_ms": _ms(seconds(jax.jit(step), variables, case.state, *case.step)),
            "state_bytes_per_user": sizes // users,
        }
    return result


def measure_op(op: Op, machine: Machine) -> dict[str, Any]:
    """An operation forward, and with the gradient to its first `differentiable` arguments."""
    result: dict[str, Any] = {"benchmark": "micro", "kind": "op", "part": op.name}
    result |= timed("forward", machine, op.function, *op.inputs)
    if op.differentiable:

        def total(*args: Any) -> jax.Array:
            return sum((jnp.sum(x) for x in jax.tree.leaves(op.function(*args))), start=jnp.float32(0))

        result |= timed("gradient", machine, jax.grad(total, tuple(range(op.differentiable))), *op.inputs)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts or kinds, by name")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--features", type=int, default=64)
    args = parser.parse_args()
    s, machine = setting(args.batch, args.length, args.features), Machine.measured()
    facts = {"batch": args.batch, "length": args.length, "features": args.features}
    facts |= {"jax": jax.__version__, "device": jax.devices()[0].device_kind, **machine.facts()}

    def chosen(part: Case | Op) -> bool:
        return not args.only or bool({part.name, part.kind} & set(args.only))

    for case in filter(chosen, cases(s)):
        print(json.dumps(measure(case, machine) | facts), flush=True)
    for op in filter(chosen, ops(args.batch, args.length, args.features)):
        print(json.dumps(measure_op(op, machine) | facts), flush=True)


if __name__ == "__main__":
    main()
